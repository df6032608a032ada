"""The project's duplicates filter without JOBDIR: what a run has seen lies in the checkpoints, or in Redis."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import copy
from hashlib import sha1
from pathlib import Path
from typing import Any

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.dupefilters import RFPDupeFilter
from scrapy.utils.job import job_dir
from scrapy.utils.misc import build_from_crawler, load_object
from scrapy.utils.request import RequestFingerprinter

logger = logging.getLogger("scrapy_state.state")


def local_dupefilter(crawler: Crawler) -> Any:
    """Return the filter of DUPEFILTER_CLASS, without JOBDIR."""
    filter_class = load_object(crawler.settings["DUPEFILTER_CLASS"])
    if filter_class is RFPDupeFilter:
        debug = crawler.settings.getbool("DUPEFILTER_DEBUG")
        return RFPDupeFilter(None, debug, fingerprinter=crawler.request_fingerprinter)
    without = copy(crawler)
    without.settings = crawler.settings.copy()
    without.settings.frozen = False
    without.settings.set("JOBDIR", None, crawler.settings.getpriority("JOBDIR") or 0)
    return build_from_crawler(filter_class, without)


def fingerprinter(crawler: Crawler) -> Callable[[Request], bytes]:
    """Return what gives a request's fingerprint, of whose bytes the first 12 tell requests apart.

    Scrapy's are hashes. A project's fingerprinter may return any bytes, such as a URL, so those are hashed.
    """
    fingerprint: Callable[[Request], bytes] = crawler.request_fingerprinter.fingerprint
    if type(crawler.request_fingerprinter) is RequestFingerprinter:
        return fingerprint
    return lambda request: sha1(fingerprint(request)).digest()


def warn_of_jobdir(crawler: Crawler) -> None:
    """Warn if requests of an earlier run wait in JOBDIR, where nobody reads them. Reads a folder."""
    folder = job_dir(crawler.settings)
    # A crawl that is over leaves active.json there.
    if folder is not None and any(path.name != "active.json" for path in Path(folder).glob("requests.queue/*")):
        logger.warning(
            "JOBDIR %s has requests of an earlier run, which are not read: scrapy_state keeps requests in the checkpoints. To "
            "finish that crawl first, run once with -s STATE_ENABLED=False", folder, extra={"spider": crawler.spider},
        )  # fmt: skip
