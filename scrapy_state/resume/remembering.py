"""Components that remember what a run has seen before its items are durable, so that a kill loses these for good."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from scrapy.crawler import Crawler
from scrapy.utils.misc import load_object

from ..settings import names_class

logger = logging.getLogger("scrapy_state.state")
#: Classes by name, since there are copies of them in many packages; what they do; how to make one forget
_BY_NAME = {
    "DeltaFetch": (
        "notes a page as soon as its callback yields an item",
        "start the next run with -s DELTAFETCH_RESET=1",
    ),
    "CrawlOnceMiddleware": (
        "notes a page as soon as its callback is over",
        "start the next run with -s CRAWL_ONCE_RESET=1",
    ),
}
#: Likewise, in the packages of these names only, as others have classes of the same name
_BY_PACKAGE = {
    ("scrapy_redis", "RFPDupeFilter"): (
        "notes a request in Redis before it is sent",
        "flush its keys before the next run, or use scrapy_state.redis.Scheduler",
    ),
}


def warn_of_memories(crawler: Crawler) -> None:
    """Log a warning for each component in use that is known to remember too early."""
    for component in _components(crawler):
        for cls in component.__mro__:
            known = _BY_NAME.get(cls.__name__) or _BY_PACKAGE.get((cls.__module__.partition(".")[0], cls.__name__))
            if known is not None:
                does, forget = known
                logger.warning(
                    "%s.%s %s, before the items are stored. If this run is killed, the items since its last checkpoint are "
                    "lost: the next run leaves these pages out. Take it out of the settings, or %s: see docs/state.md",
                    component.__module__, component.__qualname__, does, forget, extra={"spider": crawler.spider},
                )  # fmt: skip
                break


def _components(crawler: Crawler) -> Iterator[type]:
    """Yield the classes of the middlewares and pipelines that are at work, and of the duplicates filter, once each."""
    engine = crawler.engine
    managers = (engine.scraper.spidermw, getattr(engine.downloader, "middleware", None), engine.scraper.itemproc)
    found: list[Any] = [type(each) for manager in managers for each in getattr(manager, "middlewares", ())]
    if names_class(crawler.settings["DUPEFILTER_CLASS"], object):
        found.append(load_object(crawler.settings["DUPEFILTER_CLASS"]))
    yield from dict.fromkeys(found)
