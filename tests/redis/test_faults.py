"""Crawls whose frontier is in Redis, while workers, connections and keys fail in different ways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos_redis import SPIDER, Site, end
from crawls import Crawl, start
from redis_server import RedisServer, proxy

from scrapy_state.redis.inspect import read_frontier

pytestmark = pytest.mark.long

PREFIX = "scrapy_state:{frontier}:"
FEEDS = {"items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"}}
DEADLINE_SECONDS = 60


def settings_of(server: RedisServer, **settings: Any) -> dict[str, Any]:
    common = {"SCHEDULER": "scrapy_state.redis.Scheduler", "STATE_REDIS_URL": server.url, "FEEDS": {}, "LOG_LEVEL": "INFO"}
    return {**common, "STATE_REDIS_LEASE_TIMEOUT": 2, **settings}


def worker(folder: Path, server: RedisServer, site: Site, source: str = SPIDER, **settings: Any) -> subprocess.Popen[str]:
    return start(folder, source, "-a", f"site={site.url}", settings=settings_of(server, **settings))


def ended(process: subprocess.Popen[str], folder: Path) -> Crawl:
    try:
        _, log = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
    return Crawl(process.returncode, log, folder)


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def items(folder: Path) -> Counter[int]:
    lines = [line for path in (folder / "items").glob("*.jsonl") for line in path.read_text().splitlines()]
    return Counter(json.loads(line)["page"] for line in lines)


def test_pages_that_are_not_durable_are_waited_for(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """A worker is killed while it is idle and its pages are done, but not durable: the other one crawls them before it says
    that the crawl is finished."""
    site.asked.clear()
    first = worker(tmp_path, server, site, FEEDS=FEEDS, STATE_REDIS_KEEP_OPEN=True, STATE_REDIS_LEASE_TIMEOUT=8)
    try:
        wait_for(lambda: sum(site.asked.values()) == 60)
        [name] = [key.decode() for key in server.client().zrange(f"{PREFIX}workers", 0, -1)]
        wait_for(lambda: server.client().scard(f"{PREFIX}done:{name}") == 60)
        assert server.client().hlen(f"{PREFIX}leases:{name}") == 60
    finally:
        end(first)
    assert not items(tmp_path)
    crawled = ended(worker(tmp_path, server, site, FEEDS=FEEDS, STATE_REDIS_LEASE_TIMEOUT=8), tmp_path)
    assert crawled.code == 0, crawled.log
    assert items(tmp_path) == dict.fromkeys(range(60), 2)


def test_a_reply_that_is_lost_while_the_frontier_is_opened(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """Whichever reply is lost while the frontier is opened, as when Redis restarts at that moment, the worker asks again and
    crawls."""
    for number in range(1, 15):
        site.asked.clear()
        with proxy(server.port, lost_reply=number) as line:
            url = f"{line.url}?socket_timeout=2"
            begun = worker(tmp_path / str(number), server, site, STATE_REDIS_URL=url, STATE_REDIS_KEY=f"opening{number}")
            crawled = ended(begun, tmp_path / str(number))
            assert line.replies > number
        assert crawled.code == 0, (number, crawled.log)
        assert len(site.asked) == 60


BLOCKING = SPIDER.replace(
    "        for number in range(2):", "        if page == 7:\n            TIME\n        for number in range(2):"
)


def test_a_callback_that_blocks_for_longer_than_the_lease(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """A blocked event loop is not a dead worker: a page whose callback blocks for longer than the lease is crawled once, and
    the log says what blocks."""
    source = BLOCKING.replace("TIME", "__import__('time').sleep(7)")
    site.asked.clear()
    workers = [worker(tmp_path / name, server, site, source, FEEDS=FEEDS) for name in "ab"]
    crawls = [ended(each, tmp_path) for each in workers]
    assert [each.code for each in crawls] == [0, 0]
    assert site.asked[7] == 1
    assert sum(len(each.lines("something blocks the event loop")) for each in crawls) == 1
    assert not any(each.lines("this worker was away") for each in crawls)
    assert items(tmp_path / "a") + items(tmp_path / "b") == dict.fromkeys(range(60), 2)


def test_a_page_that_kills_its_worker(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """A page that kills its process is set aside after three deaths, and the log says so. All others are crawled. The command
    shows the page and puts it back."""
    source = BLOCKING.replace("TIME", "__import__('os').kill(__import__('os').getpid(), 9)")
    site.asked.clear()
    codes: list[int] = []
    while not codes or codes[-1] < 0:
        crawled = ended(worker(tmp_path, server, site, source, FEEDS=FEEDS, STATE_INTERVAL=0.2), tmp_path)
        codes.append(crawled.code)
        assert len(codes) < 6
    assert codes == [-9, -9, -9, 0]
    assert crawled.lines("is set aside: 3 workers died while they had it")
    assert crawled.lines("1 pages were not crawled, because their workers died each time")
    assert site.asked[7] == 3
    assert set(items(tmp_path)) == set(range(60)) - {7} - {each for each in range(60) if not site.asked[each]}
    assert {each for each in range(60) if not site.asked[each]} <= {22, 23, 24}  # which only page 7 links to
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "SCRAPY_SETTINGS_MODULE": "project_settings", "PYTHONPATH": path, "PYTHONWARNINGS": ""}

    def frontier(*arguments: str) -> str:
        command = [sys.executable, "-m", "scrapy", "state", "frontier", "spider.py", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
        ).stdout  # fmt: skip

    assert "1 requests are set aside because their workers died" in frontier()
    [page] = json.loads(frontier("--fatal", "--json"))
    assert page == {"reason": "3 workers died while they had it", "request": f"{site.url}/7"}
    assert f"{site.url}/7" in frontier("--fatal")
    assert "put 1 requests back" in frontier("--put-back")
    again = ended(worker(tmp_path, server, site, FEEDS=FEEDS), tmp_path)
    assert again.code == 0
    assert not again.lines("pages were not crawled")
    assert set(items(tmp_path)) == set(range(60))


LARGE = """
import random
import scrapy

