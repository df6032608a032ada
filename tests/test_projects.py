"""Odd things in projects that plain Scrapy accepts: scrapy_state accepts them, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crawls import ITEMS, SPIDER, STATE_OPTIONS, STATES, crawl, named_items

ALL_ITEMS = [{"page": page, "n": n} for page in range(3) for n in range(2)]
JSONL = {"format": "jsonlines"}
OUTSIDE = {**JSONL, "checkpoint": False}
WHERE = "    where = property(lambda self: 1 / 0)"


def test_settings_of_its_own(tmp_path: Path) -> None:
    """A project's own settings STATES and STATE_PATH don't keep a crawl from starting; a warning for each says what may be
    meant."""
    run = crawl(tmp_path, settings={"STATES": "TX,CA", "STATE_PATH": "/states", "LOG_LEVEL": "INFO"})
    assert named_items(tmp_path) == ALL_ITEMS
    warnings = run.lines("WARNING")
    assert len(warnings) == 2
    assert "no setting STATES. If you meant STATE," in warnings[0]
    assert "no setting STATE_PATH. If you meant STATE_AT," in warnings[1]


def test_attributes_and_uri_params(tmp_path: Path) -> None:
    """Attributes may raise, always or until there is an engine; a FEED_URI_PARAMS function may read parameters that vary."""
    source = (
        SPIDER
        + """
    @property
    def broken(self):
        raise ZeroDivisionError

    @property
    def scheduler(self):
        return type(self.crawler.engine._slot.scheduler).__name__

def params(params, spider):
    assert "broken" not in params
    params.update(day=params["batch_time"][:4], part=params["batch_id"], which=params["run_id"], at=params["time"])
    return params
"""
    )
    items = "data/numbers/items/%(scheduler)s-%(day)s-%(which)s-%(part)05d-%(run_id)s-%(batch_id)d.jsonl"
    feeds = {items: {"format": "jsonlines"}, STATES: STATE_OPTIONS, "plain-%(scheduler)s.jsonl": OUTSIDE}
    settings = {"FEED_URI_PARAMS": "spider.params", "LOG_LEVEL": "INFO"}
    writing = crawl(tmp_path, source, settings={**settings, "FEEDS": feeds})
    del feeds[items]
    feeds[f"dev/{items}"] = {"format": "jsonlines"}
    reading = crawl(tmp_path, source, settings={**settings, "FEEDS": feeds, "STATE_READONLY": True})
    for run in (writing, reading):
        assert run.code == 0, run.log
        assert not run.lines("ERROR"), run.log
    assert named_items(tmp_path) == ALL_ITEMS
    assert len(list(tmp_path.glob("data/numbers/items/Scheduler-20*-00001-20*-1.jsonl"))) == 1
    assert len(list(tmp_path.glob("dev/data/numbers/items/Scheduler-20*-00001-20*-1.jsonl"))) == 1
    assert len((tmp_path / "plain-Scheduler.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("more", "settings", "expected"),
    [
        (WHERE, {"FEEDS": {f"%(where)s/{ITEMS}": JSONL, STATES: STATE_OPTIONS}}, "'where'"),
        (WHERE, {"FEEDS": {ITEMS: JSONL, f"%(where)s/{STATES}": STATE_OPTIONS}}, "'where'"),
        ("def params(params, spider):\n    params['no']", {"FEED_URI_PARAMS": "spider.params"}, "FEED_URI_PARAMS: "),
        ("    state = property(lambda self: {})", {}, "spider.state"),
        ("    state = property(lambda self: 1 / 0)", {}, "spider.state"),
    ],
)
def test_refused(tmp_path: Path, more: str, settings: dict[str, Any], expected: str) -> None:
    """If something can't work, one line names it, without a trace."""
    run = crawl(tmp_path, f"{SPIDER}\n{more}\n", settings={"LOG_LEVEL": "INFO", **settings})
    assert run.code == 1
    [line] = run.lines("ERROR")
    assert "the crawl does not start: " in line
    assert expected in line
    assert "Traceback" not in run.log


