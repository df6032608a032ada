"""Item files in awkward crawls: slow pipelines, closing spiders, retried uploads, handlers that wait."""

from __future__ import annotations

from pathlib import Path

from crawls import ITEMS, SPIDER, STATE_OPTIONS, STATES, checkpoints, crawl, crawl_until, named_items

SLOW_SPIDER = """
import asyncio, scrapy
from scrapy_state import StateItem
class Slow:
    async def process_item(self, item):
        await asyncio.sleep(item.get("delay", 0))
        return item
class TestSpider(scrapy.Spider):
    name = "numbers"
"""
SLOW = {"ITEM_PIPELINES": {"spider.Slow": 1}}


def pages(folder: Path) -> list[int]:
    return [item["page"] for item in named_items(folder)]


def pages_before_state(folder: Path) -> list[int]:
    return list(range(checkpoints(folder)[-1]["state"].get("page", 0)))


def test_csv_header_stays_with_the_kept_file(tmp_path: Path) -> None:
    """Each CSV file has its header, whichever item came first."""
    source = (
        SLOW_SPIDER
        + """
    async def start(self):
        yield {"n": "before", "delay": 0.5}
        yield StateItem({"n": 1})
        yield {"n": "after", "delay": 0}
"""
    )
    feeds = {"data/%(name)s/items/%(run_id)s-%(batch_id)05d.csv": {"format": "csv"}, STATES: STATE_OPTIONS}
    crawl(tmp_path, source, settings={"FEEDS": feeds, **SLOW})
    files = {p.name[-9:]: p.read_text().splitlines() for p in (tmp_path / "data/numbers/items").iterdir()}
    assert files == {"00001.csv": ["n,delay", "before,0.5"], "00002.csv": ["n,delay", "after,0"]}
    [named] = checkpoints(tmp_path)[-1]["files"]
    assert (named["uri"][-9:], named["items"], "skip" in named) == ("00001.csv", 1, False)


def test_start_state_items_during_the_last_commit(tmp_path: Path) -> None:
    """State items that start() yields while the last commit is under way begin no second commit."""
    source = (
        """
import time
import scrapy_state.feedstorages as fs
real = fs.DurableFeedStorage._store_in_thread
once = []
def slow(self, file):
    if TestSpider.closed and not once:
        once.append(1); time.sleep(0.5)      # the closing commit's file: a slow PUT
    return real(self, file)
fs.DurableFeedStorage._store_in_thread = slow
"""
        + SLOW_SPIDER
        + """
    closed = False
    @classmethod
    def from_crawler(cls, crawler, *a, **k):
        self = super().from_crawler(crawler, *a, **k)
        crawler.signals.connect(self.shut, scrapy.signals.spider_closed)
        return self
    def shut(self): type(self).closed = True
    async def start(self):
        for page in range(self.state.get("page", 0), 200):
            yield {"page": page, "n": 0}
            yield StateItem({"page": page + 1})
            if page == 100:
                asyncio.get_running_loop().create_task(self.crawler.engine.close_spider_async(reason="enough"))
            await asyncio.sleep(0.01)
"""
    )
    run = crawl(tmp_path, source, settings={"STATE_INTERVAL": 0.1})

    assert pages(tmp_path) == pages_before_state(tmp_path)
    assert run.code == 0


def test_close_longer_than_timeout(tmp_path: Path) -> None:
    """STATE_CLOSE_TIMEOUT counts from when the pipelines are empty: if the store works, everything yielded is stored."""
    source = (
        SLOW_SPIDER
        + """
    async def start(self):
        yield {"page": 0, "delay": 3}
        yield StateItem({"page": 1})
        await asyncio.sleep(0.3)
        raise scrapy.exceptions.CloseSpider("enough")
"""
    )
    run = crawl(tmp_path, source, settings={**SLOW, "STATE_CLOSE_TIMEOUT": 1})
    assert run.code == 0
    assert checkpoints(tmp_path)[-1]["state"] == {"page": 1}


def test_state_item_changed_after_yield(tmp_path: Path) -> None:
    """If the spider changes a StateItem and yields it again, a checkpoint that still waits does not change."""
    source = (
        SLOW_SPIDER
        + """
    async def start(self):
        item = StateItem({"page": 0})
        for page in range(self.state.get("page", 0), 4):
            for n in range(3):
                yield {"page": page, "n": n, "delay": 0.2}
            item.state["page"] = page + 1
            yield item
            await asyncio.sleep(0.01)
        await asyncio.sleep(30)
"""
    )
    crawl_until(tmp_path, "checkpoint 2 stored", source, settings={**SLOW, "STATE_INTERVAL": 0})
    assert sorted(set(pages(tmp_path))) == pages_before_state(tmp_path)


def test_cancelled_inside_a_pipeline(tmp_path: Path) -> None:
    """If a task is cancelled inside a pipeline, the lost item stops the checkpoints at once, not at the end."""
    source = (
        """
import asyncio
class Leaky:
    async def process_item(self, item):
        if item["page"] == 3:
            task = asyncio.ensure_future(asyncio.sleep(10)); task.cancel()
            await task
        return item
"""
        + SLOW_SPIDER
        + """
    async def start(self):
        for page in range(40):
            yield {"page": page}
            yield StateItem({"page": page + 1})
            await asyncio.sleep(0.1)
"""
    )
    run = crawl(tmp_path, source, settings={"ITEM_PIPELINES": {"spider.Leaky": 1}, "STATE_INTERVAL": 0})

    assert not run.lines("'item_scraped_count': 39")


