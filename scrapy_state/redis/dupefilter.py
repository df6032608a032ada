"""DUPEFILTER_CLASS beside a frontier in Redis: it may decide, and must not outlive the process."""

from __future__ import annotations

import logging
from copy import copy
from typing import Any

from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.dupefilters import BaseDupeFilter, RFPDupeFilter
from scrapy.utils.misc import build_from_crawler, load_object
from scrapy.utils.python import global_object_name

from ..exceptions import StateSettingsError

logger = logging.getLogger("scrapy_state.state")

#: Packages whose filters keep what they have seen, and those of clients that such a filter has as an attribute
_KEEPERS = ("scrapy_redis", "scrapy_redis_bloomfilter", "scrapy_redis_cluster", "scrapy_redis_sentinel", "scrapy_distributed")
_CLIENTS = ("redis", "rediscluster", "sqlite3", "pymongo", "psycopg", "psycopg2", "sqlalchemy", "plyvel", "lmdb")


def local_dupefilter(crawler: Crawler) -> Any:
    """Return the filter of DUPEFILTER_CLASS, without JOBDIR; of the default one what Redis can't do, and what it logs."""
    filter_class = load_object(crawler.settings["DUPEFILTER_CLASS"])
    if filter_class is RFPDupeFilter:
        debug = crawler.settings.getbool("DUPEFILTER_DEBUG")
        return RFPDupeFilter(None, debug, fingerprinter=crawler.request_fingerprinter)
    without = copy(crawler)
    without.settings = crawler.settings.copy()
    without.settings.frozen = False
    without.settings.set("JOBDIR", None, crawler.settings.getpriority("JOBDIR") or 0)
    return build_from_crawler(filter_class, without)


def check_dupefilter(dupefilter: Any, spider: Spider) -> None:
    """Warn of a filter that is not Scrapy's own.

    :raises StateSettingsError: if it keeps what it has seen: a page that is crawled again after a kill would lose its links
    """
    cls = type(dupefilter)
    if cls in (RFPDupeFilter, BaseDupeFilter):
        return
    name = f"DUPEFILTER_CLASS is {global_object_name(cls)!r}"
    keeper = next((base for base in cls.__mro__ if _package(base) in _KEEPERS), None)
    client = next((each for each in getattr(dupefilter, "__dict__", {}).values() if _package(type(each)) in _CLIENTS), None)
    if keeper is not None or client is not None:
        raise StateSettingsError(
            f"{name}, which remembers what it has seen when the process has ended. A page that is crawled again, because its "
            "worker was killed, would then have its links left out. Remove the setting: the frontier in Redis keeps what was "
            "seen, together with the requests"
        )
    logger.warning(
        "%s: each worker filters by itself, and the frontier in Redis keeps no fingerprints. If this class remembers "
        "anything when the process has ended, pages are lost after a kill; without the setting Redis filters for all", name,
        extra={"spider": spider},
    )  # fmt: skip


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]
