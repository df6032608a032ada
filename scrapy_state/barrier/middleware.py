"""The spider middleware that gives each item its ticket, and takes state items out.

An item gets its ticket as the spider yields it, because Scrapy queues yielded items before any pipeline sees them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any

from scrapy import Request, Spider, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.http import Response
from scrapy.spidermiddlewares.base import BaseSpiderMiddleware
from scrapy.spidermiddlewares.httperror import HttpError
from twisted.python.failure import Failure

from ..exceptions import StateSettingsError
from ..items import StateItem
from ..model.json_values import in_log, json_object
from ..model.web_docs import docs_url
from ..resume.remembering import warn_of_memories
from ..scrapy_internals import engine_of, is_closing, requests_in_flight, requests_waiting
from ..settings import get_settings
from .barrier import get_barrier
from .log import SpiderLog
from .order_check import OrderCheck, Page, StateItemCheck
from .tickets import Ticket


class StateMiddleware(BaseSpiderMiddleware):
    """Gives each item its ticket in the order of yielding, and takes state items out.

    It must be nearest the engine, so that it sees exactly what the engine gets.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._barrier = get_barrier(crawler)
        self._log = SpiderLog(crawler)
        self._check = StateItemCheck(
            OrderCheck(lambda: requests_in_flight(engine_of(crawler)), lambda: requests_waiting(crawler.engine)),
            _interval_seconds(crawler),
            self._log,
        )
        self._has_warned = False
        # Scrapy's loggers let every level pass, and its handler drops what LOG_LEVEL hides: a hidden line costs as much.
        self._shows_debug = _shows_debug(crawler.settings["LOG_LEVEL"])
        crawler.signals.connect(self._spider_error, signals.spider_error)
        crawler.signals.connect(self._spider_opened, signals.spider_opened)
        crawler.signals.connect(self._spider_closed, signals.spider_closed)

    async def process_start(self, start: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Pass on what ``start()`` yields, as for a callback; end it when the last checkpoint is cut, or the crawl has failed.

        Scrapy reads on while the spider is being closed, and while the engine is paused. With units ``start()`` may have no
        end, so then it ends as soon as the spider is being closed.
        """
        async for result in self.process_spider_output_async(None, start):
            yield result
            if self._barrier.backpressure.held:
                # engine.pause() does not stop start()
                await self._barrier.backpressure.wait()
            if self._barrier.tracking is not None and self._barrier.tracking.crowded:
                await self._barrier.tracking.room()
            if self._barrier.ended or (self._barrier.tracking is not None and is_closing(self.crawler.engine)):
                return

    async def process_spider_output_async(  # type: ignore[override]
        self, response: Response | Failure | None, result: AsyncIterator[Any]
    ) -> AsyncIterator[Any]:
        """Give each item its ticket; take state items out.

        Every item of a crawl passes here: the method of the base class would do the same in three calls more.

        :param response: a Failure for the output of an errback; None for that of ``start()``
        """
        request: Request | None = getattr(response, "request", None)
        page = self._begun(request, response is None)
        try:
            async for output in result:
                if isinstance(output, Request):
                    if self._is_to_be_sent(output, page):
                        yield output
                elif (item := self._processed_item(output, request, page)) is not None:
                    yield item
        except Exception as error:
            self._raised(error, page)
            raise
        finally:
            self._ended(page)
        if self._barrier.tracking is not None:
            self._barrier.tracking.all_yielded(request)

    def process_spider_output(  # type: ignore[override]
        self, response: Response, result: Iterable[Any]
    ) -> Iterable[Any]:
        """The same for the output of a callback that is no coroutine: Scrapy before 2.16 asks for it here.

        :param response: what the callback got
        """
        request = response.request
        page = self._begun(request)
        try:
            for output in result:
                if isinstance(output, Request):
                    if self._is_to_be_sent(output, page):
                        yield output
                elif (item := self._processed_item(output, request, page)) is not None:
                    yield item
        except Exception as error:
            self._raised(error, page)
            raise
        finally:
            self._ended(page)
        if self._barrier.tracking is not None:
            self._barrier.tracking.all_yielded(request)

    def _begun(self, request: Request | None, is_start: bool = False) -> Page:
        # With a recorder, the books about pages know which requests are out.
        page = self._check.order.begin(request) if self._barrier.recorder is None else Page(request)
        page.is_start = is_start
        return page

    def _raised(self, error: Exception, page: Page) -> None:
        if self._barrier.delta is not None and not isinstance(error, CloseSpider):
            self._barrier.delta.failed(page.request, self._ticket(page.request, page.is_start))
        if self._barrier.tracking is not None:
            self._barrier.tracking.yielding_failed(error, page.request)

    def _ended(self, page: Page) -> None:
        if self._barrier.recorder is None:
            self._check.order.end(page)
        elif not page.is_start:
            self._barrier.recorder.yielded_all()

    def get_processed_item(self, item: Any, response: Response | None) -> Any:
        """Give *item* its ticket and return it; of a state item return None."""
        return self._processed_item(item, None if response is None else response.request)

    def download_failed(self, failure: Failure, request: Request) -> None:
        """Log where the crawl is when a request has failed for good."""
        if isinstance(failure.value, IgnoreRequest) and not isinstance(failure.value, HttpError):
            return  # skipped on purpose: by robots.txt, as off-site, by a middleware
        self._barrier.log_progress(f"{request} failed ({type(failure.value).__name__})")

    def _is_to_be_sent(self, request: Request, page: Page) -> bool:
        if self._barrier.delta is not None and self._barrier.delta.skips(request, page.is_start):
            return False
        tracker = self._barrier.tracker
        if tracker is not None and (self._barrier.tracking is not None or "state" in request.meta):
            return tracker.request_yielded(request, page.request)
        page.sent += 1
        if self._barrier.recorder is not None:
            self._barrier.recorder.yielded_request(page.is_start)
        return True

    def _processed_item(self, item: Any, request: Request | None, page: Page | None = None) -> Any:
        if isinstance(item, StateItem):
            self._state_item(item, page)
            return None
        if item is not None and self._barrier.listener is not None:
            recorder = self._barrier.recorder
            is_start = page is not None and page.is_start
            if recorder is not None:
                if is_start and recorder.leaves_out_item():
                    return None
                self._check.items += 1
            elif self._barrier.tracking is None and not self._barrier.keeps_requests:
                self._check.item()
            ticket = self._ticket(request, is_start)
            if self._barrier.delta is not None:
                ticket = self._barrier.delta.ticket(item, request, ticket)
            self._barrier.tickets.issue(item, ticket)
        return item

    def _ticket(self, request: Request | None, is_start: bool) -> Ticket:
        """Return the ticket for an item of the callback of *request*, or of ``start()``, that is yielded now."""
        ticket = None
        if self._barrier.recorder is not None:
            ticket = self._barrier.recorder.ticket(is_start)
        elif self._barrier.tracking is not None:
            ticket = self._barrier.tracking.ticket(request)
        return ticket or self._barrier.tickets.current

    def _state_item(self, item: StateItem, page: Page | None) -> None:
        spider = self.crawler.spider
        if self._barrier.tracking is not None:
            if not self._has_warned:
                self._has_warned = True
                self._log.warning(
                    "state items are left out: this spider gives requests a state (meta), and the state follows those. "
                    "Use one or the other: see %s", docs_url("units", "when-to-use-what"),
                )  # fmt: skip
            return
        # A copy: the spider may change the same StateItem and yield it again.
        own = item.state
        state = json_object(getattr(spider, "state", {}), "spider.state") if own is None else json_object(own)
        spider.state = json_object(state)  # type: ignore[union-attr]
        if self._shows_debug and self._log.isEnabledFor(logging.DEBUG):
            self._log.debug("state item %s", in_log(state))
        if self._barrier.recorder is not None:
            self._check.state(None)  # requests may be out
        elif not self._barrier.keeps_requests:
            self._check.state(page)
        self._barrier.state_yielded(state, page is not None and page.is_start)

    def _spider_opened(self, spider: Spider) -> None:
        if self._barrier.listener is not None:
            warn_of_memories(self.crawler)

    def _spider_closed(self, spider: Spider, reason: str) -> None:
        listener, recorder = self._barrier.listener, self._barrier.recorder
        if self._barrier.tracking is None and (recorder is None or (listener is not None and listener.is_clean)):
            self._check.closed(reason)
        if self._barrier.listener is None:  # otherwise the exporter does, after the last checkpoint
            self._barrier.log_progress(f"spider closed ({reason})")

    def _spider_error(self, failure: Failure, spider: Spider) -> None:
        self._barrier.log_progress(f"the spider raised {type(failure.value).__name__}")


def _interval_seconds(crawler: Crawler) -> float:
    try:
        return get_settings(crawler).interval_seconds
    except StateSettingsError:
        return 0  # the crawl does not start; the item processor says why


def _shows_debug(log_level: str | int) -> bool:
    number = logging.getLevelName(log_level) if isinstance(log_level, str) else log_level
    return isinstance(number, int) and number <= logging.DEBUG
