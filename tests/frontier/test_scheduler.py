"""The scheduler in real crawls: when it is used, redirects, and spiders that it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import crawls
import pytest
from crawls import SPIDER, crawl
from page_crawls import HEAD, SETTINGS, Place

FEW = """
class Few(Any):
    async def start(self):
        self.logger.info("scheduler %s", type(self.crawler.engine._slot.scheduler).__module__)
        for path in ("a", "b"):
            yield self.to(path)
"""
OURS, SCRAPYS = "scheduler scrapy_state.frontier.scheduler", "scheduler scrapy.core.scheduler"


def test_switching_on(pages: Place) -> None:
    """The add-on sets the scheduler only with a state feed, with STATE_REQUESTS, and in place of Scrapy's own."""
    assert pages.crawl(FEW).lines(OURS)
    items_only = {crawls.ITEMS: {"format": "jsonlines"}}
    assert pages.crawl(FEW, FEEDS=items_only).lines(SCRAPYS)
    run = pages.crawl(FEW, STATE_REQUESTS=False)
    assert run.lines(SCRAPYS)
    assert run.lines("the spider yielded 2 items and no state item: no checkpoint names them")


def test_another_scheduler(pages: Place) -> None:
    """Another scheduler stays, with one INFO line."""
    (pages.folder / "own.py").write_text("from scrapy.core.scheduler import Scheduler\nclass Own(Scheduler):\n    pass\n")
    run = pages.crawl(FEW, SCHEDULER="own.Own")
    assert run.lines("scheduler own"), run.log
    [line] = run.lines("SCHEDULER is Own, so checkpoints contain no requests")
    assert "INFO" in line
    assert "requests" not in pages.newest


def test_jobdir(pages: Place) -> None:
    """JOBDIR is neither read nor written. If requests of an earlier run wait there, a WARNING says so."""
    stopping = SETTINGS | {"JOBDIR": "job", "STATE_REQUESTS": False, "CLOSESPIDER_ITEMCOUNT": 1, "CONCURRENT_REQUESTS": 1}
    many = FEW.replace('("a", "b")', "map(str, range(60))").replace("yield self.to(path)", "yield self.to('slow/' + path)")
    pages.crawl(many, **stopping)
    job = pages.folder / "job"
    assert list((job / "requests.queue").iterdir())
    before = {path: path.read_bytes() for path in job.rglob("*") if path.is_file() and path.name != "spider.state"}
    run = pages.crawl(FEW, JOBDIR="job")
    [line] = run.lines("JOBDIR job has requests of an earlier run, which are not read")
    assert "WARNING" in line
    assert pages.asked == {"a": 1, "b": 1}
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.long
def test_finishing_jobdir(pages: Place) -> None:
    """STATE_ENABLED=False finishes the crawl in JOBDIR, each page once. After that no WARNING says that requests wait there."""
    many = FEW.replace('("a", "b")', "map(str, range(20))")
    pages.crawl(many, JOBDIR="job", STATE_ENABLED=False, CLOSESPIDER_ITEMCOUNT=5, CONCURRENT_REQUESTS=1)
    first = pages.asked
    [line] = pages.crawl(FEW, JOBDIR="job", CLOSESPIDER_ITEMCOUNT=1).lines("JOBDIR job has requests of an earlier run")
    assert "-s STATE_ENABLED=False" in line
    assert pages.crawl(many, JOBDIR="job", STATE_ENABLED=False).lines("Resuming crawl")
    assert first + pages.asked == Counter(map(str, range(20)))
    assert not pages.crawl(FEW, JOBDIR="job").lines("JOBDIR job has requests")


REDIRECTS = """
class Redirects(Any):
    async def start(self):
        yield self.to("index")

    async def parse(self, response):
        yield {"key": key(response)}
        if key(response) == "index":
            for path in self.order.split():
                yield self.to(path)
        elif self.kill:
            await asyncio.sleep(0.5)
            await self.cut()
            die()
"""


