"""The item processor that carries tickets past the project's pipelines."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider, DropItem
from scrapy.pipelines import ItemPipelineManager
from scrapy.utils.defer import maybe_deferred_to_future
from scrapy.utils.misc import build_from_crawler, load_object

from ..exceptions import StateError, StateSettingsError, as_state_error
from ..items import StateItem
from ..resume.refusal import get_refusal, refuse
from ..scrapy_internals import (
    close_unstarted,
    engine_of,
    has_async,
    is_closing,
    is_crawl,
    mend_engine,
    mind_closing,
    nearest_spider_middleware,
    watch_errbacks,
)
from ..settings import get_settings
from .barrier import get_barrier
from .middleware import StateMiddleware
from .tickets import within

if TYPE_CHECKING:
    from typing_extensions import Self

_NOT_YIELDED = (
    "a StateItem counts only where the spider yields it; a pipeline or an extension has submitted or returned this one"
)


class BarrierItemProcessor:
    """Wraps the project's item processor (setting STATE_FALLBACK_ITEM_PROCESSOR), and carries each item's ticket past it."""

    def __init__(self, crawler: Crawler, processor: Any) -> None:
        self.crawler = crawler
        self.processor = processor
        self._has_async = {method: has_async(processor, method) for method in ("open_spider", "close_spider", "process_item")}
        self._barrier = get_barrier(crawler)
        self._tickets = self._barrier.tickets
        self._backpressure = self._barrier.backpressure
        self._process_item = partial(self._call, "process_item")
        if self._has_async["process_item"]:
            self._process_item = processor.process_item_async  # saves a call for every item
        self._opened = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make it and the processor that it wraps."""
        try:
            processor = get_settings(crawler).fallback_item_processor
        except StateSettingsError as error:
            refuse(crawler, error)
            processor = None
        return cls(crawler, build_from_crawler(load_object(processor or ItemPipelineManager), crawler))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)  # others look at .middlewares, for example

    async def open_spider_async(self) -> None:
        """Check that the crawl may start, then open the wrapped processor.

        :raises CloseSpider: if the crawl must not start
        """
        try:
            await self._check()
        except CloseSpider as error:
            if close_unstarted(self.crawler.engine, error.reason):
                return
            raise
        self._opened = True
        await self._call("open_spider")

    async def _check(self) -> None:
        if is_crawl(self.crawler) and engine_of(self.crawler) is not None:
            refusal = get_refusal(self.crawler)
            if refusal is not None:
                self._barrier.failure.refuse(refusal)
            middleware = self.crawler.get_spider_middleware(StateMiddleware)
            nearest = nearest_spider_middleware(self.crawler.engine)
            if middleware is not nearest:
                error = StateSettingsError(
                    "SPIDER_MIDDLEWARES: scrapy_state.barrier.StateMiddleware must be nearest the engine, to see what the "
                    f"engine gets, but {type(nearest).__name__} is nearer",
                    remedy="give that one a higher number, or ours a lower one",
                )
                self._barrier.failure.refuse(error)
            if middleware is not None:
                watch_errbacks(self.crawler.engine.scraper, middleware.process_spider_output_async, middleware.download_failed)
            self._closing = mind_closing(self.crawler.engine, self._spider_closing)
            try:
                for opener in self._barrier.openers:
                    await opener()
                if self._barrier.listener is not None:
                    await self._barrier.listener.opening()
            except (StateError, OSError, MemoryError) as error:
                self._barrier.failure.refuse(as_state_error(error))
            mend_engine(self.crawler.engine)  # last: the openers want to hear what start() raises before this does

    def _spider_closing(self) -> None:
        if self._barrier.tracking is not None:
            self._barrier.tracking.closing()
        if self._barrier.listener is not None:
            self._barrier.listener.closing()

    async def close_spider_async(self) -> None:
        """Close the wrapped processor if it was opened."""
        if self._closing is not None:
            self._closing.cancel()
        if self._opened:
            within.set(None)  # a pipeline may have closed the spider while it was processing an item
            await self._call("close_spider")

    async def process_item_async(self, item: Any) -> Any:
        """Process *item* in the wrapped processor, and give its ticket to what that returns."""
        if isinstance(item, StateItem):
            if not is_crawl(self.crawler):
                return item  # `scrapy parse --pipelines` calls this without any middleware
            raise DropItem(_NOT_YIELDED)
        if self._barrier.listener is None:
            return _no_state_item(await self._process_item(item))
        ticket = self._tickets.enter(item)
        if self._backpressure.held and (ticket.side is self._tickets.current.side or ticket.side.is_held):
            await self._backpressure.wait()
        before = within.set(ticket)
        try:
            output = _no_state_item(await self._process_item(item))
        except DropItem:
            ticket.settle()
            raise
        except asyncio.CancelledError:
            # The item is not settled. While the crawl is ending, the last cut deals with that; otherwise it is a failure.
            if not is_closing(self.crawler.engine):
                self._barrier.listener.item_failed(ticket, asyncio.CancelledError())
            raise
        except Exception as error:
            self._barrier.listener.item_failed(ticket, error)
            raise
        finally:
            within.reset(before)
        self._tickets.leave(ticket, output)
        return output

    async def _call(self, method: str, *args: Any) -> Any:
        if self._has_async[method]:
            return await getattr(self.processor, f"{method}_async")(*args)
        return await maybe_deferred_to_future(getattr(self.processor, method)(*args, self.crawler.spider))


def _no_state_item(output: Any) -> Any:
    if isinstance(output, StateItem):
        raise DropItem(_NOT_YIELDED)
    return output
