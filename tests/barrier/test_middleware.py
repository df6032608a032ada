"""Whatever a spider yields, wherever and however much: every checkpoint names exactly the items before its state."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crawls
import pytest
from crawls import ITEMS, SPIDER, STATE_OPTIONS, STATES, Crawl, checkpoints, crawl, named_items
from numbered_site import SITE_SPIDER
from oracle import Feed, check, jsonlines_keys, local_files

PAGES = 6
#: STATE_MANY=1000000 makes it a campaign of minutes.
MANY = int(os.environ.get("STATE_MANY", "20000"))

KINDS_SPIDER = """
import asyncio, dataclasses, random
import attrs, pydantic, scrapy
from scrapy import signals
from scrapy_state import StateItem

class Thing(scrapy.Item):
    key = scrapy.Field()

@dataclasses.dataclass
class Note:
    key: str

@attrs.define(eq=False)
class Attrs:
    key: str

class Model(pydantic.BaseModel):
    key: str

KINDS = {"dict": dict, "item": Thing, "dataclass": Note, "attrs": Attrs, "pydantic": Model}
rng = random.Random(1)

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        yield scrapy.Request("data:,0", self.parse, cb_kwargs={"page": 0})

    def parse(self, response, page):
        for name, kind in KINDS.items():
            item = kind(key=f"{page}-{name}")
            yield item
            yield kind(key=f"{page}-{name}-between")
            yield item
        yield StateItem({"page": page + 1})
        if page + 1 < int(self.pages):
            yield scrapy.Request(f"data:,{page + 1}", self.parse, cb_kwargs={"page": page + 1})
        yield {"key": f"{page + 1}-late"}

class Wait:
    async def process_item(self, item):
        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.02, 0.05]))
        return item

class Handlers:
    def __init__(self, crawler):
        crawler.signals.connect(self.item_scraped, signals.item_scraped)

    from_crawler = classmethod(lambda cls, crawler: cls(crawler))

    async def item_scraped(self, item):
        await asyncio.sleep(rng.choice([0, 0.01, 0.03]))

class LateHandlers(Handlers):
    pass
"""


def is_right(run: Crawl, keys_of_page: Callable[[int], list[str]], pages: int = PAGES) -> int:
    """Check that *run* ended well, and that each of its checkpoints names what its state says; return how many name files."""
    assert run.code == 0, run.log
    assert not run.lines("] ERROR"), run.log

    def expected(state: dict[str, Any]) -> dict[str, list[str]]:
        return {"items": [key for page in range(state.get("page", 0)) for key in keys_of_page(page)]}

    place = f"{run.folder}/data/numbers"
    report = check(
        local_files(run.folder / "data"), f"{place}/state/", {"items": Feed(f"{place}/items/", jsonlines_keys)}, expected
    )
    assert report.wrong == []
    assert report.state == {"page": pages}
    return sum(bool(each["files"]) for each in report.checkpoints)


@pytest.mark.parametrize("concurrent_items", [1, 1000])
def test_kinds(tmp_path: Path, concurrent_items: int) -> None:
    """Items of all kinds are filed, even if each object is yielded twice, and pipelines and handlers of item_scraped wait."""
    settings = {
        "CONCURRENT_ITEMS": concurrent_items,
        "STATE_INTERVAL": 0,
        "STATE_REQUESTS": False,  # with 1, a callback may end after the next one has yielded a state item
        "ITEM_PIPELINES": {"spider.Wait": 1},
        "EXTENSIONS": {"spider.Handlers": -1000, "spider.LateHandlers": 1000},
        "LOG_LEVEL": "INFO",
    }
    run = crawl(tmp_path, KINDS_SPIDER, "-a", f"pages={PAGES}", settings=settings)

    def keys(page: int) -> list[str]:
        names = ("dict", "item", "dataclass", "attrs", "pydantic")
        late = [f"{page}-late"] if page else []
        return [*late, *(f"{page}-{name}{more}" for name in names for more in ("", "-between", ""))]

    assert is_right(run, keys) > 1


SUBMIT_SPIDER = """
import asyncio, random
import scrapy
from scrapy import signals
from scrapy_state import StateItem

rng = random.Random(1)

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        for page in range(int(self.pages)):
            yield {"key": f"{page}"}
            yield StateItem({"page": page + 1})
            await asyncio.sleep(0.01)

class Submit:
    def __init__(self, crawler):
        self.crawler = crawler

    from_crawler = classmethod(lambda cls, crawler: cls(crawler))

    async def process_item(self, item):
        await asyncio.sleep(rng.choice([0, 0.02, 0.1]))
        if "-" not in item["key"]:
            scraper, send = self.crawler.engine.scraper, self.crawler.signals.send_catch_log_async
            await scraper.start_itemproc_async({"key": item["key"] + "-awaited"}, response=None)
            several = [{"key": f"{item['key']}-task-{n}"} for n in range(2)]
            await asyncio.gather(*(scraper.start_itemproc_async(each, response=None) for each in several))
            sent = {"key": item["key"] + "-sent"}
            await send(signals.item_scraped, item=sent, response=None, spider=self.crawler.spider)
        return item
