"""Items that the spider does not yield: pipelines and extensions submit them to the item pipelines, at any moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import crawls
from crawls import FEEDS, checkpoints, crawl, named_items

SPIDER = """
import asyncio
import scrapy
from scrapy import signals
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"
    busy = False

    async def start(self):
        for page in range(3):
            yield {"key": f"{page}"}
            yield StateItem({"page": page + 1})
            while self.busy and page == 1:
                await asyncio.sleep(0.01)
        yield {"key": "behind the last state"}

class Submitting:
    def __init__(self, crawler):
        self.crawler = crawler

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    def submit(self, item):
        return self.crawler.engine.scraper.start_itemproc_async(item, response=None)

    def process_item(self, item):
        return item
"""
SETTINGS: dict[str, Any] = {"ITEM_PIPELINES": {"spider.Pipeline": 1}}


def test_items_that_nobody_yields_are_named(tmp_path: Path) -> None:
    """A checkpoint names such items, because no state says that they come again: items from signal handlers, and from a
    pipeline that opens, has returned its item, or closes. Items that the spider yields after its last state are left to the
    next run."""
    source = (
        SPIDER
        + """
class Pipeline(Submitting):
    async def open_spider(self):
        self.crawler.spider.busy = True
        self.crawler.signals.connect(self.idle, signals.spider_idle)
        self.crawler.signals.connect(self.scraped, signals.item_scraped)
        await self.submit({"key": "opening"})

    def process_item(self, item):
        if item["key"] == "0":
            asyncio.create_task(self.let_go())
        return item

    async def let_go(self):
        while self.crawler.stats.get_value("state/items_stored", 0) == 0:  # until its item is a checkpoint's
            await asyncio.sleep(0.01)
        await self.submit({"key": "later"})
        self.crawler.spider.busy = False

    def idle(self):
        asyncio.create_task(self.submit({"key": "idle"}))

    async def scraped(self, item):
        if item["key"] == "2":
            await self.submit({"key": "scraped"})

    async def close_spider(self):
        await self.submit({"key": "closing"})
"""
    )
    run = crawl(tmp_path, source, settings={**SETTINGS, "STATE_INTERVAL": 0})
    assert run.code == 0, run.log
    named = sorted(item["key"] for item in named_items(tmp_path))
    assert named == ["0", "1", "2", "closing", "idle", "later", "opening", "scraped"]


def test_state_items_count_where_the_spider_yields_them(tmp_path: Path) -> None:
    """A StateItem that a pipeline submits or returns changes no state and reaches no feed; a line says that it is dropped."""
    source = (
        SPIDER
        + """
class Pipeline(Submitting):
    async def process_item(self, item):
        if item["key"] == "1":
            await self.submit(StateItem({"page": 77}))
        return StateItem({"page": 88}) if item["key"] == "2" else item
"""
    )
    beside = {"beside.jsonl": {"format": "jsonlines", "checkpoint": False}}
    for name, more in {"checkpoints": {}, "readonly": {"STATE_READONLY": True}}.items():
        folder = tmp_path / name
        run = crawl(folder, source, settings={**SETTINGS, "FEEDS": {**FEEDS, **beside}, **more})
        assert run.code == 0, run.log
        assert len(run.lines("Dropped: a StateItem counts only where the spider yields it")) == 2, name
        assert run.lines("'item_scraped_count': 3")
        keys = [json.loads(line)["key"] for line in (folder / "beside.jsonl").read_text().splitlines()]
        assert sorted(keys) == ["0", "1", "behind the last state"], name
    assert [item["key"] for item in named_items(tmp_path / "checkpoints")] == ["0", "1"]
    assert checkpoints(tmp_path / "checkpoints")[-1]["state"] == {"page": 3}


def test_items_that_come_too_late_are_an_error(tmp_path: Path) -> None:
    """An item that comes while the last checkpoint is being stored reaches no feed: one error says so, and the exit code is
    1."""
    source = (
        SPIDER
        + """
class Pipeline(Submitting):
    def open_spider(self):
        self.crawler.signals.connect(self.closed, signals.spider_closed)

    async def closed(self):
        for n in range(3):
            await self.submit({"key": f"too late {n}"})
"""
    )
    run = crawl(tmp_path, source, settings=SETTINGS)
    assert run.code == 1
    assert len(run.lines("ERROR: an item came after the last checkpoint")) == 1, run.log
    assert run.lines("'state/items_late': 3")
    assert checkpoints(tmp_path)[-1]["reason"] == "finished"


def test_own_item_processor(tmp_path: Path) -> None:
    """A project's own ITEM_PROCESSOR still works; so do Crawler.get_item_pipeline and its pipelines."""
    source = (
        crawls.SPIDER
        + """
        from spider import Pipeline, Processor
        self.logger.info("pipeline %s", self.crawler.get_item_pipeline(Pipeline))

from scrapy.pipelines import ItemPipelineManager

class Pipeline:
    def process_item(self, item):
        return item

class Processor(ItemPipelineManager):
    async def process_item_async(self, item):
        if item["n"]:
            raise scrapy.exceptions.DropItem("odd")
        return await super().process_item_async({**item, "own": True})
"""
    )
    settings = {"ITEM_PROCESSOR": "spider.Processor", "ITEM_PIPELINES": {"spider.Pipeline": 1}}
    run = crawl(tmp_path, source, settings=settings)
    assert run.code == 0, run.log
    assert run.lines("pipeline <spider.Pipeline")
    assert named_items(tmp_path) == [{"page": page, "n": 0, "own": True} for page in range(3)]
