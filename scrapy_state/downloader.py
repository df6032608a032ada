"""The downloader (setting DOWNLOADER): the project's own, watched, so that redirects and retries stay in their unit."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

from scrapy import Request
from scrapy.core.downloader import Downloader
from scrapy.crawler import Crawler
from scrapy.utils.job import job_dir
from scrapy.utils.misc import load_object

from .barrier.barrier import get_barrier
from .exceptions import StateSettingsError
from .export.durable_items import needs_durable_items
from .feeds import StateFeed
from .resume.refusal import refuse
from .scrapy_internals import is_crawl
from .settings import get_settings
from .units.tracker import RequestTracker


class TrackingDownloader:
    """Makes the project's own downloader (setting STATE_FALLBACK_DOWNLOADER), and has its ``fetch()`` watched.

    Only there it can be seen that a middleware puts a request in another one's place.
    """

    def __new__(cls, crawler: Crawler) -> Any:
        """Return the project's own: others look at its class, and set its attributes."""
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
        if not (has_units and is_crawl(crawler)):
            return downloader  # meta["state"] is a key like any other there
        folder = job_dir(crawler.settings)
        seen_before = folder is not None and (Path(folder) / "requests.seen").exists()  # the filter is not open yet
        tracker = get_barrier(crawler).tracker = RequestTracker(crawler, folder is not None, seen_before)
        fetch = downloader.fetch

        @wraps(fetch)  # the engine looks at its arguments
        def watched(request: Request, *args: Any, **kwargs: Any) -> Any:
            result = fetch(request, *args, **kwargs)
            return result.addCallback(tracker.fetched, request) if request in tracker.sent else result

        downloader.fetch = watched
        return downloader