"""


def test_items_of_a_pipeline(tmp_path: Path) -> None:
    """Items that a pipeline submits while it processes another one are filed with that one: no checkpoint is ahead of them."""
    settings = {"STATE_INTERVAL": 0, "ITEM_PIPELINES": {"spider.Submit": 1}, "LOG_LEVEL": "INFO"}
    run = crawl(tmp_path, SUBMIT_SPIDER, "-a", "pages=20", settings=settings)
    more = ("", "-awaited", "-task-0", "-task-1", "-sent")
    assert is_right(run, lambda page: [f"{page}{each}" for each in more], pages=20) > 1


MANY_SPIDER = """
import re
import scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        if self.origin == "callback":
            yield scrapy.Request("data:,page", self.parse)
        else:
            for each in self.items():
                yield each

    def parse(self, response):
        yield from self.items()

    def items(self):
        many = int(self.many)
        for number in range(many):
            if number == many // 5:
                self.report("a fifth")
            yield {"key": number}
        yield StateItem({"page": 1})

    def report(self, when):
        peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
        self.logger.info("peak after %s: %s kB", when, peak)

    def closed(self, reason):
        self.report("all")
"""


@pytest.mark.parametrize("uploads", [True, False], ids=["uploads", "nothing to upload"])
@pytest.mark.parametrize("origin", ["callback", "start"])
def test_many_items(tmp_path: Path, origin: str, uploads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many items before the first state item get through a small spool: no deadlock, no more memory, one checkpoint of them
    all."""
    options = {"format": "jsonlines", **({} if uploads else {"item_classes": ["scrapy.Item"]})}
    settings = {
        "FEEDS": {ITEMS: options, STATES: STATE_OPTIONS},
        "STATE_SPOOL_SIZE": "20kB" if uploads else 1,
        "LOG_LEVEL": "INFO",
    }
    many = MANY if uploads else MANY // 5
    monkeypatch.setattr(crawls, "DEADLINE_SECONDS", 60 + many / 200)
    run = crawl(tmp_path, MANY_SPIDER, "-a", f"origin={origin}", "-a", f"many={many}", settings=settings)
    assert run.code == 0, run.log
    assert run.lines(f"'item_scraped_count': {many},"), run.log
    newest = run.lines('STATE {"page": 1}, items: ')[-1]
    assert f"items: {many if uploads else 0}," in newest, run.log
    first, last = (int(re.search(r"(\d+) kB", line)[1]) for line in run.lines("peak after"))  # type: ignore[index]
    assert last - first < 4_000, run.lines("peak after")


def test_errback_of_a_failed_download(tmp_path: Path) -> None:
    """Items from the errback of a failed download are filed like a callback's; a state item ends at the middleware."""
    source = (
        SPIDER
        + """
    async def start(self):
        yield scrapy.Request("http://127.0.0.1:9/", errback=self.errback)

    def errback(self, failure):
        yield {"page": 0, "n": 0}
        yield StateItem({"page": 1})
        yield {"page": 1, "n": 0}

class Slow:
    async def process_item(self, item):
        print("piped", type(item).__name__, file=__import__("sys").stderr)
        await __import__("asyncio").sleep(0.3 if item["page"] == 0 else 0)
        return item
"""
    )
    settings = {"ITEM_PIPELINES": {"spider.Slow": 1}, "RETRY_ENABLED": False, "STATE_INTERVAL": 0}
    run = crawl(tmp_path, source, settings=settings)
    assert run.code == 0, run.log
    assert not run.lines("piped StateItem")
    assert checkpoints(tmp_path)[-1]["state"] == {"page": 1}
    assert named_items(tmp_path) == [{"page": 0, "n": 0}]


def test_state_items_stay_inside(tmp_path: Path, numbered_site: Any) -> None:
    """No pipeline, no item_scraped, no item count and no item feed sees a state item, wherever it is yielded."""
    source = (
        SITE_SPIDER
        + """
    custom_settings = {"ITEM_PIPELINES": {"spider.Pipeline": 1}, "RETRY_ENABLED": False}

    async def start(self):
        yield StateItem({"page": -1})
        yield {"page": -1}
        yield scrapy.Request(self.site + "fail", errback=self.errback)

    def errback(self, failure):
        yield {"page": -2}
        yield StateItem({"page": 4})
        yield {"page": -3}
        yield scrapy.Request(self.site + "4")

class Pipeline:
    @classmethod
    def from_crawler(cls, crawler):
        crawler.signals.connect(cls.seen, scrapy.signals.item_scraped)
        return cls()

    def process_item(self, item):
        print("piped", type(item).__name__, file=__import__("sys").stderr)
        return item

    @staticmethod
    def seen(item):
        print("scraped", type(item).__name__, file=__import__("sys").stderr)
"""
    )
    for settings in ({}, {"STATE_READONLY": True}, {"STATE_ENABLED": False, "FEEDS": {}}):
        run = crawl(tmp_path / str(len(settings)), source, "-a", f"site={numbered_site.url}/", settings=settings)
        assert run.code == 0, run.log
        assert run.lines("piped dict")
        assert not run.lines("StateItem"), settings
        assert run.lines("'item_scraped_count': 5")
    assert len(named_items(tmp_path / "0")) == 5
    assert checkpoints(tmp_path / "0")[-1]["state"] == {"page": 6}


def test_yielding_updates_spider_state(tmp_path: Path) -> None:
    """spider.state is a copy of the state yielded last; StateItem() takes a copy of spider.state."""
    source = (
        SPIDER
        + """
    async def start(self):
        mine = {"page": 1, "list": [1]}
        yield StateItem(mine)
        mine["list"].append(2)
        assert self.state == {"page": 1, "list": [1]}, self.state
        self.state["page"] = 2
        yield StateItem()
        self.state["list"].append(3)
        self.logger.info("as it should be")
"""
    )
    run = crawl(tmp_path, source)
    assert run.lines("as it should be"), run.log
    assert checkpoints(tmp_path)[-1]["state"] == {"page": 2, "list": [1]}
