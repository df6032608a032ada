"""Which side of a barrier every item is on: tickets in yield order, from the spider to the exporter.

``StateMiddleware`` (spider middleware nearest the engine) gives each item a ticket as the spider yields it, because
Scrapy queues yielded items before any pipeline sees them. ``BarrierItemProcessor`` (setting ITEM_PROCESSOR) finds the
ticket again when the item enters the pipelines, and hands it on to the object that leaves them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from scrapy import Request, Spider, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import DropItem, IgnoreRequest
from scrapy.http import Response
from scrapy.pipelines import ItemPipelineManager
from scrapy.spidermiddlewares.base import BaseSpiderMiddleware
from scrapy.spidermiddlewares.httperror import HttpError
from scrapy.utils.defer import maybe_deferred_to_future
from scrapy.utils.deprecate import method_is_overridden
from scrapy.utils.misc import build_from_crawler, load_object
from twisted.python.failure import Failure

from .checkpoint import Checkpoint
from .exceptions import StateSettingsError
from .extension import as_text, is_crawl
from .gaps import is_closing, mind_closing, watch_errbacks
from .items import StateItem
from .order import OrderCheck
from .plain import json_object
from .settings import StateSettings

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("scrapy_state.state")


@dataclass(eq=False)
class Side:
    """The items between two barriers.

    :param out: how many of them are not settled yet
    :param errors: how many failed in a pipeline and were passed over, by their ticket's epoch
    :param batches: the exporter's batches of them, in the order they were opened
    """

    out: int = 0
    errors: Counter[int] = field(default_factory=Counter)
    batches: list[Any] = field(default_factory=list)


@dataclass(eq=False, frozen=True)
class Ticket:
    """An item's place. *epoch*: how many state items the spider had yielded before it."""

    side: Side
    epoch: int


class Listener(Protocol):
    """The exporter, as the barrier sees it."""

    async def opening(self) -> None:
        """Before the spider's first request; a raise refuses to start."""

    def state_yielded(self, state: dict[str, Any]) -> None:
        """A state item has come; every item yielded before it has its ticket."""

    def settled(self, side: Side) -> None:
        """An item of *side* needs nothing more to happen to it."""

    @property
    def held(self) -> bool:
        """Whether the spool is full."""

    async def room(self) -> None:
        """Wait while it is."""

    def closing(self) -> None:
        """The spider is being closed; requests may still be in flight and items in the pipelines."""

    def item_failed(self, ticket: Ticket, error: BaseException) -> None:
        """A pipeline raised; the item is not settled."""


