"""Crawls whose frontier is in Redis, against a real redis-server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from chaos_redis import CRAWL_SPIDER, SPIDER, Site, run
from crawls import FEEDS, ITEMS, STATES, Crawl, crawl, start
from redis_server import RedisServer, redis_cluster, redis_server
from units_crawls import SETTINGS as UNITS_SETTINGS
from units_crawls import SPIDER as UNITS_SPIDER
from units_crawls import arguments_of, report
from units_site import Site as UnitsSite

from scrapy_state.redis.inspect import read_frontier

pytestmark = pytest.mark.long

PREFIX = "scrapy_state:{frontier}:"


def frontier_crawl(folder: Path, server: RedisServer, site: Site, source: str = SPIDER, **settings: Any) -> Crawl:
    site.asked.clear()
    chosen = {"SCHEDULER": "scrapy_state.redis.Scheduler", "STATE_REDIS_URL": server.url, "FEEDS": {}, "LOG_LEVEL": "INFO"}
    return crawl(folder, source, "-a", f"site={site.url}", settings=chosen | settings)


def test_crawl_ends_by_itself_and_leaves_nothing(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """A crawl crawls every page once, acknowledges all, and ends when nothing is pending. If it is started again, it does
    nothing."""
    feeds = {"items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"}}
    crawled = frontier_crawl(tmp_path, server, site, FEEDS=feeds, STATE_REDIS_FILTER_START=True)
    assert crawled.code == 0
    assert sorted(site.asked.elements()) == list(range(60))
    assert not crawled.lines("] ERROR")
    assert not crawled.lines("no state item")  # the state is the frontier
    assert crawled.lines("'scheduler/dequeued/redis': 60")
    assert crawled.lines("'scheduler/enqueued/redis': 60")
    assert crawled.lines("'dupefilter/filtered'")
    found = read_frontier(server.url, PREFIX)
    assert (found.pending, found.leased, found.seen) == (0, {}, 60)
    assert not server.client().keys("*selfcheck*")
    again = frontier_crawl(tmp_path, server, site, FEEDS=feeds, STATE_REDIS_FILTER_START=True)
    assert again.code == 0
    assert not site.asked
    items = [line for path in (tmp_path / "items").glob("*") for line in path.read_text().splitlines()]
    assert len(items) == 120


def test_a_finished_crawl_says_so_and_may_be_cleared(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """The second run of a finished crawl says what it leaves out and how to begin anew. STATE_REDIS_CLEAR = "start" begins
    anew, but keeps pushed URLs; "finished" leaves nothing behind."""
    assert frontier_crawl(tmp_path, server, site).lines("0 requests seen by earlier runs")
    again = frontier_crawl(tmp_path, server, site)
    assert again.code == 0
    assert again.lines("0 requests pending, 60 requests seen by earlier runs, other workers: 0")
    [line] = again.lines("the crawl of this frontier is finished")
    assert "scrapy state frontier frontier --clear" in line
    assert not +site.asked
    server.client().rpush(f"{PREFIX}urls", f"{site.url}/59")
    anew = frontier_crawl(tmp_path, server, site, STATE_REDIS_CLEAR="start")
    assert site.asked == Counter([*range(60), 59])
    assert not anew.lines("the crawl of this frontier is finished")
    stopped = frontier_crawl(tmp_path, server, site, STATE_REDIS_CLEAR="start", CLOSESPIDER_PAGECOUNT=10)
    assert stopped.code == 0
    assert read_frontier(server.url, PREFIX).pending
    before = +site.asked
    finished = frontier_crawl(tmp_path, server, site, STATE_REDIS_CLEAR="finished")
    assert before + site.asked == Counter(range(60))
    assert finished.lines("its frontier scrapy_state:{frontier}: has been removed")
    assert server.client().keys() == []


def test_a_crawl_in_a_cluster(tmp_path: Path, site: Site) -> None:
    """A crawl whose frontier is on one node of a Redis Cluster works as usual, and the command finds the frontier there."""
    with redis_cluster(2) as nodes:
        url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
        crawled = frontier_crawl(tmp_path, nodes[0], site, STATE_REDIS_URL=url)
        assert crawled.code == 0, crawled.log
        assert site.asked == Counter(range(60))
        assert not crawled.lines("] ERROR")
        assert sorted(bool(node.client().dbsize()) for node in nodes) == [False, True]
        assert "0 requests pending, 0 leased, 60 seen" in command(tmp_path, "frontier", "spider.py").stdout
        line = refusal(frontier_crawl(tmp_path, nodes[0], site, STATE_REDIS_URL=url, STATE_REDIS_URLS_KEY="elsewhere"))
        assert "STATE_REDIS_URLS_KEY is 'elsewhere', which lies in another slot" in line
        assert "put '{frontier}' into it" in line


def test_sigterm_gives_back_and_the_next_run_completes(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """A crawl that is stopped gives its leases back at once; the next run crawls just the rest."""
    site.asked.clear()
    settings = {"SCHEDULER": "scrapy_state.redis.Scheduler", "STATE_REDIS_URL": server.url, "FEEDS": {}, "DOWNLOAD_DELAY": 0.05}
    process = start(tmp_path, SPIDER, "-a", f"site={site.url}", settings=settings)
    deadline = time.monotonic() + 30
    while sum(site.asked.values()) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert read_frontier(server.url, PREFIX).leased == {}
    assert read_frontier(server.url, PREFIX).pending > 0
    asked = +site.asked
    assert frontier_crawl(tmp_path, server, site, STATE_REDIS_FILTER_START=True).code == 0
    assert sorted((asked + site.asked).elements()) == list(range(60)), log


@pytest.mark.parametrize(("workers", "seed"), [(1, 1), (2, 2)])
def test_kill_loses_nothing(tmp_path: Path, workers: int, seed: int) -> None:
    """After SIGKILL of a worker every page is crawled, no item is missing, and the crawl ends. (make chaos-redis kills many
    more.)"""
    with redis_server(appendonly="yes") as server:
        outcome = run(
            tmp_path, server, workers=workers, kills=1, seed=seed, pages=250, stops=workers == 2, restart_redis=workers == 1,
            delay=0.02,
        )  # fmt: skip
    print(f"seed {seed}: {outcome}")
    assert not outcome.wrong
    assert outcome.kills == 1
    assert set(outcome.codes) == {0}


def test_crawl_spider_loses_nothing(tmp_path: Path, server: RedisServer) -> None:
    """A CrawlSpider's links, with a date in meta, are in Redis. A link that can't be stored keeps its page leased: after a kill
    that page is crawled again, and in the end every page and item is there."""
    site = Site(13, html=True)
    site.held = {3}  # can't be stored; page 0 links to it
    feeds = {"items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"}}
    settings = {"STATE_INTERVAL": 0.1, "STATE_REDIS_LEASE_TIMEOUT": 1, "FEEDS": feeds, "LOG_LEVEL": "INFO"}
    redis = {"SCHEDULER": "scrapy_state.redis.Scheduler", "STATE_REDIS_URL": server.url}
    process = start(tmp_path, CRAWL_SPIDER, "-a", f"site={site.url}", settings=redis | settings)
    try:
        deadline = time.monotonic() + 30
        while len(+site.asked) < 10 or sum(read_frontier(server.url, PREFIX).leased.values()) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        _, log = process.communicate()
        assert "can't be stored (JSON has no form for builtins.object)" in log
        assert site.asked == Counter(range(10))
        site.held.clear()
        crawled = frontier_crawl(tmp_path, server, site, CRAWL_SPIDER, **settings)
    finally:
        process.kill()
        site.close()
    assert crawled.code == 0
    assert site.asked == Counter((0, 3, 10, 11, 12))
    assert crawled.lines("2 requests could not be stored and stayed in this worker's memory; 0 of them are not done")
    items = [json.loads(line) for path in tmp_path.glob("items/*") for line in path.read_text().splitlines()]
    assert {(item["page"], item["n"]) for item in items} == {(page, number) for page in range(13) for number in range(2)}


SHAPES = """
import scrapy