def test_empty_reason(tmp_path: Path) -> None:
    """A close with an empty finish reason is like any other: items after the last state are left to the next run."""
    source = (
        SLOW_SPIDER
        + """
    def idle(self):
        raise scrapy.exceptions.CloseSpider("")
    async def start(self):
        self.crawler.signals.connect(self.idle, scrapy.signals.spider_idle)
        page = self.state.get("page", 0)
        yield {"page": page}
        yield StateItem({"page": page + 1})
        yield {"page": page + 1}
"""
    )
    for _ in range(2):
        crawl(tmp_path, source)
    assert pages(tmp_path) == [0, 1]


def test_errors_after_the_last_state(tmp_path: Path) -> None:
    """A failed item after the last state item is counted once, by the run that has it before a state."""
    source = (
        SLOW_SPIDER.replace(
            '        await asyncio.sleep(item.get("delay", 0))\n', '        if item["n"] == 9: raise ValueError\n'
        )
        + """
    async def start(self):
        if not self.state:
            yield {"page": 0, "n": 0}
            yield StateItem({"page": 1})
        yield {"page": 1, "n": 9}
        if self.state and self.settings["STATE"]: yield StateItem({"page": 2})
"""
    )
    s = {"ITEM_PIPELINES": {"spider.Slow": 1}, "STATE_ON_ITEM_ERROR": "skip"}
    crawl(tmp_path, source, settings=s)
    crawl(tmp_path, source, settings=s)

    assert checkpoints(tmp_path)[-1]["errors"] == 1


def test_handler_changes_checkpoint(tmp_path: Path) -> None:
    """A handler of checkpoint_stored may be a coroutine, and can't change what is stored next."""
    source = (
        SLOW_SPIDER
        + """
    @classmethod
    def from_crawler(cls, crawler, *a, **k):
        from scrapy_state.signals import checkpoint_stored
        self = super().from_crawler(crawler, *a, **k)
        crawler.signals.connect(self.stored, checkpoint_stored)
        crawler.signals.connect(self.stored2, checkpoint_stored)
        return self
    def stored(self, checkpoint): checkpoint.state["page"] = 99
    async def stored2(self, checkpoint): self.logger.info("coroutine handler ran")
    async def start(self):
        yield {"page": 0}
        yield StateItem({"page": 1})
        await asyncio.sleep(0.3)
"""
    )
    run = crawl(tmp_path, source, settings={"STATE_INTERVAL": 0})
    assert run.lines("coroutine handler ran")
    assert checkpoints(tmp_path)[-1]["state"] == {"page": 1}


def test_plugin_trailer_retry(tmp_path: Path) -> None:
    """A file is finished once, however often storing it is tried: stored content never changes."""
    source = (
        """
class Trailer:
    def __init__(self, file, options): self.file = file
    def write(self, data): return self.file.write(data)
    def close(self): self.file.write(b"END")
import scrapy_state.feedstorages as fs
from scrapy_state.exceptions import StoreUnreachable
real = fs.DurableFeedStorage._store_in_thread
count = [0]
def fail(self, file):
    count[0] += 1
    if count[0] == 1:
        real(self, file)                      # stored, but the reply was lost
        raise StoreUnreachable("503")
    return real(self, file)
fs.DurableFeedStorage._store_in_thread = fail
"""
        + SPIDER
    )
    feeds = {ITEMS: {"format": "jsonlines", "postprocessing": ["spider.Trailer"]}, STATES: STATE_OPTIONS}
    run = crawl(tmp_path, source, settings={"FEEDS": feeds})
    [p] = (tmp_path / "data/numbers/items").iterdir()
    assert run.code == 0
    assert p.read_text().count("END") == 1


def test_slow_handlers_hold_up_no_checkpoint(tmp_path: Path) -> None:
    """No checkpoint, not even the last one, waits for handlers of feed_slot_closed or checkpoint_stored. The end of the crawl
    does. Each handler sees one checkpoint after the other."""
    source = (
        SLOW_SPIDER
        + """
    @classmethod
    def from_crawler(cls, crawler, *a, **k):
        from scrapy_state.signals import checkpoint_stored
        self = super().from_crawler(crawler, *a, **k)
        crawler.signals.connect(self.slot_closed, scrapy.signals.feed_slot_closed)
        crawler.signals.connect(self.stored, checkpoint_stored)
        return self

    async def slot_closed(self, slot):
        await self.all_stored()
        self.logger.info("handled file of %s items", slot.itemcount)

    async def stored(self, checkpoint):
        await self.all_stored()
        self.logger.info("handled checkpoint %s", checkpoint.id)
        await asyncio.sleep(0.1)
        self.logger.info("done with checkpoint %s", checkpoint.id)

    async def all_stored(self):
        deadline = asyncio.get_running_loop().time() + 10
        while self.crawler.stats.get_value("state/items_stored", 0) < 5:
            if asyncio.get_running_loop().time() > deadline:
                self.logger.info("handled in vain")
                return
            await asyncio.sleep(0.01)

    async def start(self):
        for page in range(5):
            yield {"page": page}
            yield StateItem({"page": page + 1})
            while page == 0 and not self.crawler.stats.get_value("state/items_stored"):
                await asyncio.sleep(0.01)
"""
    )
    run = crawl(tmp_path, source, settings={"STATE_INTERVAL": 0, "STATE_CLOSE_TIMEOUT": 1})
    assert run.code == 0, run.log
    stored = checkpoints(tmp_path)
    assert len(run.lines("handled file of")) == sum(len(each["files"]) for each in stored)
    assert not run.lines("handled in vain")
    lines = [line.rpartition("] INFO: ")[2] for line in run.lines("checkpoint ") if "[numbers]" in line]
    assert lines == [f"{what} checkpoint {each['id']}" for each in stored for what in ("handled", "done with")]