@dataclass
class Barrier:
    """The tickets that are out in one crawl, and the newest states. Only touched from the event loop's thread."""

    listener: Listener | None = None
    #: what an item yielded now gets; all items between two state items share one
    ticket: Ticket = field(default_factory=lambda: Ticket(Side(), 0))
    #: the newest state the spider yielded, and the newest stored checkpoint
    yielded: dict[str, Any] | None = None
    stored: Checkpoint | None = None
    #: whether no checkpoint will be stored any more, so that there is no use in going on
    ended: bool = False
    _coming: _Tickets = field(default_factory=lambda: _Tickets())
    _leaving: _Tickets = field(default_factory=lambda: _Tickets())

    @property
    def side(self) -> Side:
        """The side of an item that is yielded now."""
        return self.ticket.side

    @property
    def epoch(self) -> int:
        """How many state items there have been."""
        return self.ticket.epoch

    def issue(self, item: Any) -> None:
        """Give *item*, which the spider has just yielded, its ticket."""
        self._coming.put(item, self._issued())

    def enter(self, item: Any) -> Ticket:
        """Return the ticket of *item*, which enters the pipelines; one that nobody yielded gets it here."""
        return self._coming.take(item) or self._issued()

    def leave(self, ticket: Ticket, item: Any) -> None:
        """Hand *ticket* on to what the pipelines made of its item."""
        self._leaving.put(item, ticket)

    def scraped(self, item: Any) -> Ticket:
        """Return the ticket of *item*, which has come through the pipelines."""
        return self._leaving.take(item) or self._issued()

    def settle(self, ticket: Ticket) -> None:
        """Take *ticket* back: its item is exported or dropped."""
        ticket.side.out -= 1
        if self.listener is not None:
            self.listener.settled(ticket.side)

    def cut(self) -> Side:
        """Begin a new side for the items yielded from now on; return the one until now."""
        old, self.ticket = self.ticket.side, Ticket(Side(), self.ticket.epoch)
        return old

    def next_epoch(self) -> None:
        """A state item has come that counts: whatever has its ticket is before it."""
        self.ticket = Ticket(self.ticket.side, self.ticket.epoch + 1)

    def state_yielded(self, state: dict[str, Any]) -> None:
        """Take note of a state item."""
        self.yielded = state
        if self.listener is not None:
            self.listener.state_yielded(state)

    def log_progress(self, why: str, spider: Spider | None) -> None:
        """Log the newest state yielded beside the newest stored."""
        stored = f"{as_text(self.stored.state)} (checkpoint {self.stored.id})" if self.stored else "none in this run"
        yielded = "none in this run" if self.yielded is None else as_text(self.yielded)
        logger.info("%s: last state yielded %s, last stored %s", why, yielded, stored, extra={"spider": spider})

    def _issued(self) -> Ticket:
        self.ticket.side.out += 1
        return self.ticket


class _Tickets:
    """Tickets by object, for objects that can't be keys and may be there more than once: first in, first out."""

    def __init__(self) -> None:
        # By id, with the object, so that it lives as long as its id stands here
        self._by_id: dict[int, deque[Ticket] | Ticket] = {}
        self._objects: dict[int, Any] = {}

    def put(self, item: Any, ticket: Ticket) -> None:
        key = id(item)
        there = self._by_id.get(key)
        if there is None:
            self._by_id[key] = ticket
            self._objects[key] = item
        elif isinstance(there, Ticket):
            self._by_id[key] = deque((there, ticket))
        else:
            there.append(ticket)

    def take(self, item: Any) -> Ticket | None:
        key = id(item)
        there = self._by_id.get(key)
        if isinstance(there, deque) and len(there) > 1:
            return there.popleft()
        if there is None:
            return None
        del self._by_id[key], self._objects[key]
        return there if isinstance(there, Ticket) else there.popleft()


def get_barrier(crawler: Crawler) -> Barrier:
    """Return the one barrier of *crawler*; middleware, processor and exporter meet there."""
    found: Barrier = vars(crawler).setdefault("_scrapy_state_barrier", Barrier())
    return found


