"""One run of a spider in a world: Scrapy's real engine without a reactor, in one process."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

from any_shape import HEAD, Shape
from scrapy import Spider
from scrapy.crawler import Crawler

from .loop import Loop
from .site import URL, Handler
from .store import SCHEME, SimStore
from .world import World

#: name -> (the end of its URI, its options)
FEEDS: dict[str, tuple[str, dict[str, Any]]] = {
    "all": (".jsonl", {"format": "jsonlines"}),
    "csv": (".csv", {"format": "csv", "batch_item_count": 2}),
    "batches": (".jsonl", {"format": "jsonlines", "batch_item_count": 3}),
}
STATES = f"{SCHEME}state/"
STATE_FEED = {f"{STATES}%(batch_id)010d.json": {"format": "json", "item_classes": ["scrapy_state.StateItem"]}}
_SETTINGS: dict[str, Any] = {
    "ADDONS": {"scrapy_state.Addon": 500},
    "TWISTED_REACTOR_ENABLED": False,
    "REMOTE_CONTROL_ENABLED": False,
    "TELNETCONSOLE_ENABLED": False,
    "DOWNLOAD_HANDLERS": {"http": Handler, "https": None, "ftp": None, "s3": None},
    "DOWNLOAD_DELAY": 0,
    "WARN_ON_GENERATOR_RETURN_VALUE": False,  # it would look for the source
    "STATE_STORES": {"sim": SimStore},
    "FEED_STORAGES": {"sim": "scrapy_state.feedstorages.DurableFeedStorage"},
    "STATE_SELFCHECK": False,  # it has a real thread
}


@dataclass
class Run:
    """How a run ended. *reason*: its finish reason; *errors*: what it logged."""

    reason: str | None = None
    failed: bool = False
    commits: int = 0
    items: int = 0
    errors: list[str] = field(default_factory=list)


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def settings_of(shape: Shape, **more: Any) -> dict[str, Any]:
    """Return the project's settings."""
    feeds = {f"{SCHEME}{name}/%(run_id)s-%(batch_id)05d{FEEDS[name][0]}": FEEDS[name][1] for name in shape.feeds}
    return {**_SETTINGS, "FEEDS": {**feeds, **STATE_FEED}, **shape.settings, **more}


def crawl(
    world: World,
    spider: type[Spider],
    settings: Mapping[str, Any],
    arguments: Mapping[str, Any],
    stop_after_seconds: float | None = None,
) -> Run:
    """Run *spider* until it ends, or is told to; a thread of *world* may do that."""
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    crawler = Crawler(spider, dict(settings))
    loop = Loop(world)
    if stop_after_seconds is not None:
        loop.call_later(stop_after_seconds, lambda: loop.create_task(_stop(crawler)))
    try:
        loop.run_until_complete(crawler.crawl_async(**arguments))
    finally:
        logging.getLogger().removeHandler(errors)
    stats = crawler.stats
    return Run(
        stats.get_value("finish_reason"),
        crawler.spider is None,
        stats.get_value("state/checkpoints", 0),
        stats.get_value("item_scraped_count", 0),
        errors.lines,
    )


class _Note(str):
    """A file without content, in the memory of this world: some spiders leave themselves a note that they have failed."""

    __slots__ = ()
    left: ClassVar[set[str]] = set()

    def exists(self) -> bool:
        return self in self.left

    def touch(self) -> None:
        self.left.add(self)


async def _stop(crawler: Crawler) -> None:
    """Stop *crawler* as SIGTERM does. (Before the engine runs, SIGTERM ends the process at once: that is a crash point.)"""
    while crawler._engine is None or not crawler._engine.running:  # noqa: ASYNC110 - Scrapy has no event for it
        await asyncio.sleep(0.05)
    await crawler.stop_async()


def spider_of(shape: Shape) -> type[Spider]:
    """Return the spider in the source of *shape*. Its settings may name what else is there, as ``spider.…``."""
    module = sys.modules["spider"] = ModuleType("spider")
    exec(compile(HEAD + shape.source, f"{shape.name}.py", "exec"), vars(module))
    vars(module)["Path"] = _Note
    spiders = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Spider)]
    return spiders[-1]


def arguments_of(shape: Shape, size: int) -> dict[str, str]:
    return {"site": URL, "pages": str(size), **shape.arguments}
