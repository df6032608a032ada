"""Components that remember what a run has seen before its items are durable, so that a kill loses these items for good."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scrapy.crawler import Crawler
from scrapy.utils.job import job_dir
from scrapy.utils.misc import load_object

from ..model.web_docs import docs_url
from ..scrapy_internals import components
from ..settings import names_class
from .requests import keeps_pages

logger = logging.getLogger("scrapy_state.state")
#: Classes by name, because many packages contain copies of them: what they do, and how to make them forget
_BY_NAME = {
    "DeltaFetch": (
        "notes a page as soon as its callback yields an item",
        "start the next run with -s DELTAFETCH_RESET=1",
    ),
    "CrawlOnceMiddleware": (
        "notes a page as soon as its callback has ended",
        "start the next run with -s CRAWL_ONCE_RESET=1",
    ),
}
#: The same for classes whose names other packages use for something else: only in these packages
_BY_PACKAGE = {
    ("scrapy_redis", "RFPDupeFilter"): (
        "notes a request in Redis before it is sent",
        "flush its keys before the next run, or use scrapy_state.redis.Scheduler",
    ),
}
#: Settings of other packages, and what replaces them
_REPLACED = {
    "DELTAFETCH_ENABLED": "STATE_DELTA",
    "DELTAFETCH_DIR": "nothing (the checkpoints remember; scrapy state delta SPIDER --import takes its database over)",
    "DELTAFETCH_RESET": "-s STATE_DELTA_RESET=True, for one run",
}


def warn_of_memories(crawler: Crawler) -> None:
    """Log a warning for each component in use that remembers too early, as far as such components are known.

    Log what replaces the settings of such components, whether or not these are in use.
    """
    replaced = [f"{name}: {instead}" for name, instead in _REPLACED.items() if name in crawler.settings]
    if replaced:
        logger.info(
            "settings of scrapy-deltafetch, and what replaces them: %s. See %s",
            "; ".join(replaced), docs_url("delta", "coming-from-scrapy-deltafetch"), extra={"spider": crawler.spider},
        )  # fmt: skip
    for component in _components(crawler):
        for cls in component.__mro__:
            known = _BY_NAME.get(cls.__name__) or _BY_PACKAGE.get((cls.__module__.partition(".")[0], cls.__name__))
            if known is not None:
                does, forget = known
                logger.warning(
                    "%s.%s %s, before the items are stored. If this run is killed, the items since its last checkpoint are "
                    "lost: the next run skips these pages. Remove it from the settings, or %s: see %s",
                    component.__module__, component.__qualname__, does, forget, docs_url("state", "what-remembers-too-early"),
                    extra={"spider": crawler.spider},
                )  # fmt: skip
                break


def _components(crawler: Crawler) -> Iterator[type]:
    """Yield the classes of the middlewares, the pipelines and the duplicates filter in use, once each."""
    classes: list[Any] = [*map(type, components(crawler.engine))]
    if names_class(crawler.settings["DUPEFILTER_CLASS"], object):
        classes.append(load_object(crawler.settings["DUPEFILTER_CLASS"]))
    yield from dict.fromkeys(classes)


def warn_of_jobdir(crawler: Crawler) -> None:
    """Warn if the request that ``start()`` yields for the state may be dropped, because JOBDIR remembers it. Reads a folder."""
    folder = job_dir(crawler.settings)
    if folder and not keeps_pages(crawler) and (Path(folder) / "requests.seen").exists():
        logger.warning(
            "JOBDIR %s remembers the requests of an earlier run, so the request that start() yields for the state may be "
            "filtered as a duplicate. Yield it with dont_filter=True, or use a new JOBDIR",
            folder, extra={"spider": crawler.spider},
        )  # fmt: skip