class StateMiddleware(BaseSpiderMiddleware):
    """Takes the tickets; the end of the way for state items.

    It must be nearest the engine, so that it sees what really goes there.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._barrier = get_barrier(crawler)
        self._order = OrderCheck()
        crawler.signals.connect(self._spider_error, signals.spider_error)
        crawler.signals.connect(self._spider_closed, signals.spider_closed)

    async def process_start(self, start: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """As for a callback's output; ends with the checkpoints, since Scrapy goes on reading ``start()`` while it closes."""
        async for each in super().process_start(start):
            yield each
            if self._barrier.listener is not None and self._barrier.listener.held:
                # Engine.pause() does not stop start(), and its items don't wait for one another.
                await self._barrier.listener.room()
            if self._barrier.ended:
                return

    def get_processed_item(self, item: Any, response: Response | None) -> Any:
        """Give an item its ticket; take a state item out."""
        return self._processed_item(item, _request_of(response))

    def get_processed_request(self, request: Request, response: Response | None) -> Request:
        """Remember which request came from which, for the warning about state items out of order."""
        self._order.request_yielded(request, _request_of(response))
        return request

    async def errback_output(self, result: AsyncIterator[Any], request: Request) -> AsyncIterator[Any]:
        """Do for an errback's output, which passes no spider middleware, what is done for a callback's."""
        async for each in result:
            if isinstance(each, Request):
                self._order.request_yielded(each, request)
                yield each
            elif (item := self._processed_item(each, request)) is not None:
                yield item

    def download_failed(self, failure: Failure, request: Request) -> None:
        """Log where the crawl stands when a request failed for good."""
        if isinstance(failure.value, IgnoreRequest) and not isinstance(failure.value, HttpError):
            return  # left out on purpose: robots.txt, off-site, a middleware's wish
        self._barrier.log_progress(f"{request} failed ({type(failure.value).__name__})", self.crawler.spider)

    def _processed_item(self, item: Any, request: Request | None) -> Any:
        if isinstance(item, StateItem):
            self._state_item(item, request)
            return None
        if item is not None and self._barrier.listener is not None:
            self._barrier.issue(item)
        return item

    def _state_item(self, item: StateItem, request: Request | None) -> None:
        spider = self.crawler.spider
        # Copied once more: the spider may yield the same StateItem again, changed.
        found = item.state
        state = json_object(getattr(spider, "state", {}), "spider.state") if found is None else json_object(found)
        spider.state = json_object(state)  # type: ignore[union-attr]
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("state item %s", as_text(state), extra={"spider": spider})
        if self._order.state_yielded(request):
            logger.warning(
                "State items come from requests that are in flight at the same time, so they may come out of order, and "
                "a state may be stored before an earlier request has done its part. Yield the next request from the "
                "callback of the last one, or the state only where no earlier request is left: see docs/state.md",
                extra={"spider": spider},
            )
        self._barrier.state_yielded(state)

    def _spider_closed(self, spider: Spider, reason: str) -> None:
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
        self._opened = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make it, and the processor it wraps."""
        processor = load_object(StateSettings.from_settings(crawler.settings).fallback_item_processor or ItemPipelineManager)
        return cls(crawler, build_from_crawler(processor, crawler))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)  # .middlewares and whatever else the wrapped one has

    async def open_spider_async(self) -> None:
        """Have the exporter prove that checkpoints can be stored, then open the wrapped processor."""
        if is_crawl(self.crawler):
            middleware = self.crawler.get_spider_middleware(StateMiddleware)
            nearest = self.crawler.engine.scraper.spidermw.middlewares[0]
            if middleware is not nearest:
                raise StateSettingsError(
                    "SPIDER_MIDDLEWARES: scrapy_state.barrier.StateMiddleware must be nearest the engine, to see what really "
                    f"goes there, but {type(nearest).__name__} is: give that one a higher number, or ours a lower one"
                )
            if middleware is not None:
                watch_errbacks(self.crawler.engine.scraper, middleware.errback_output, middleware.download_failed)
            self._closing = mind_closing(self.crawler.engine, self._spider_closing)
            if self._barrier.listener is not None:
                await self._barrier.listener.opening()
        self._opened = True
        await self._call("open_spider")

    def _spider_closing(self) -> None:
        if self._barrier.listener is not None:
            self._barrier.listener.closing()

    async def close_spider_async(self) -> None:
        """Close the wrapped processor, if it was opened."""
        if self._closing is not None:
            self._closing.cancel()
        if self._opened:
            await self._call("close_spider")

    async def process_item_async(self, item: Any) -> Any:
        """Process *item* in the wrapped processor; hand its ticket on to the result."""
        if self._barrier.listener is None:
            return await self._call("process_item", item)
        ticket = self._barrier.enter(item)
        if self._barrier.listener.held and ticket.side is self._barrier.side:
            await self._barrier.listener.room()
        try:
            output = await self._call("process_item", item)
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
        self._barrier.leave(ticket, output)
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


def _request_of(response: Response | None) -> Request | None:
    return None if response is None else response.request
