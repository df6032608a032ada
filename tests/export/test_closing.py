"""Closing a crawl whose uploads are slow, many or silent, or whose spool or disk is full."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from crawls import STATE_OPTIONS, STATES, Crawl, checkpoints, crawl, run_until, start

#: The project's own storage for own://, which blocks a thread, as FTP's and Google's do. Each test adds what before() does.
SPIDER = """
import asyncio, functools, logging, os, resource, threading, time
import scrapy
from pathlib import Path
from scrapy.extensions.feedexport import BlockingFeedStorage
from scrapy_state import StateItem
from scrapy_state.export import retry

logger = logging.getLogger("own")
assert hasattr(retry, "_LEAST_SECONDS")
retry._LEAST_SECONDS = 0.5

class OwnStorage(BlockingFeedStorage):
    def __init__(self, uri, *, feed_options=None):
        self.path = Path(uri.partition("://")[2])

    def _store_in_thread(self, file):
        logger.info("storing in thread %s", threading.current_thread().name)
        file.seek(0)
        self.before(file)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file.seek(0)
        self.path.write_bytes(file.read())

    def before(self, file):
        pass

class TestSpider(scrapy.Spider):
    name = "numbers"
    pages = 3

    async def start(self):
        first = self.state.get("page", 0)
        for page in range(first, first + int(self.pages)):
            yield {"page": page, "text": "x" * 200}
            yield StateItem({"page": page + 1})
"""
#: Stores bit by bit: an item of start(), 230 bytes, takes so many seconds.
SLOWLY = """
def slowly(self, file):
    while file.read(23):
        time.sleep(seconds / 10)

OwnStorage.before = slowly
"""
ITEMS = "own://own/items/%(run_id)s-%(batch_id)05d.jsonl"
EACH_ITS_OWN = {"format": "jsonlines", "batch_item_count": 1}


def settings(**more: Any) -> dict[str, Any]:
    feeds = {ITEMS: EACH_ITS_OWN, STATES: STATE_OPTIONS}
    return {"FEEDS": feeds, "FEED_STORAGES": {"own": "spider.OwnStorage"}, "LOG_LEVEL": "INFO", **more}


def stored(folder: Path) -> int:
    """Return how many items the newest checkpoint's lineage names; each must be there exactly once."""
    named = [file["uri"] for each in checkpoints(folder) for file in each["files"]]
    files = [folder / uri.removeprefix("own://") for uri in named]
    items = [json.loads(line)["page"] for file in files for line in file.read_text().splitlines()]
    assert sorted(items) == list(range(len(items)))
    assert checkpoints(folder)[-1]["items"] == len(items)
    return len(items)


def test_pipelines_find_threads(tmp_path: Path) -> None:
    """However many uploads there are, a pipeline's asyncio.to_thread() does not wait for one of them."""
    waiting = """
free = threading.Event()

class Threads:
    seen = 0

    async def process_item(self, item):
        await asyncio.to_thread(time.sleep, 0)
        Threads.seen += 1
        if Threads.seen == 40:
            free.set()
        return item

def blocked(self, file):
    assert free.wait(20), "the uploads have all the threads"

OwnStorage.before = blocked
"""
    more = {
        "ITEM_PIPELINES": {"spider.Threads": 1},
        "CLOSESPIDER_ITEMCOUNT": 40,
    }  # otherwise only the heartbeat looks, after 5 s
    run = crawl(tmp_path, SPIDER + waiting, "-a", "pages=40", settings=settings(**more))
    assert run.code == 0, run.log
    assert stored(tmp_path) == 40
    threads = {line.split()[-1].rpartition("_")[0] for line in run.lines("storing in thread")}
    assert threads == {"scrapy_state"}, threads


def test_slow_uploads_are_waited_for(tmp_path: Path) -> None:
    """At the close, uploads that are slow, or wait for others, may take longer than STATE_CLOSE_TIMEOUT: nothing has failed."""
    source = SPIDER + SLOWLY.replace("seconds", "0.8")
    run = crawl(tmp_path, source, "-a", "pages=20", settings=settings(STATE_CLOSE_TIMEOUT=0.5))
    assert run.code == 0, run.log
    assert stored(tmp_path) == 20


def closing_run(folder: Path, source: str, signals: int, **more: Any) -> tuple[Crawl, float]:
    """Send SIGTERM *signals* times while the last uploads are under way; return the outcome, and how long it took."""
    process = start(folder, source, settings=settings(**more))
    try:
        log = run_until(process, "Closing spider (finished)")
        log += run_until(process, "storing in thread") if "storing in thread" not in log else ""
        began = time.monotonic()
        for number in range(signals):
            process.send_signal(signal.SIGTERM)
            log += run_until(process, "Received SIGTERM" + " twice" * number)
        log += process.communicate(timeout=30)[1]
        return Crawl(process.returncode, log, folder), time.monotonic() - began
    finally:
        process.kill()
        process.wait()


