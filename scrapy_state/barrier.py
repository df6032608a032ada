"""Which side of a barrier every item is on: tickets in yield order, from the spider to the exporter.

``StateMiddleware`` (spider middleware nearest the engine) gives each item a ticket as the spider yields it, because
Scrapy queues yielded items before any pipeline sees them. ``BarrierItemProcessor`` (setting ITEM_PROCESSOR) finds the
ticket again when the item enters the pipelines, and hands it on to the object that leaves them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from scrapy import Request, Spider, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider, DropItem, IgnoreRequest
from scrapy.http import Response
from scrapy.pipelines import ItemPipelineManager
from scrapy.spidermiddlewares.base import BaseSpiderMiddleware
from scrapy.spidermiddlewares.httperror import HttpError
from scrapy.utils.defer import maybe_deferred_to_future
from scrapy.utils.deprecate import method_is_overridden
from scrapy.utils.misc import build_from_crawler, load_object
from twisted.python.failure import Failure

from .exceptions import StateError, StateSettingsError
from .extension import is_crawl
from .gaps import fail_when_closed, is_closing, mind_closing, requests_in_flight, requests_waiting, watch_errbacks
from .items import StateItem
from .order import OrderCheck, Page, StateItemCheck
from .plain import in_log, json_object
from .refusals import get_refusal, refuse, set_refusal
from .remembering import warn_of_memories
from .settings import StateSettings
from .tickets import get_barrier, within

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("scrapy_state.state")
_NOT_YIELDED = (
    "a StateItem counts only where the spider yields it; a pipeline or an extension has submitted or returned this one"
)


class StateMiddleware(BaseSpiderMiddleware):
    """Takes the tickets; the end of the way for state items.

    It must be nearest the engine, so that it sees what really goes there.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._barrier = get_barrier(crawler)
        self._check = StateItemCheck(
            OrderCheck(lambda: requests_in_flight(crawler.engine), lambda: requests_waiting(crawler.engine)),
            _interval_seconds(crawler),
            {"spider": crawler.spider},
        )
        self._told = False
        # Scrapy's root logger lets everything by, and its handler drops it: making a line that is not shown costs the same.
        self._is_debug = logging.Handler(crawler.settings["LOG_LEVEL"]).level <= logging.DEBUG
        crawler.signals.connect(self._spider_error, signals.spider_error)
        crawler.signals.connect(self._spider_opened, signals.spider_opened)
        crawler.signals.connect(self._spider_closed, signals.spider_closed)

    async def process_start(self, start: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """As for a callback's output; ends with the checkpoints, since Scrapy goes on reading ``start()`` while it closes.

        With units it does so without a rest, however many they are: then it ends as the closing begins.
        """
        async for each in self.process_spider_output_async(None, start):
            yield each
            if self._barrier.held and self._barrier.listener is not None:
                # Engine.pause() does not stop start(), and its items don't wait for one another.
                await self._barrier.listener.room()
            if self._barrier.tracking is not None and self._barrier.tracking.crowded:
                await self._barrier.tracking.room()
            if self._barrier.ended or (self._barrier.tracking is not None and is_closing(self.crawler.engine)):
                return

    async def process_spider_output_async(  # type: ignore[override]
        self, response: Response | Failure | None, result: AsyncIterator[Any]
    ) -> AsyncIterator[Any]:
        """Give each item its ticket; take the state items out. *response*: an errback's Failure, None for ``start()``.

        Every item of a crawl comes by here: the base class's does the same in more steps, each with a price.
        """
        request: Request | None = getattr(response, "request", None)
        page = self._check.order.begin(request)
        try:
            async for each in result:
                if isinstance(each, Request):
                    if self._is_to_be_sent(each, page):
                        yield each
                elif (item := self._processed_item(each, request, page)) is not None:
                    yield item
        except Exception as error:
            if self._barrier.tracking is not None:
                self._barrier.tracking.yielding_failed(error, request)
            raise
        finally:
            self._check.order.end(page)
        if self._barrier.tracking is not None:
            self._barrier.tracking.all_yielded(request)

    def get_processed_item(self, item: Any, response: Response | None) -> Any:
        """Give one item its ticket, or take a state item out: return None."""
        return self._processed_item(item, None if response is None else response.request)

    def download_failed(self, failure: Failure, request: Request) -> None:
        """Log where the crawl stands when a request failed for good."""
        if isinstance(failure.value, IgnoreRequest) and not isinstance(failure.value, HttpError):
            return  # left out on purpose: robots.txt, off-site, a middleware's wish
        self._barrier.log_progress(f"{request} failed ({type(failure.value).__name__})", self.crawler.spider)

    def _is_to_be_sent(self, request: Request, page: Page) -> bool:
        tracker = self._barrier.tracker
        if tracker is not None and (self._barrier.tracking is not None or "state" in request.meta):
            return tracker.request_yielded(request, page.request)
        page.sent += 1
        return True

    def _processed_item(self, item: Any, request: Request | None, page: Page | None = None) -> Any:
        if isinstance(item, StateItem):
            self._state_item(item, page)
            return None
        if item is not None and self._barrier.listener is not None:
            if self._barrier.tracking is None:
                self._barrier.issue(item)
                if not self._barrier.keeps_requests:
                    self._check.item()
            else:
                self._barrier.issue(item, self._barrier.tracking.ticket(request))
        return item

    def _state_item(self, item: StateItem, page: Page | None) -> None:
        spider = self.crawler.spider
        if self._barrier.tracking is not None:
            if not self._told:
                self._told = True
                logger.warning(
                    "state items are left out: this spider gives requests a state (meta), and the state follows those. "
                    "Use one or the other: see docs/units.md", extra={"spider": spider},
                )  # fmt: skip
            return
        # Copied once more: the spider may yield the same StateItem again, changed.
        found = item.state
        state = json_object(getattr(spider, "state", {}), "spider.state") if found is None else json_object(found)
        spider.state = json_object(state)  # type: ignore[union-attr]
        if self._is_debug and logger.isEnabledFor(logging.DEBUG):
            logger.debug("state item %s", in_log(state), extra={"spider": spider})
        if not self._barrier.keeps_requests:
            self._check.state(page)
        self._barrier.state_yielded(state)

    def _spider_opened(self, spider: Spider) -> None:
        if self._barrier.listener is not None:
            warn_of_memories(self.crawler)

    def _spider_closed(self, spider: Spider, reason: str) -> None:
        if self._barrier.tracking is None:
            self._check.closed(reason)
        if self._barrier.listener is None:  # else the exporter does, after the last checkpoint
            self._barrier.log_progress(f"spider closed ({reason})", spider)

    def _spider_error(self, failure: Failure, spider: Spider) -> None:
        self._barrier.log_progress(f"the spider raised {type(failure.value).__name__}", spider)


class BarrierItemProcessor:
    """Carries the tickets through the project's own item processor (setting STATE_FALLBACK_ITEM_PROCESSOR)."""

    def __init__(self, crawler: Crawler, processor: Any) -> None:
        self.crawler = crawler
        self.processor = processor
        self._has_async = {method: _has_async(processor, method) for method in ("open_spider", "close_spider", "process_item")}
        self._barrier = get_barrier(crawler)
        self._process_item = partial(self._call, "process_item")
        if self._has_async["process_item"]:
            self._process_item = processor.process_item_async  # for every item: the shorter way
        self._opened = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make it, and the processor it wraps."""
        try:
            processor = StateSettings.from_settings(crawler.settings).fallback_item_processor
        except StateSettingsError as error:
            refuse(crawler, error)
            processor = None
        return cls(crawler, build_from_crawler(load_object(processor or ItemPipelineManager), crawler))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)  # .middlewares and whatever else the wrapped one has

    async def open_spider_async(self) -> None:
        """Have the exporter prove that checkpoints can be stored, then open the wrapped processor."""
        if is_crawl(self.crawler):
            refusal = get_refusal(self.crawler)
            if refusal is not None:
                self._refuse(refusal)
            middleware = self.crawler.get_spider_middleware(StateMiddleware)
            nearest = self.crawler.engine.scraper.spidermw.middlewares[0]
            if middleware is not nearest:
                error = StateSettingsError(
                    "SPIDER_MIDDLEWARES: scrapy_state.barrier.StateMiddleware must be nearest the engine, to see what really "
                    f"goes there, but {type(nearest).__name__} is: give that one a higher number, or ours a lower one"
                )
                self._refuse(error)
            if middleware is not None:
                watch_errbacks(self.crawler.engine.scraper, middleware.process_spider_output_async, middleware.download_failed)
            self._closing = mind_closing(self.crawler.engine, self._spider_closing)
            try:
                for opener in self._barrier.openers:
                    await opener()
                if self._barrier.listener is not None:
                    await self._barrier.listener.opening()
            except StateError as error:
                self._refuse(error)
        self._opened = True
        await self._call("open_spider")

    def _refuse(self, error: StateError) -> NoReturn:
        """Close the spider before it has begun, with one line that says why, and exit code 1."""
        logger.error("the crawl does not start: %s", error, extra={"spider": self.crawler.spider})
        set_refusal(self.crawler, error)
        fail_when_closed(self.crawler)
        raise CloseSpider("state_refused") from error

    def _spider_closing(self) -> None:
        if self._barrier.tracking is not None:
            self._barrier.tracking.closing()
        if self._barrier.listener is not None:
            self._barrier.listener.closing()

    async def close_spider_async(self) -> None:
        """Close the wrapped processor, if it was opened."""
        if self._closing is not None:
            self._closing.cancel()
        if self._opened:
            within.set(None)  # whoever asked for the close may have done so from within a pipeline
            await self._call("close_spider")

    async def process_item_async(self, item: Any) -> Any:
        """Process *item* in the wrapped processor; hand its ticket on to the result."""
        if isinstance(item, StateItem):
            if not is_crawl(self.crawler):
                return item  # `scrapy parse --pipelines` calls this by itself, past every middleware
            raise DropItem(_NOT_YIELDED)
        if self._barrier.listener is None:
            return _no_state_item(await self._process_item(item))
        ticket = self._barrier.enter(item)
        if self._barrier.held and (ticket.side is self._barrier.side or ticket.side.unit):
            await self._barrier.listener.room()
        before = within.set(ticket)
        try:
            output = _no_state_item(await self._process_item(item))
        except DropItem:
            self._barrier.settle(ticket)
            raise
        except asyncio.CancelledError:
            # Nothing has become of it: not settled. While the crawl ends that is the end's business; else it is a failure.
            if not is_closing(self.crawler.engine):
                self._barrier.listener.item_failed(ticket, asyncio.CancelledError())
            raise
        except Exception as error:
            self._barrier.listener.item_failed(ticket, error)
            raise
        finally:
            within.reset(before)
        self._barrier.leave(ticket, output)
        return output

    async def _call(self, method: str, *args: Any) -> Any:
        if self._has_async[method]:
            return await getattr(self.processor, f"{method}_async")(*args)
        return await maybe_deferred_to_future(getattr(self.processor, method)(*args, self.crawler.spider))


def _no_state_item(output: Any) -> Any:
    if isinstance(output, StateItem):
        raise DropItem(_NOT_YIELDED)
    return output


def _interval_seconds(crawler: Crawler) -> float:
    try:
        return StateSettings.from_settings(crawler.settings).interval_seconds
    except StateSettingsError:
        return 0  # the crawl does not start, which others say


def _has_async(processor: Any, method: str) -> bool:
    """As Scraper does it (scrapy/core/scraper.py, _check_deprecated_itemproc_method)."""
    return hasattr(processor, f"{method}_async") and not (
        isinstance(processor, ItemPipelineManager)
        and method_is_overridden(type(processor), ItemPipelineManager, method)
        and not method_is_overridden(type(processor), ItemPipelineManager, f"{method}_async")
    )