class FrontierSpider(scrapy.Spider):
    name = "frontier"

    async def start(self):
        for page in range(8):
            yield scrapy.Request(f"{self.site}/{page}", meta={"large": random.Random(page).randbytes(60_000)})

    def parse(self, response):
        pass
"""


def test_large_requests_on_a_slow_line(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """Requests that together would not get through before the time-out get through one by one."""
    site.asked.clear()
    with proxy(server.port, bytes_per_second=200_000) as slow:
        url = f"{slow.url}?socket_timeout=2"
        crawled = ended(worker(tmp_path, server, site, LARGE, STATE_REDIS_URL=url, STATE_REDIS_LEASE_TIMEOUT=60), tmp_path)
    assert crawled.code == 0, crawled.log
    assert site.asked == dict.fromkeys(range(8), 1)


def test_keys_that_vanish_end_the_crawl(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """If somebody removes the queues of a running crawl, it ends with an error instead of waiting for ever."""
    site.asked.clear()
    process = worker(tmp_path, server, site, DOWNLOAD_DELAY=0.05, CONCURRENT_REQUESTS=2)
    wait_for(lambda: sum(site.asked.values()) > 5)
    assert server.client().delete(*server.client().keys(f"{PREFIX}queue:*"))
    crawled = ended(process, tmp_path)
    assert crawled.code == 1
    [line] = crawled.lines("] ERROR")
    assert "requests have vanished from Redis" in line
    assert crawled.lines("spider closed (state_frontier_failed)")
    assert ended(worker(tmp_path, server, site), tmp_path).code == 0
    assert read_frontier(server.url, PREFIX).pending == 0


SLOW = """
import scrapy

class FrontierSpider(scrapy.Spider):
    name = "frontier"

    async def start(self):
        for page in range(36):
            yield scrapy.Request(f"{self.site}/{page}")

    def parse(self, response):
        yield {"page": int(response.url.rpartition("/")[2]), "n": 0}
"""


def test_a_slow_slot_is_shared_out(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """Three workers with a delay get about a third of a download slot's pages each: none leases pages that others could
    send."""
    site.asked.clear()
    more = {"FEEDS": FEEDS, "DOWNLOAD_DELAY": 0.5, "RANDOMIZE_DOWNLOAD_DELAY": False}
    workers = [worker(tmp_path / name, server, site, SLOW, **more) for name in "abc"]
    assert [ended(each, tmp_path).code for each in workers] == [0, 0, 0]
    counts = [len(items(tmp_path / name)) for name in "abc"]
    print(counts)
    assert sum(counts) == 36
    assert min(counts) >= 7


PROLIFIC = """
import scrapy

class FrontierSpider(scrapy.Spider):
    name = "frontier"

    async def start(self):
        yield scrapy.Request(f"{self.site}/0")

    def parse(self, response):
        worker, most = self.crawler.engine._slot.scheduler._worker, 0
        for number in range(8_000):
            yield scrapy.Request(f"{self.site}/0")
            most = max(most, len(worker.outbox))
        self.logger.info("MOST %d", most)
"""


def test_a_callback_waits_while_its_requests_are_unsent(tmp_path: Path, server: RedisServer, site: Site) -> None:
    """While thousands of its requests are unsent, a callback waits, as start() does."""
    with proxy(server.port, delay_seconds=0.1) as away:
        crawled = ended(worker(tmp_path, server, site, PROLIFIC, STATE_REDIS_URL=away.url), tmp_path)
    assert crawled.code == 0
    most = [int(line.rpartition("MOST ")[2]) for line in crawled.lines("MOST ")]
    assert most
    assert max(most) <= 5_400, most  # MOST_UNSENT, and what runs at once when it is full