def test_sigterm_while_closing(tmp_path: Path) -> None:
    """After SIGTERM the last files have STATE_CLOSE_TIMEOUT to be stored, and the run ends well."""
    run, _ = closing_run(tmp_path, SPIDER + SLOWLY.replace("seconds", "2"), 1, STATE_CLOSE_TIMEOUT=20)
    assert run.code == 0, run.log
    assert run.lines("'finish_reason': 'finished'"), run.log
    assert stored(tmp_path) == 3
    assert checkpoints(tmp_path)[-1]["reason"] == "finished"


def test_sigterm_bounds_slow_uploads(tmp_path: Path) -> None:
    """After SIGTERM the run gives an upload up after STATE_CLOSE_TIMEOUT, even if it makes progress; one error says so."""
    run, took = closing_run(tmp_path, SPIDER + SLOWLY.replace("seconds", "4"), 1, STATE_CLOSE_TIMEOUT=1)
    assert run.code == 75, run.log
    [error] = run.lines("[scrapy_state.state] ERROR: ")
    assert "checkpoints stopped at checkpoint 1" in error
    assert "STATE_CLOSE_TIMEOUT (1 s)" in error
    before, _, after = run.log.partition("checkpoints stopped at")
    assert "Spider closed" not in before
    assert "Spider closed" in after
    assert took < 30, run.log  # the calls under way end by themselves, after 4 s: nothing can interrupt a thread


def test_two_sigterms_while_closing(tmp_path: Path) -> None:
    """A second SIGTERM ends the process as soon as the uploads under way are done: none that waits is begun."""
    source = SPIDER.replace("pages = 3", "pages = 60") + SLOWLY.replace("seconds", "1")
    run, _ = closing_run(tmp_path, source, 2)
    assert 0 < len(run.lines("storing in thread")) < 20, run.log
    assert checkpoints(tmp_path)[-1]["state"] == {}


def test_silent_store_at_the_close(tmp_path: Path) -> None:
    """A store that never answers, and has no time-out of its own, does not keep the crawl from ending."""
    silent = "\ndef silent(self, file):\n    time.sleep(4)\n\nOwnStorage.before = silent\n"
    began = time.monotonic()
    more = {"STATE_CLOSE_TIMEOUT": 1, "STATE_RETRY_TIMEOUT": 1}
    run = crawl(tmp_path, SPIDER + silent, settings=settings(**more))
    assert run.code == 75, run.log
    [error] = run.lines("[scrapy_state.state] ERROR: ")
    assert "no answer for 1 s" in error
    assert len(run.lines("storing in thread")) == 3, run.log  # none is begun again while its file is in use
    assert time.monotonic() - began < 30


#: Its callback yields most of its items once the spider is being closed.
LATE = """
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))

class TestSpider(TestSpider):
    async def start(self):
        yield scrapy.Request("data:,page")

    async def parse(self, response):
        closing = asyncio.create_task(self.crawler.engine.close_spider_async(reason="enough"))
        while self.crawler.engine._slot.closing is None:
            await asyncio.sleep(0)
        await asyncio.sleep(0.5)  # two looks of mind_closing()
        for page in range(1000):
            yield {"page": page, "text": "x" * 200}
        yield StateItem({"page": 1000})
"""


@pytest.mark.parametrize("limited", ["bytes", "files"])
def test_full_spool_at_the_close(tmp_path: Path, limited: str) -> None:
    """While the spool is full, by its bytes or by its number of files, items wait, even while the spider is being closed: there
    are no more files than usual, and no more of them open than a process may have. The log says which limit it is, and
    seldom."""
    options = EACH_ITS_OWN if limited == "files" else {"format": "jsonlines"}
    more: dict[str, Any] = {"FEEDS": {ITEMS: options, STATES: STATE_OPTIONS}}
    if limited == "bytes":
        more["STATE_SPOOL_SIZE"] = "20kB"
    run = crawl(tmp_path, SPIDER + SLOWLY.replace("seconds", "0.003") + LATE, settings=settings(**more))
    assert run.code == 0, run.log
    assert stored(tmp_path) == 1000
    waits = [line.partition("the crawl waits: ")[2] for line in run.lines("the crawl waits: ")]
    assert 1 <= len(waits) < 30, waits
    assert len(run.lines("the crawl goes on")) == len(waits)
    if limited == "bytes":
        assert len(run.lines("Stored jsonlines feed")) < 50
        assert max(int(each.split()[0]) for each in waits) <= 20_000 + 100 * 230  # and CONCURRENT_ITEMS
        assert all("STATE_SPOOL_SIZE is 20000" in each for each in waits), waits
    else:
        assert all(each.startswith("20") and "files to upload" in each and "SPOOL" not in each for each in waits), waits
