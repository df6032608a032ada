"""Whether a run continues with the requests of its checkpoint, and what it leaves behind if not."""

from __future__ import annotations

import logging

from scrapy.crawler import Crawler
from scrapy.utils.misc import load_object

from ..model.requests import Requests
from ..settings import StateSettings

logger = logging.getLogger("scrapy_state.state")


def keeps_pages(crawler: Crawler) -> bool:
    """Whether *crawler*'s scheduler keeps its requests in the checkpoints (frontier/scheduler.py). It then reads no JOBDIR."""
    return bool(getattr(load_object(crawler.settings["SCHEDULER"]), "keeps_pages", False))


def why_without_requests(settings: StateSettings, crawler: Crawler) -> str:
    """Return why a run of *crawler* takes only the state of its checkpoint; empty if it continues with the requests, too."""
    if settings.lag:
        return "STATE_LAG goes back"
    if not settings.requests:
        return "STATE_REQUESTS is False"
    if not keeps_pages(crawler):
        return "SCHEDULER is not scrapy_state's"
    if _only_reads(settings) and not settings.requests_explicit:
        return "a run that only reads takes the state alone. To try them out: -s STATE_REQUESTS=True"
    return ""


def log_left_behind(requests: Requests, why: str, settings: StateSettings, crawler: Crawler) -> None:
    """Log that this run does not continue with *requests*. In a run that only reads they are still there for the next one."""
    logger.log(
        logging.INFO if _only_reads(settings) else logging.WARNING,
        "%s pending requests of the last run are left behind, and %s seen fingerprints: %s", requests.pending, requests.seen,
        why, extra={"spider": crawler.spider},
    )  # fmt: skip


def _only_reads(settings: StateSettings) -> bool:
    return settings.readonly or settings.read_from is not None