@pytest.mark.parametrize("links", ["to/target slow/target", "slow/target to/slow/target", "to/target target other"])
def test_redirects(pages: Place, links: str) -> None:
    """A page that others redirect to, and that is linked as well, is there once, also if the run is killed meanwhile."""
    settings = {"CONCURRENT_REQUESTS": 1, "SCHEDULER_MEMORY_QUEUE": "scrapy.squeues.FifoMemoryQueue"}
    arguments = ("-a", f"order={links}")
    assert pages.crawl(REDIRECTS, *arguments, "-a", "kill=yes", **settings).code == -9
    assert pages.crawl(REDIRECTS, *arguments, **settings).code == 0
    targets = {path.removeprefix("to/") for path in links.split()}
    assert pages.keys == dict.fromkeys(["index", *targets], 1)


@pytest.mark.parametrize("on_disk", [pytest.param(False, marks=pytest.mark.long), True])
def test_many_requests(pages: Place, on_disk: bool) -> None:
    """A spider that sends thousands of requests at once, killed: each is there once, whether they are kept on disk or not."""
    source = """
class Many(Any):
    custom_settings = {"DOWNLOAD_HANDLERS": {"data": "scrapy.core.downloader.handlers.datauri.DataURIDownloadHandler"}}
    async def start(self):
        for number in range(int(self.count)):
            yield Request(f"data:,{number}", priority=number % 3)

    done = 0
    async def parse(self, response):
        self.done += 1
        if self.kill and self.done == 600:
            self.crawler.engine.pause()
            await self.cut()
            die()
        yield {"key": response.text}
"""
    settings = {"STATE_REQUESTS_ON_DISK": on_disk, "STATE_INTERVAL": 0.5, "CONCURRENT_ITEMS": 1}
    count = 5000
    assert pages.crawl(source, "-a", f"count={count}", "-a", "kill=yes", **settings).code == -9
    assert 500 < len(pages.keys) < count
    run = pages.crawl(source, "-a", f"count={count}", **settings)
    assert run.code == 0, run.log
    assert pages.keys == dict.fromkeys(map(str, range(count)), 1)


def test_state_that_is_not_json(pages: Place) -> None:
    """What can't be stored of spider.state is left out, with one warning; the crawl goes on."""
    source = FEW.replace("for path", "self.state = {'n': 1, 'set': {1}, 2: 3}\n        for path")
    run = pages.crawl(source)
    assert run.code == 0, run.log
    assert len(run.lines("can't be stored as JSON, and is left out of the checkpoints")) == 1
    assert pages.newest["state"]["n"] == 1
    assert "set" not in pages.newest["state"]
    run = pages.crawl(FEW.replace("for path", "self.state = None\n        for path"))
    assert run.code == 0, run.log
    assert pages.newest["state"] == {}


def test_units(pages: Place) -> None:
    """A spider with units has checkpoints without requests; what it yields before its first unit is kept."""
    source = """
class Slow:
    async def process_item(self, item):
        await asyncio.sleep(0.2)
        return item

class Units(Any):
    custom_settings = {"ITEM_PIPELINES": {Slow: 1}}
    async def start(self):
        for number in range(3):
            yield {"key": f"before {number}"}
        for day in range(self.state.get("day", 0), 4):
            yield self.to(f"day/{day}", meta={"state": {"day": day}})

    async def parse(self, response):
        yield {"key": key(response)}
        yield self.to("of/" + key(response), self.child)

    def child(self, response):
        yield {"key": key(response)}
"""
    run = pages.crawl(source)
    assert run.code == 0, run.log
    assert not run.lines("] WARNING: "), run.log
    days = [f"day/{day}" for day in range(4)]
    assert pages.keys == dict.fromkeys([f"before {number}" for number in range(3)] + days + [f"of/{day}" for day in days], 1)
    assert not any("requests" in each for each in pages.checkpoints)