class FrontierSpider(scrapy.Spider):
    name = "frontier"

    async def start(self):
        yield scrapy.Request(f"{self.site}/50", lambda response: {"page": "lambda"})
        yield scrapy.Request(f"{self.site}/51", self.good, errback=self.bad, cb_kwargs={"key": (1, 2)}, meta={"n": {3: b"x"}})
        yield scrapy.Request("http://127.0.0.1:1/0", self.good, errback=self.bad, meta={"max_retry_times": 1})
        yield scrapy.Request(f"{self.site}/52", self.broken)

    def good(self, response, key):
        yield {"page": "good", "key": repr(key), "meta": repr(response.meta["n"])}

    def bad(self, failure):
        yield {"page": "bad"}

    def broken(self, response):
        raise ValueError("as it happens")

class Print:
    def process_item(self, item):
        print("ITEM", dict(item))
        return item
"""


def test_callbacks_errbacks_and_what_stays_in_memory(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """Callbacks, errbacks and arguments are kept. A request that can't be stored is crawled from memory, counted, and logged
    once. A callback that raises does not keep the crawl from ending."""
    source = SHAPES.replace('print("ITEM", dict(item))', '__import__("logging").info("ITEM %s", dict(item))')
    crawled = frontier_crawl(tmp_path, server, site, source, ITEM_PIPELINES={"spider.Print": 1})
    assert crawled.code == 0
    items = sorted(line.partition("ITEM ")[2] for line in crawled.lines("ITEM "))
    assert items == ["{'page': 'bad'}", "{'page': 'good', 'key': '(1, 2)', 'meta': \"{3: b'x'}\"}", "{'page': 'lambda'}"]
    assert crawled.lines("'scheduler/unserializable': 1")
    assert len(crawled.lines("can't be stored")) == 1
    assert crawled.lines("1 requests could not be stored and stayed in this worker's memory; 0 of them are not done")
    assert read_frontier(server.url, PREFIX).leased == {}


FAILING = """
class Fail:
    def process_item(self, item):
        if item["page"] == 7:
            raise ValueError("this one fails")
        return item