CLASSES = """
from scrapy.core.downloader import Downloader
from scrapy.core.scheduler import Scheduler
from scrapy.extensions.feedexport import FeedExporter, FileFeedStorage
from scrapy.exporters import JsonLinesItemExporter
from scrapy.pipelines import ItemPipelineManager
from scrapy_state import Addon, CheckpointFeedExporter, StateResolver
from scrapy_state.barrier import BarrierItemProcessor, StateMiddleware
from scrapy_state.downloader import TrackingDownloader
from scrapy_state.selfcheck import SelfCheck

class OwnProcessor(BarrierItemProcessor):
    pass

class OwnPlainProcessor(ItemPipelineManager):
    pass
"""
#: Values of the spider's custom_settings, all of them classes
AS_CLASSES = {
    "with the add-on": """
    "EXTENSIONS": {StateResolver: 10, SelfCheck: 10, CheckpointFeedExporter: 0, FeedExporter: None},
    "ITEM_PROCESSOR": BarrierItemProcessor, "DOWNLOADER": TrackingDownloader, "SPIDER_MIDDLEWARES": {StateMiddleware: -100000},
""",
    "subclass": """
    "ITEM_PROCESSOR": OwnProcessor, "STATE_FALLBACK_ITEM_PROCESSOR": OwnPlainProcessor, "STATE_FALLBACK_DOWNLOADER": Downloader,
""",
    "by hand": """
    "ADDONS": {},
    "EXTENSIONS": {StateResolver: 10, CheckpointFeedExporter: 0, FeedExporter: None},
    "ITEM_PROCESSOR": BarrierItemProcessor, "DOWNLOADER": TrackingDownloader, "SPIDER_MIDDLEWARES": {StateMiddleware: -100000},
    "STATE_FALLBACK_ITEM_PROCESSOR": ItemPipelineManager, "STATE_FALLBACK_DOWNLOADER": Downloader,
""",
    "its own": """
    "ADDONS": {Addon: 500}, "ITEM_PROCESSOR": OwnPlainProcessor, "DOWNLOADER": Downloader,
""",
}


@pytest.mark.parametrize("how", AS_CLASSES)
def test_classes_in_settings(tmp_path: Path, how: str) -> None:
    """Wherever a setting takes an import path, it takes the class, too; nothing wraps itself."""
    source = f"""{CLASSES}{SPIDER}
    custom_settings = {{
        "SCHEDULER": Scheduler, "FEED_STORAGES": {{"file": FileFeedStorage}},
        "FEED_EXPORTERS": {{"jsonlines": JsonLinesItemExporter}},
        {AS_CLASSES[how]}
        "FEEDS": {{
            "{ITEMS}": {{"format": "jsonlines"}}, "{STATES}": {{"format": "json", "item_classes": StateItem}},
        }},
    }}
"""
    run = crawl(tmp_path, source, settings={"LOG_LEVEL": "INFO"})
    assert run.code == 0, run.log
    assert not run.lines("ERROR"), run.log
    assert named_items(tmp_path) == ALL_ITEMS


def test_one_item_class_as_text(tmp_path: Path) -> None:
    """The state feed's item_classes may be one class or one import path; a feed with another one is Scrapy's to judge."""
    feeds = {ITEMS: {"format": "jsonlines"}, STATES: {"format": "json", "item_classes": "scrapy_state.StateItem"}}
    run = crawl(tmp_path, settings={"FEEDS": feeds})
    assert run.code == 0, run.log
    assert named_items(tmp_path) == ALL_ITEMS


