"""The downloader (setting DOWNLOADER): the project's own, watched so that redirects and retries stay in their unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scrapy.core.downloader import Downloader
from scrapy.crawler import Crawler
from scrapy.utils.job import job_dir
from scrapy.utils.misc import load_object

from .barrier.barrier import get_barrier
from .exceptions import StateSettingsError
from .export.durable_items import needs_durable_items
from .feeds import StateFeed
from .resume.refusal import refuse
from .scrapy_internals import is_crawl, watch_fetch
from .settings import StateSettings, get_settings
from .units.tracker import RequestTracker


def TrackingDownloader(crawler: Crawler) -> Any:
    """Return the downloader that the project would have without scrapy_state, with its ``fetch()`` watched for units.

    It is a function, because others look at the class of the downloader and set its attributes, so it must be the project's
    own object and no wrapper. Scrapy calls what DOWNLOADER names with the crawler, and expects a downloader back.

    Without a state feed, STATE_FROM or the frontier in Redis nothing is watched: ``meta["state"]`` is a key like any other.
    """
    try:
        settings = get_settings(crawler)
        has_units = (
            StateFeed.from_settings(crawler.settings) is not None
            or settings.read_from is not None
            or needs_durable_items(crawler.settings)
        )
    except StateSettingsError as error:
        refuse(crawler, error)
        return Downloader(crawler)
    downloader = load_object(settings.fallback_downloader or Downloader)(crawler)
    if has_units and is_crawl(crawler):
        tracker = _tracker(crawler, settings)
        watch_fetch(downloader, tracker.is_sent, tracker.fetched)
        get_barrier(crawler).add_tracker(tracker)
    return downloader


def _tracker(crawler: Crawler, settings: StateSettings) -> RequestTracker:
    folder = job_dir(crawler.settings)
    seen_before = folder is not None and (Path(folder) / "requests.seen").exists()  # the filter opens this file later
    return RequestTracker(crawler, settings.on_unit_error, queue_on_disk=folder is not None, seen_before=seen_before)