def test_two_spiders_in_one_process(pages: Place) -> None:
    """Two spiders in one process keep their pages apart."""
    script = """
import json, sys
sys.path.insert(0, ".")
from scrapy.crawler import CrawlerProcess
from scrapy.utils.project import get_project_settings
from spider import One, Two
process = CrawlerProcess(get_project_settings())
for each in (One, Two):
    process.crawl(each, site=sys.argv[1])
process.start()
"""
    source = """
class One(Any):
    name = "one"
    async def start(self):
        for number in range(5):
            yield self.to(f"{self.name}/{number}")

    async def parse(self, response):
        yield {"key": key(response)}
        if "child" not in response.url:
            yield self.to(key(response) + "/child", dont_filter=True)

class Two(One):
    name = "two"
"""
    crawls.start(pages.folder, HEAD + source, settings=SETTINGS, command=("version",)).communicate()
    (pages.folder / "script.py").write_text(script)
    environment = {**os.environ, "SCRAPY_SETTINGS_MODULE": "project_settings", "PYTHONWARNINGS": ""}
    run = subprocess.run(
        [sys.executable, "script.py", pages.server.url],
        cwd=pages.folder, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    for name in ("one", "two"):
        found = sorted(item["key"] for item in crawls.named_items(pages.folder, name))
        assert found == sorted(f"{name}/{number}{end}" for number in range(5) for end in ("", "/child"))


def test_other_crawls_are_untouched(pages: Place) -> None:
    """A spider with state items that are clean has the checkpoints that it has with STATE_REQUESTS = False."""
    fields = ("state", "items", "reason", "ended", "overlap")
    found: list[Any] = []
    for name, settings in (("with", {}), ("without", {"STATE_REQUESTS": False})):
        run = crawl(pages.folder / name, SPIDER, settings={"STATE_INTERVAL": 0, **settings})
        assert run.code == 0, run.log
        stored = crawls.checkpoints(pages.folder / name)
        assert all(each["version"] == 1 for each in stored)
        found.append([json.dumps([each.get(field) for field in fields]) for each in (stored[0], stored[-1])])
    assert found[0] == found[1]


def test_dont_filter_children(pages: Place) -> None:
    """What a page sends with dont_filter becomes known when the page is settled. Killed before, each is there once."""
    source = """
class Children(Any):
    async def start(self):
        yield self.to("index")

    async def parse(self, response):
        yield {"key": key(response)}
        if key(response) == "index":
            for number in range(3):
                yield self.to(f"child/{number}", dont_filter=True)
            yield self.to("seen")
            if self.kill:
                await asyncio.sleep(0.7)
                await self.cut()
                die()
        elif key(response) == "child/1":
            yield self.to("grandchild", dont_filter=True)
"""
    assert pages.crawl(source, "-a", "kill=yes").code == -9
    assert pages.keys == {"seen": 1}
    assert pages.newest["requests"]["pending"] == 1
    assert pages.crawl(source).code == 0
    assert pages.keys == {"index": 1, "child/0": 1, "child/1": 1, "child/2": 1, "grandchild": 1, "seen": 1}


def test_items_of_pipelines(pages: Place) -> None:
    """The items of a page count together, once the last of them has left the pipelines."""
    source = """
class Slow:
    @classmethod
    def from_crawler(cls, crawler):
        pipeline = cls()
        pipeline.crawler = crawler
        return pipeline

    async def process_item(self, item):
        if item["key"] == "p/1#2":
            await asyncio.sleep(1)
            if self.crawler.spider.kill:
                await self.crawler.spider.cut()
                die()
        return item

class Two(Any):
    custom_settings = {"ITEM_PIPELINES": {Slow: 1}}
    async def start(self):
        for number in range(3):
            yield self.to(f"p/{number}")

    def parse(self, response):
        yield {"key": key(response) + "#1"}
        yield {"key": key(response) + "#2"}
"""
    assert pages.crawl(source, "-a", "kill=yes").code == -9
    assert pages.keys == {f"p/{number}#{item}": 1 for number in (0, 2) for item in (1, 2)}
    assert pages.crawl(source).code == 0
    assert pages.keys == {f"p/{number}#{item}": 1 for number in range(3) for item in (1, 2)}
