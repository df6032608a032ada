"""How a crawl ends, and whether the next run continues it, in real crawls."""

from __future__ import annotations

import signal

import crawls
import pytest
from page_crawls import HEAD, SETTINGS, Place

SIX = """
class Six(Any):
    closes = ""
    async def start(self):
        for number in range(6):
            yield self.to(f"p/{number}")
        if self.closes == "start":
            raise CloseSpider("enough")

    async def parse(self, response):
        await self.die_at(response)
        if self.closes == "callback" and len(self.crawler.stats.get_value("seen", [])) >= 2:
            raise CloseSpider("enough")
        self.crawler.stats.set_value("seen", [*self.crawler.stats.get_value("seen", []), 1])
        yield {"key": key(response)}

    @classmethod
    def from_crawler(cls, crawler, *arguments, **more):
        spider = super().from_crawler(crawler, *arguments, **more)
        crawler.signals.connect(spider.idle, signals.spider_idle)
        return spider

    def idle(self):
        if self.closes == "idle":
            raise CloseSpider("enough")
"""
ALL = {f"p/{number}": 1 for number in range(6)}


@pytest.mark.parametrize("closes", ["callback", "start", "idle", ""])
def test_crawls_that_are_over(pages: Place, closes: str) -> None:
    """After "finished", and when the spider itself raises CloseSpider, the next run begins a new crawl."""
    run = pages.crawl(SIX, "-a", f"closes={closes}", CONCURRENT_REQUESTS=1)
    assert run.code == 0, run.log
    assert run.lines(f"spider closed ({'enough' if closes else 'finished'})"), run.log
    assert pages.newest["ended"], run.log
    assert "requests" not in pages.newest
    before = pages.keys
    assert pages.crawl(SIX).code == 0
    assert pages.newest["crawl"] == 2
    assert pages.keys == before + pages.keys.__class__(ALL)


@pytest.mark.long
def test_limits(pages: Place) -> None:
    """After a limit of Scrapy's (closespider_itemcount) the next run continues the crawl, also if nothing is left."""
    for _ in range(12):
        run = pages.crawl(SIX, CLOSESPIDER_ITEMCOUNT=2, CONCURRENT_REQUESTS=1)
        assert run.code == 0, run.log
        if pages.newest.get("ended"):
            break
        assert pages.newest["requests"]
    assert pages.keys == ALL
    assert pages.newest["crawl"] == 1


def test_sigterm(pages: Place) -> None:
    """After SIGTERM the next run continues the crawl; what was in flight is finished, and what was pending comes then."""
    source = SIX.replace("        await self.die_at(response)", "        self.logger.info('at work'); await asyncio.sleep(0.2)")
    run = crawls.crawl_until(
        pages.folder, "at work", HEAD + source, "-a", f"site={pages.server.url}",
        settings={**SETTINGS, "CONCURRENT_REQUESTS": 2}, end=lambda process: process.send_signal(signal.SIGTERM),
    )  # fmt: skip
    assert run.code == 0, run.log
    assert pages.newest["reason"] == "shutdown"
    assert pages.newest["requests"]["pending"] + sum(pages.keys.values()) == 6
    assert pages.crawl(source).code == 0
    assert pages.keys == ALL
    assert pages.newest["ended"]
    assert pages.newest["crawl"] == 1


def test_killed_after_finished_began(pages: Place) -> None:
    """A process that dies while it closes a finished spider has not ended the crawl: the next run does, and sends nothing."""
    source = (
        SIX
        + """
    @classmethod
    def update_settings(cls, settings):
        super().update_settings(settings)
        settings.set("ITEM_PIPELINES", {Dying: 1})

class Dying:
    def __init__(self, crawler):
        self.crawler = crawler

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    async def close_spider(self):
        if self.crawler.spider.kill:
            await self.crawler.spider.cut()
            die()
"""
    )
    assert pages.crawl(source, "-a", "kill=yes").code == -9
    assert pages.keys == ALL
    assert not pages.newest.get("ended")
    run = pages.crawl(source)
    assert run.code == 0, run.log
    assert not pages.asked
    assert pages.keys == ALL
    assert pages.newest["ended"]
    assert pages.newest["crawl"] == 1


def test_late_items_of_a_closing_pipeline(pages: Place) -> None:
    """Items that are in slow pipelines while a limit closes the spider are named once, in this run or the next."""
    source = """
class Slow:
    async def process_item(self, item):
        await asyncio.sleep(0.3)
        return item

class Many(Any):
    custom_settings = {"ITEM_PIPELINES": {Slow: 1}}
    async def start(self):
        for number in range(6):
            yield self.to(f"p/{number}")

    def parse(self, response):
        yield {"key": key(response)}
        yield self.to("child/" + key(response), self.child, dont_filter=True)

    def child(self, response):
        yield {"key": key(response)}
"""
    run = pages.crawl(source, CLOSESPIDER_ITEMCOUNT=1, CONCURRENT_REQUESTS=2)
    assert run.lines("spider closed (closespider_itemcount)")
    assert not pages.newest.get("ended")
    assert pages.crawl(source).code == 0
    assert pages.keys == {**ALL, **{f"child/{page}": 1 for page in ALL}}
