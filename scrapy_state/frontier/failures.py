"""What follows when a page fails: it is skipped, held for the next run, or the crawl stops (STATE_ON_PAGE_ERROR)."""

from __future__ import annotations

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.spidermiddlewares.httperror import HttpError

from ..barrier.barrier import get_barrier
from ..exceptions import PageFailed
from ..model.key_template import without_credentials
from ..scrapy_internals import is_closing
from ..settings import StateSettings
from .books.pages import Pages

#: The session of an earlier run has expired, if the site answers a request of that run so.
_SESSION_STATUSES = (401, 403, 407)


class PageFailures:
    """Notices failures, as ``scrapy_internals.watch_failures()`` and ``watch_start()`` report them, and tells the books."""

    def __init__(self, crawler: Crawler, settings: StateSettings, pages: Pages) -> None:
        self._crawler = crawler
        self._on_page_error = settings.on_page_error
        self._failure = get_barrier(crawler).failure
        self._pages = pages
        #: the newest page of earlier runs
        self._first_number = pages.number
        self._retry_statuses = set(map(int, crawler.settings.getlist("RETRY_HTTP_CODES")))
        #: whether the spider itself has raised CloseSpider, so that the crawl is over
        self.spider_has_closed = False

    def not_taken(self, error: BaseException, request: Request) -> None:
        """The download of *request* failed, and no errback handled *error*."""
        if isinstance(error, HttpError):
            status, page = error.response.status, self._pages.under_way.of(request)
            is_expired = status in _SESSION_STATUSES and page is not None and 0 < page.number <= self._first_number
            if is_expired or status in self._retry_statuses:
                self._failed(request, f"HTTP {status}", hold=is_expired)
        elif not isinstance(error, IgnoreRequest):
            self._failed(request, type(error).__name__)

    def spider_failed(self, error: BaseException, request: Request) -> None:
        """The callback or errback of *request* has raised *error*."""
        if isinstance(error, CloseSpider):
            self.spider_has_closed = True
        else:
            self._failed(request, f"{type(error).__name__} in the callback")

    def start_raised(self, error: Exception) -> None:
        """``start()`` has raised *error*."""
        self.spider_has_closed = self.spider_has_closed or isinstance(error, CloseSpider)

    def _failed(self, request: Request, reason: str, hold: bool = False) -> None:
        page = self._pages.under_way.of(request)
        if page is None or self.spider_has_closed:
            return
        if is_closing(self._crawler.engine):
            self._pages.leave_pending(page)  # it may have failed only because the crawl is closing
            return
        url = without_credentials(request.url)
        self._crawler.stats.inc_value("state/pages_failed")
        choice = self._on_page_error
        if choice == "skip" and not hold:
            page.skip(url, reason)
            return
        self._pages.hold(page, reason)
        if choice == "stop":
            error = PageFailed(f"the page {url} failed: {reason}")
            self._failure.fail("state_page_failed", error, blocks_newest=False)
