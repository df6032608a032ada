"""The item processor that carries the tickets through the project's own."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from scrapy.crawler import Crawler
from scrapy.exceptions import DropItem
from scrapy.pipelines import ItemPipelineManager
from scrapy.utils.defer import maybe_deferred_to_future
from scrapy.utils.deprecate import method_is_overridden
from scrapy.utils.misc import build_from_crawler, load_object

from ..exceptions import StateError, StateSettingsError
from ..items import StateItem
from ..resume.refusal import get_refusal, refuse
from ..scrapy_internals import (
    is_closing,
    is_crawl,
    mind_closing,
    watch_errbacks,
)
from ..settings import get_settings
from .barrier import get_barrier
from .middleware import _NOT_YIELDED, StateMiddleware, _no_state_item
from .tickets import within

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("scrapy_state.state")


class BarrierItemProcessor:
    """Carries the tickets through the project's own item processor (setting STATE_FALLBACK_ITEM_PROCESSOR)."""

    def __init__(self, crawler: Crawler, processor: Any) -> None:
        self.crawler = crawler
        self.processor = processor
        self._has_async = {method: _has_async(processor, method) for method in ("open_spider", "close_spider", "process_item")}
        self._barrier = get_barrier(crawler)
        self._tickets = self._barrier.tickets
        self._backpressure = self._barrier.backpressure
        self._process_item = partial(self._call, "process_item")
        if self._has_async["process_item"]:
            self._process_item = processor.process_item_async  # for every item: the shorter way
        self._opened = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make it, and the processor it wraps."""
        try:
            processor = get_settings(crawler).fallback_item_processor
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
                self._barrier.failure.refuse(refusal)
            middleware = self.crawler.get_spider_middleware(StateMiddleware)
            nearest = self.crawler.engine.scraper.spidermw.middlewares[0]
            if middleware is not nearest:
                error = StateSettingsError(
                    "SPIDER_MIDDLEWARES: scrapy_state.barrier.StateMiddleware must be nearest the engine, to see what really "
                    f"goes there, but {type(nearest).__name__} is: give that one a higher number, or ours a lower one"
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
            except StateError as error:
                self._barrier.failure.refuse(error)
        self._opened = True
        await self._call("open_spider")

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
        ticket = self._tickets.enter(item)
        if self._backpressure.held and (ticket.side is self._tickets.current.side or ticket.side.unit):
            await self._backpressure.wait()
        before = within.set(ticket)
        try:
            output = _no_state_item(await self._process_item(item))
        except DropItem:
            ticket.settle()
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
        self._tickets.leave(ticket, output)
        return output

    async def _call(self, method: str, *args: Any) -> Any:
        if self._has_async[method]:
            return await getattr(self.processor, f"{method}_async")(*args)
        return await maybe_deferred_to_future(getattr(self.processor, method)(*args, self.crawler.spider))


def _has_async(processor: Any, method: str) -> bool:
    """As Scraper does it (scrapy/core/scraper.py, _check_deprecated_itemproc_method)."""
    return hasattr(processor, f"{method}_async") and not (
        isinstance(processor, ItemPipelineManager)
        and method_is_overridden(type(processor), ItemPipelineManager, method)
        and not method_is_overridden(type(processor), ItemPipelineManager, f"{method}_async")
    )