"""


def test_failed_item_keeps_its_request(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """A failed item ends the crawl; what is not durable stays in the frontier, and the next run crawls it."""
    feeds = {"items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"}}
    failed = frontier_crawl(tmp_path, server, site, SPIDER + FAILING, FEEDS=feeds, ITEM_PIPELINES={"spider.Fail": 1})
    assert failed.code == 1
    assert failed.lines("items were not stored, because: an item raised ValueError in a pipeline")
    assert read_frontier(server.url, PREFIX).pending > 0
    assert read_frontier(server.url, PREFIX).leased == {}
    again = frontier_crawl(tmp_path, server, site, FEEDS=feeds)
    assert again.code == 0
    assert site.asked[7]
    items = {
        tuple(json.loads(line).values())[:2] for path in tmp_path.glob("items/*") for line in path.read_text().splitlines()
    }
    assert items == {(page, number) for page in range(60) for number in range(2)}


def test_other_commands_leave_redis_alone(tmp_path: Path) -> None:
    """``scrapy fetch`` and ``scrapy shell`` work without the frontier's Redis."""
    page = tmp_path / "page.txt"
    page.write_text("a page")
    (tmp_path / "shell_settings.py").write_text(
        'ADDONS = {"scrapy_state.Addon": 500}\nSCHEDULER = "scrapy_state.redis.Scheduler"\n'
        'STATE_REDIS_URL = "redis://127.0.0.1:1/0"\n'
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "SCRAPY_SETTINGS_MODULE": "shell_settings", "PYTHONPATH": path, "PYTHONWARNINGS": ""}
    for command in (["fetch"], ["shell", "-c", "print(response.text)"]):
        result = subprocess.run(
            [sys.executable, "-m", "scrapy", *command, page.as_uri()],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "a page" in result.stdout, result.stderr
        assert result.returncode == 0


def test_own_dupefilter_is_honoured(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """The project's own DUPEFILTER_CLASS filters instead of Redis, with a warning. If it remembers requests beyond the process,
    the crawl does not start."""
    source = SPIDER + (
        "\nfrom scrapy.dupefilters import BaseDupeFilter\nclass Few(BaseDupeFilter):\n    seen = set()\n"
        "    def request_seen(self, request):\n        page = int(request.url.rpartition('/')[2])\n"
        "        known = page in self.seen or page > 5\n        self.seen.add(page)\n        return known\n"
        "    def log(self, request, spider):\n        pass\n"
    )
    crawled = frontier_crawl(tmp_path, server, site, source, DUPEFILTER_CLASS="spider.Few")
    assert crawled.code == 0
    [line] = crawled.lines("DUPEFILTER_CLASS is 'spider.Few': each worker filters by itself")
    assert "] WARNING" in line
    assert sorted(site.asked.elements()) == [0, 1, 2, 3, 4, 5]
    assert read_frontier(server.url, PREFIX).seen == 0
    source += (
        "\nclass Kept(Few):\n    def __init__(self):\n        import sqlite3\n        self.seen = sqlite3.connect('seen.db')\n"
    )
    line = refusal(frontier_crawl(tmp_path, server, site, source, DUPEFILTER_CLASS="spider.Kept"))
    assert "DUPEFILTER_CLASS is 'spider.Kept', which remembers what it has seen after the process has ended" in line
    assert "remove the setting" in line


def test_pushed_urls_and_keep_open(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """STATE_REDIS_KEEP_OPEN: the crawl waits for URLs that are pushed to a list, and crawls them."""
    source = SPIDER.replace('yield scrapy.Request(f"{self.site}/0")', "return\n        yield")
    settings = {
        **{"SCHEDULER": "scrapy_state.redis.Scheduler", "STATE_REDIS_URL": server.url, "FEEDS": {}},
        "STATE_REDIS_KEEP_OPEN": True,
    }
    site.asked.clear()
    process = start(tmp_path, source, "-a", f"site={site.url}", settings=settings)
    try:
        deadline = time.monotonic() + 30
        for begin in (58, 59):
            while not server.client().exists(f"{PREFIX}meta") or (begin == 59 and not site.asked[58]):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            pushed = f"{site.url}/{begin}"
            server.client().rpush(f"{PREFIX}urls", pushed if begin == 58 else json.dumps({"url": pushed, "priority": 3}))
        while not site.asked[59]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, log
    assert read_frontier(server.url, PREFIX).leased == {}


#: Data that somebody may push: some that is no request at all, and requests that some part of Scrapy can't handle
NO_REQUESTS = [
    *('{"a": 1}', "nothing", "{", '{"url": 5}', "\x00\xff", "", "[]", "zzz", "pcos", '{"url": "http://[/"}', "http://x:99999/"),
    *('{"url": "URL", "meta": {"download_slot": 5}}', '{"url": "URL", "meta": {"download_slot": {"a": 1}}}'),
    *('{"url": "URL", "meta": 5}', '{"url": "URL", "priority": "high"}', '{"url": "URL", "callback": "__init__"}'),
    *('{"url": "URL", "cb_kwargs": 5}', '{"url": "URL", "flags": 5}', '{"url": "URL", "encoding": 5}'),
    *('{"url": "URL", "body": 5}', '{"url": "URL", "_class": "os.system"}'),
]
ODD_METAS = [
    *('"download_timeout": "long"', '"depth": "deep"', '"proxy": 5', '"max_retry_times": []', '"handle_httpstatus_list": 5'),
    *('"cookiejar": {}', '"redirect_times": "a"', '"is_start_request": {}', '"download_maxsize": "a"', '"state": {"a": 1}'),
    *('"_state_unit": 5', '"_state_unit": {"a": 1}', '"bindaddress": 5', '"download_delay": {}', '"referrer_policy": 5'),
]
ODD_REQUESTS = [
    *('{"url": "URL/40", "cookies": 5}', '{"url": "URL/41", "method": "\\n"}', '{"url": "nothing://x"}'),
    '{"url": "URL/42", "headers": {"a": {"b": 1}}}',
    *(f'{{"url": "URL/{number}", "dont_filter": true, "meta": {{{meta}}}}}' for number, meta in enumerate(ODD_METAS)),
]


def test_nothing_that_is_pushed_ends_a_worker(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """Pushed data that is not a request is set aside: logged once, counted, listed by the command. Pushed requests are crawled,
    and may fail. The next run tries what can't be read again, and ends well, too."""
    source = SPIDER.replace('yield scrapy.Request(f"{self.site}/0")', "return\n        yield").replace(
        "yield response.follow(link)", "pass"
    )
    pushed = [each.replace("URL", site.url).encode() for each in (*NO_REQUESTS, *ODD_REQUESTS)]
    server.client().rpush(f"{PREFIX}urls", *pushed, *[b'{"a": 1}'] * 3000, f"{site.url}/59")
    settings = {
        "RETRY_TIMES": 0,
        "DOWNLOAD_TIMEOUT": 5,
        "SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.DownloaderAwarePriorityQueue",
    }
    unreadable = len(NO_REQUESTS) + 3000
    for is_first in (True, False):
        crawled = frontier_crawl(tmp_path, server, site, source, **settings)
        assert crawled.code == 0, crawled.log
        assert site.asked[59] == is_first
        said = crawled.lines("could not be read") + crawled.lines("can't be read")
        assert len(said) == 2, said
        assert f"{unreadable} requests in the frontier could not be read and are set aside" in said[0]
        assert crawled.lines(f"'state/redis/unreadable': {unreadable}")
        found = read_frontier(server.url, PREFIX)
        assert (found.pending, found.leased, found.unreadable) == (0, {}, unreadable)
    listed = json.loads(command(tmp_path, "frontier", "spider.py", "--unreadable", "--json").stdout)
    assert len(listed) == unreadable
    assert {"reason": "it is a JSON object without a url", "request": "'{\"a\": 1}'"} in listed
    assert (
        f"{unreadable:,} requests are set aside because they can't be read" in command(tmp_path, "frontier", "spider.py").stdout
    )


FED = """
import json
import scrapy
from scrapy import signals

class FrontierSpider(scrapy.Spider):
    name = "frontier"
    idle = 0

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.spider_idle, signals.spider_idle)
        return spider

    async def start(self):
        return
        yield

    def spider_idle(self):
        self.idle += 1
        if self.idle == 1:
            self.crawler.engine.crawl(scrapy.Request(f"{self.site}/1"))

    def make_request_from_data(self, data):
        if data == b"none":
            return None
        if data == b"several":
            return (scrapy.Request(f"{self.site}/{page}", meta={"x": object() if page == 5 else 0}) for page in (4, 5))
        return scrapy.Request(f"{self.site}/{json.loads(data)['page']}", cb_kwargs={"given": True})

    def parse(self, response, given=False):
        yield {"page": int(response.url.rpartition("/")[2]), "given": given}
"""


def test_a_spider_that_is_fed(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """The spider makes requests of what is pushed to a key of its own. Its spider_idle handler is called although the crawl is
    kept open. After STATE_REDIS_IDLE_TIMEOUT with nothing to do, the crawl ends by itself."""
    key = "frontier:start_urls"
    server.client().sadd(key, '{"page": 3}', "several", "none", "no JSON")
    feeds = {"items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"}}
    settings = {"STATE_REDIS_KEEP_OPEN": True, "STATE_REDIS_IDLE_TIMEOUT": 3, "STATE_REDIS_URLS_KEY": "%(name)s:start_urls"}
    began = time.monotonic()
    crawled = frontier_crawl(tmp_path, server, site, FED, FEEDS=feeds, **settings)
    assert time.monotonic() - began > 3
    assert crawled.code == 0, crawled.log
    assert crawled.lines("nothing was pushed for STATE_REDIS_IDLE_TIMEOUT (3 s): the crawl ends")
    assert crawled.lines("Closing spider (finished)")
    assert +site.asked == {1: 1, 3: 1, 4: 1, 5: 1}
    items = [json.loads(line) for path in tmp_path.glob("items/*") for line in path.read_text().splitlines()]
    assert sorted((item["page"], item["given"]) for item in items) == [(1, False), (3, True), (4, False), (5, False)]
    [line] = crawled.lines("can't be read")
    assert "make_request_from_data() raised JSONDecodeError" in line
    found = read_frontier(server.url, PREFIX)
    assert (found.pending, found.leased, found.unreadable) == (0, {}, 1)


# Crawls that do not start


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "SCRAPY_SETTINGS_MODULE": "project_settings", "PYTHONPATH": path, "PYTHONWARNINGS": ""}
    return subprocess.run(
        [sys.executable, "-m", "scrapy", "state", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def refusal(crawled: Crawl) -> str:
    assert crawled.code in (1, 75, 76)
    assert "Traceback" not in crawled.log
    assert not crawled.lines("Crawled (")
    [line] = crawled.lines("] ERROR")
    return line


def test_refuses_in_one_line(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """If Redis can't keep a frontier, the crawl does not start: one line, no trace, exit code 1, no request."""
    line = refusal(frontier_crawl(tmp_path, server, site, STATE_REDIS_URL=f"redis://u:the-secret@127.0.0.1:{server.port}/0"))
    assert "wrong user or password" in line
    assert "the-secret" not in line
    assert not site.asked


def test_refuses_a_host_that_never_answers(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """If the host accepts the connection and never answers, the crawl fails within 15 seconds."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"redis://127.0.0.1:{listening.getsockname()[1]}"
        crawled = frontier_crawl(tmp_path, server, site, STATE_REDIS_URL=url)
    line = refusal(crawled)
    assert "STATE_REDIS_URL" in line
    [opened] = crawled.lines("Spider opened")
    began, refused = (datetime.fromisoformat(each[:19]) for each in (opened, line))
    assert (refused - began).total_seconds() <= 15


def test_without_redis_py() -> None:
    """Without redis-py everything else can be imported, and the scheduler says what to install."""
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "import scrapy_state.feedexport, scrapy_state.barrier.middleware, scrapy_state.redis\n"
        "try: scrapy_state.redis.Scheduler\n"
        "except scrapy_state.StateError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "pip install 'redis>=5'" in result.stdout, result.stderr


# Several workers


SHARED_STATES = "states/%(batch_id)010d.json"
OWN_STATES = "states/%(run_id)s/%(batch_id)010d.json"


def with_states(uri: str) -> dict[str, Any]:
    options = {"format": "json", "item_classes": ["scrapy_state.StateItem"]}
    return {"items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"}, uri: options}


def beating_worker(server: RedisServer) -> subprocess.Popen[str]:
    """Start a process that is a worker of the frontier and does nothing but say so."""
    code = (
        "import asyncio\n"
        "from scrapy_state.redis.connection import Connection\n"
        "from scrapy_state.redis.frontier import FrontierClient\n"
        "async def main():\n"
        f"    frontier = FrontierClient(Connection.acquire({server.url!r}), {PREFIX!r}, 'other', 5.0)\n"
        "    await frontier.exchange('open')\n"
        "    print('open', flush=True)\n"
        "    while True:\n"
        "        await asyncio.sleep(0.1)\n"
        "        await frontier.exchange()\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_state_feed_of_several_workers(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """A worker does not start if another one writes to the same state feed. It starts if each run has its own feed, or if it is
    alone."""
    settings: dict[str, Any] = {"STATE_REDIS_LEASE_TIMEOUT": 2}
    other = beating_worker(server)
    try:
        line = refusal(frontier_crawl(tmp_path, server, site, FEEDS=with_states(SHARED_STATES), **settings))
        assert "another worker uses the frontier" in line
        assert "%(run_id)s" in line
        assert not list(tmp_path.glob("states/*"))
        assert frontier_crawl(tmp_path, server, site, FEEDS=with_states(OWN_STATES), **settings).code == 0
    finally:
        other.kill()
        other.communicate()
    # It was killed, so its heartbeat has stopped: it does not count as another worker.
    assert frontier_crawl(tmp_path, server, site, FEEDS=with_states(SHARED_STATES), **settings).code == 0
    assert len(list(tmp_path.glob("states/*.json"))) >= 2
    assert len(list(tmp_path.glob("states/*/*.json"))) >= 2


def test_clear_at_start_beside_others(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """Three workers that start at once with STATE_REDIS_CLEAR = "start" crawl every page, and none removes what another has
    begun. Neither does one that comes later, while another is alive."""
    settings = {"STATE_REDIS_CLEAR": "start", "STATE_REDIS_LEASE_TIMEOUT": 2, "FEEDS": {}, "LOG_LEVEL": "INFO"}
    redis = {"SCHEDULER": "scrapy_state.redis.Scheduler", "STATE_REDIS_URL": server.url}
    frontier_crawl(tmp_path, server, site)
    site.asked.clear()
    arguments = ("-a", f"site={site.url}")
    workers = [start(tmp_path / str(number), SPIDER, *arguments, settings=redis | settings) for number in range(3)]
    try:
        logs = [worker.communicate(timeout=60)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0, 0], logs
    assert set(+site.asked) == set(range(60))
    other = beating_worker(server)
    try:
        server.client().hset(f"{PREFIX}meta", "mark", 1)
        assert frontier_crawl(tmp_path, server, site, **settings).code == 0
        assert server.client().hget(f"{PREFIX}meta", "mark") == b"1"
        finished = frontier_crawl(tmp_path, server, site, **{**settings, "STATE_REDIS_CLEAR": "finished"})
        assert finished.code == 0
        assert server.client().hget(f"{PREFIX}meta", "mark") == b"1"
    finally:
        other.kill()
        other.communicate()
    frontier_crawl(tmp_path, server, site, **settings)
    assert server.client().hget(f"{PREFIX}meta", "mark") is None


def test_refuses_the_frontier_of_another_project(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """If the frontier belongs to another project with a spider of the same name, or to another version of scrapy_state, one
    line says so."""
    assert frontier_crawl(tmp_path, server, site, BOT_NAME="shops").code == 0
    line = refusal(frontier_crawl(tmp_path, server, site, BOT_NAME="flights"))
    assert "belongs to the project 'shops', but this project is 'flights' (BOT_NAME)" in line
    assert "another STATE_REDIS_KEY" in line
    assert frontier_crawl(tmp_path, server, site, BOT_NAME="flights", STATE_REDIS_KEY="flights-%(name)s").code == 0
    server.client().hset(f"{PREFIX}meta", "version", 99)
    assert "has version 99" in refusal(frontier_crawl(tmp_path, server, site, BOT_NAME="shops"))


def test_units_beside_another_worker(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """Units of state beside a live worker end the crawl, with one line and exit code 76. A worker that was just killed does not
    count, and a state that is not a dict is not a unit."""
    units = SPIDER.replace('/0")', '/0", meta={"state": {"t": 1}})')
    settings = {"FEEDS": with_states(OWN_STATES), "STATE_REDIS_LEASE_TIMEOUT": 2}
    other = beating_worker(server)
    try:
        crawled = frontier_crawl(tmp_path, server, site, units, **settings)
        assert crawled.code == 76
        assert ["another worker uses the frontier" in line for line in crawled.lines("] ERROR")] == [True], crawled.log
        assert crawled.lines("spider closed (state_conflict)")
        assert (
            frontier_crawl(tmp_path, server, site, SPIDER.replace('/0")', '/0", meta={"state": "CA"})'), **settings).code == 0
        )
    finally:
        other.kill()
        other.communicate()
    assert read_frontier(server.url, PREFIX).seconds_left.keys() == {"other"}
    crawled = frontier_crawl(tmp_path, server, site, units, **settings)
    assert (crawled.code, sum(site.asked.values())) == (0, 60), crawled.log
    assert read_frontier(server.url, PREFIX).pending == 0


def test_units_without_a_state_feed(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """Without a state feed a unit's items are stored when it is done; those of a failed unit are not, and a line says so. Each
    run does all units."""
    units = SPIDER.replace('/0")', '/0", meta={"state": {"t": 1}})')
    broken = units.replace("for number in range(2):", "for number in range(2 // (page != 40)):")
    feeds = {"items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"}}
    failed = frontier_crawl(tmp_path, server, site, broken, FEEDS=feeds)
    assert (failed.code, len(failed.lines("spider closed (state_units_failed)"))) == (1, 1)
    assert failed.lines("1 units failed; this run stores no checkpoint:")
    assert not list(tmp_path.glob("items/*"))
    assert frontier_crawl(tmp_path, server, site, units, FEEDS=feeds).code == 0
    assert sorted(site.asked.elements()) == list(range(60))
    items = [line for path in (tmp_path / "items").glob("*") for line in path.read_text().splitlines()]
    assert len(items) == 120


def test_units_of_two_workers(tmp_path: Path, server: RedisServer) -> None:
    """If two workers have units, the crawl ends with an error, and every checkpoint of either is right."""
    state = "data/%(name)s/state/%(run_id)s/%(batch_id)010d.json"
    settings = UNITS_SETTINGS | {
        "SCHEDULER": "scrapy_state.redis.Scheduler",
        "STATE_REDIS_URL": server.url,
        "STATE_REDIS_LEASE_TIMEOUT": 4,
        "STATE_INTERVAL": 0.1,
        "FEEDS": {ITEMS: FEEDS[ITEMS], state: FEEDS[STATES]},
    }
    with UnitsSite(9, 40) as units:
        both = threading.Event()
        units.served = lambda count: count < 20 or both.wait(60)
        workers = [start(tmp_path, UNITS_SPIDER, *arguments_of(units), settings=settings) for _ in range(2)]
        try:
            deadline = time.monotonic() + 60
            while server.client().zcard("scrapy_state:{units}:workers") < 2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            both.set()
            logs = [worker.communicate(timeout=60)[1] for worker in workers]
        finally:
            both.set()
            for worker in workers:
                worker.kill()
        runs = [path.name for path in (tmp_path / "data" / "units" / "state").iterdir()]
        assert len(runs) == 2
        for each in runs:
            assert report(tmp_path, units, each).wrong == []
    ends = [(worker.returncode, "spider closed (state_conflict)" in log) for worker, log in zip(workers, logs, strict=True)]
    print(ends)
    assert (76, True) in ends, logs
    assert (0, True) not in ends


AGAIN = """
from scrapy import Request

class Again:
    tried = set()

    def process_response(self, request, response):
        if response.url in self.tried:
            return response
        self.tried.add(response.url)
        return request.replace(dont_filter=True)
"""


def test_filtered_start_requests_are_tried_again(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """STATE_REDIS_FILTER_START leaves out requests of start(), not those that a middleware puts in their place (retries,
    redirects)."""
    middlewares = {"spider.Again": 100}
    settings = {"STATE_REDIS_FILTER_START": True, "DOWNLOADER_MIDDLEWARES": middlewares, "CLOSESPIDER_PAGECOUNT": 0}
    source = SPIDER.replace('/0")', '/59", dont_filter=True)').replace("yield response.follow(link)", "pass") + AGAIN
    assert frontier_crawl(tmp_path, server, site, source, **settings).lines("'item_scraped_count': 2")
    assert +site.asked == {59: 2}
    frontier_crawl(tmp_path, server, site, source, **settings)
    assert not +site.asked


def test_a_redis_user_with_few_rights(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """A Redis user with just the commands and keys that docs/redis.md lists is enough. If one is missing, one line says
    which."""
    name = "a%23b"
    rights = ("+ping", "+info", "+select", "+client", "+evalsha", "+script|load", "+@read", "+@write", "+time")
    url = f"redis://{name}:the%2Fsecret@127.0.0.1:{server.port}/0"

    def crawl_with(*commands: str) -> Crawl:
        server.client().execute_command("ACL", "SETUSER", "a#b", "reset", "on", ">the/secret", "~scrapy_state:*", *commands)
        return frontier_crawl(tmp_path, server, site, STATE_REDIS_URL=url, LOG_LEVEL="DEBUG", CLOSESPIDER_PAGECOUNT=3)

    allowed = crawl_with(*rights)
    assert allowed.code == 0, allowed.log
    for missing in ("-evalsha", "-del"):
        refused = crawl_with(*rights, missing)
        assert "the user may not do what a frontier needs" in refusal(refused)
        assert missing[1:] in refusal(refused)
        assert not set(refused.lines("secret"))
    server.client().execute_command("ACL", "DELUSER", "a#b")


def test_command(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """``scrapy state frontier`` counts what is there; ``--clear`` removes it, and asks first."""
    assert frontier_crawl(tmp_path, server, site, CLOSESPIDER_PAGECOUNT=10).code == 0

    def frontier(*arguments: str) -> subprocess.CompletedProcess[str]:
        return command(tmp_path, "frontier", "spider.py", *arguments)

    shown = json.loads(frontier("--json").stdout)
    assert shown["pending"] == read_frontier(server.url, PREFIX).pending > 0
    assert shown["seen"] > shown["pending"]
    shown_text = frontier()
    assert f"{PREFIX} {shown['pending']} requests pending, 0 leased, {shown['seen']} seen" in shown_text.stdout
    refused = frontier("--clear")
    assert refused.returncode == 2
    assert "add --yes" in refused.stderr
    assert frontier("--clear", "--yes").returncode == 0
    assert server.client().keys() == []
    assert frontier().returncode == 1