@pytest.mark.parametrize("name", ["ITEM_PROCESSOR", "DOWNLOADER"])
def test_falls_back_to_itself(tmp_path: Path, name: str) -> None:
    """A fallback that is scrapy_state's own class, set by hand, is refused in one line."""
    ours = (
        "scrapy_state.barrier.BarrierItemProcessor"
        if name == "ITEM_PROCESSOR"
        else "scrapy_state.downloader.TrackingDownloader"
    )
    run = crawl(tmp_path, settings={f"STATE_FALLBACK_{name}": ours, name: ours, "LOG_LEVEL": "INFO"})
    assert run.code == 1
    [line] = run.lines("ERROR")
    assert f"the crawl does not start: STATE_FALLBACK_{name} is " in line


META_SPIDER = """
import scrapy

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        yield scrapy.Request("data:,1", meta={"state": {"name": "Texas"}})

    def parse(self, response):
        yield {"state": response.meta["state"]["name"]}
"""


def test_meta_without_a_state_feed(tmp_path: Path) -> None:
    """If no state is kept, meta["state"] is a key like any other."""
    run = crawl(tmp_path, META_SPIDER, settings={"FEEDS": {"items.jsonl": {"format": "jsonlines"}}})
    assert not run.lines("ERROR"), run.log
    assert (tmp_path / "items.jsonl").read_text() == '{"state": "Texas"}\n'


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (
            "def validate_state(self, state, spider):\n        raise ValueError('page is too high')",
            "ValueError: page is too high",
        ),
        ("def change_state(self, state):\n        return state['page']", "KeyError: 'page'"),
        ("def change_state(self, state):\n        return {'at': {1}}", "change_state() returned['at'] is a set"),
        ("def find_state(self):\n        return {1}, 'from nowhere'", "STATE must be a JSON object"),
    ],
)
def test_hook_that_raises(tmp_path: Path, hook: str, expected: str) -> None:
    """If a hook raises, the crawl does not start, and one line says what it raised and where."""
    source = f"{SPIDER}\nfrom scrapy_state import StateResolver\n\nclass Own(StateResolver):\n    {hook}\n"
    run = crawl(tmp_path, source, settings={"EXTENSIONS": {"spider.Own": 10}, "LOG_LEVEL": "INFO"})
    assert run.code == 1
    [line] = run.lines("ERROR")
    assert "the crawl does not start: " in line
    assert expected in line
    assert "Traceback" not in run.log
    assert not run.lines("begins at")


DELTAFETCH = """
class DeltaFetch:
    async def process_spider_output(self, response, result):
        async for each in result:
            yield each

class Derived(DeltaFetch):
    pass

class CrawlOnceMiddleware:
    pass
"""


def test_middlewares_that_remember(tmp_path: Path) -> None:
    """If a middleware is known to remember items before they are stored, one warning at the start says so, with a remedy."""
    settings = {
        "SPIDER_MIDDLEWARES": {"spider.Derived": 100, "spider.CrawlOnceMiddleware": 101},
        "DOWNLOADER_MIDDLEWARES": {"spider.CrawlOnceMiddleware": 100},
        "DUPEFILTER_CLASS": "scrapy_redis.RFPDupeFilter",
        "LOG_LEVEL": "INFO",
    }
    (tmp_path / "scrapy_redis.py").write_text(
        "from scrapy.dupefilters import RFPDupeFilter as Base\n\nclass RFPDupeFilter(Base):\n    pass\n"
    )
    run = crawl(tmp_path, SPIDER + DELTAFETCH, settings=settings)
    assert run.code == 0, run.log
    one, other, dupefilter = run.lines(
        "before the items are stored. If this run is killed, the items since its last checkpoint are lost"
    )
    assert "WARNING: spider.Derived notes a page as soon as its callback yields an item" in one
    assert "start the next run with -s DELTAFETCH_RESET=1" in one
    assert "WARNING: spider.CrawlOnceMiddleware notes" in other
    assert "WARNING: scrapy_redis.RFPDupeFilter notes" in dupefilter
    assert run.log.index(one) < run.log.index("begins at")
    readonly = crawl(tmp_path, SPIDER + DELTAFETCH, settings={**settings, "FEEDS": {"a.jsonl": {"format": "jsonlines"}}})
    assert not readonly.lines("WARNING: spider")
