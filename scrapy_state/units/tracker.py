"""Which unit each request and item belongs to, and when a unit is over.

A request with ``meta["state"]`` begins a unit. The tracker writes the unit's name under another key of ``meta``, and gives that
key to every request that follows from the first one; it survives a disk queue. A unit is over when nothing of it is left:

- no request: one counts from when the scheduler accepts it until its callback or errback has ended and all its items are
  processed. If a downloader middleware replaces a request (redirect, retry), the replacement counts.
- no callback (or ``start()``) that may still yield another request with the same state.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.http import Response
from scrapy.spidermiddlewares.httperror import HttpError

from ..barrier.barrier import get_barrier
from ..barrier.tickets import Ticket
from ..extension import SpiderSettingsState, get_extension
from ..model.json_values import json_object, shortened
from ..scrapy_internals import watch_requests
from .progress import Progress
from .watermark import name_of

logger = logging.getLogger("scrapy_state.state")
#: The key of meta that holds a request's unit: [run, unit]
UNIT = "_state_unit"


class RequestTracker:
    """Counts the requests and callbacks of each unit. It does nothing until a request has a state.

    Use it only in the event loop's thread.

    :param on_unit_error: STATE_ON_UNIT_ERROR
    :param queue_on_disk: whether the scheduler may hand out requests of an earlier run
    :param seen_before: whether the duplicates filter remembers an earlier run
    """

    def __init__(self, crawler: Crawler, on_unit_error: str, queue_on_disk: bool = False, seen_before: bool = False) -> None:
        #: distinguishes the requests of this crawl's units from those of other runs
        self.run = secrets.token_hex(4)
        self._crawler = crawler
        self._on_unit_error = on_unit_error
        self._queue_on_disk = queue_on_disk
        self._seen_before = seen_before
        self._barrier = get_barrier(crawler)
        self._progress = Progress(crawler, on_unit_error)
        #: the requests of units that are between the scheduler and the spider
        self._sent: dict[Request, str] = {}
        #: requests that will soon reach the engine, and begin a unit or replace another request
        self._coming: dict[Request, str] = {}
        #: a callback's request (None: start()) -> the unit it began last, for which it may yield more requests
        self._begun: dict[Request | None, str] = {}
        self._warned: set[str] = set()

    # What the spider yields: StateMiddleware calls these methods

    def request_yielded(self, request: Request, by: Request | None) -> bool:
        """Let *request* begin a unit, or join the unit of *by*; return False if an earlier run has finished its unit.

        :param by: the request whose callback yielded it; None: ``start()`` did
        :raises TypeError: if its state is a dict but not a JSON object
        """
        state = request.meta.get("state")
        if isinstance(state, dict):
            return self._begin(request, state, by)
        if state is not None:
            kind = type(state).__name__
            self._warn_once('meta["state"] of %s is a %s, not a dict: it begins no unit and stays as it is', request, kind)
        unit = self.unit_of(by)
        if unit is not None:
            request.meta[UNIT] = [self.run, unit]
        else:
            request.meta.pop(UNIT, None)
        return True

    def all_yielded(self, by: Request | None) -> None:
        """The callback of *by* has ended or has begun another unit, so it yields no more requests for the one before."""
        unit = self._begun.pop(by, None)
        if unit is not None:
            self._progress.remove(unit)

    def yielding_failed(self, error: Exception, by: Request | None) -> None:
        """The callback of *by* raised *error*. It might have yielded more requests for the unit that it began last.

        A unit that ``start()`` began last stays in flight.
        """
        unit = None if by is None or isinstance(error, CloseSpider) else self._begun.pop(by, None)
        if unit is not None:
            self._progress.fail(unit, by, f"{type(error).__name__} in the callback that began it")
            self._progress.remove(unit)

    def ticket(self, by: Request | None) -> Ticket | None:
        """Return the ticket for an item that the callback of *by* has yielded; None if the item belongs to no unit."""
        unit = self.unit_of(by)
        if unit is None:
            self._warn_once(
                "an item belongs to no unit: start() yielded it, or a request without a state led to it. It is stored at once, "
                "and again if a later run yields it again. Give the request that leads to it a state"
            )
            return None
        return self._progress.ticket(unit)

    # The way of a request: scrapy_internals.watch_requests() and watch_fetch() call these methods

    def unit_of(self, request: Request | None) -> str | None:
        """Return the unit of *request*; None if it has none that is in flight."""
        mark = None if request is None else request.meta.get(UNIT)
        if mark is None or mark[0] != self.run or not self._progress.units.is_in_flight(mark[1]):
            return None
        unit: str = mark[1]
        return unit

    def crawl(self, request: Request, crawl: Callable[[Request], None]) -> None:
        """Pass *request* on to the engine by *crawl*, after beginning its unit if that has not been done yet."""
        coming = self._coming.pop(request, None)
        state = request.meta.get("state")
        try:
            # A request that the spider yielded has no state any more. This one comes from an extension or a middleware.
            if not isinstance(state, dict) or self._begin(request, state, request):
                crawl(request)
        except Exception as error:  # a queue that can't be reached, for example; the caller may swallow the error
            self.spider_failed(error, request)
            raise
        finally:
            self.all_yielded(request)
            for unit in (coming, self._coming.pop(request, None)):
                if unit is not None:
                    self._progress.remove(unit)

    def enqueued(self, request: Request, accepted: bool) -> None:
        """The scheduler has accepted *request*, which counts from now on, or has filtered it as a duplicate."""
        unit = self.unit_of(request)
        if unit is None:
            return
        if accepted:
            self._progress.units.add(unit)
        elif self._seen_before:
            self._progress.fail(unit, request, "filtered as seen, perhaps by an earlier run with this JOBDIR")

    def dropped(self, unit: str) -> None:
        """A request of *unit*, which the scheduler had accepted, has turned out to be a duplicate."""
        self._progress.remove(unit)

    def dequeued(self, request: Request) -> bool:
        """The scheduler hands *request* out; return whether to send it."""
        unit = self.unit_of(request)
        if unit is not None:
            self._sent[request] = unit
        elif self._queue_on_disk and UNIT in request.meta and request.meta[UNIT][0] != self.run:
            self._warn_once(
                "JOBDIR has requests of an earlier run's units; they are skipped, as this run begins these units anew"
            )
            return False
        return True

    def is_sent(self, request: Request) -> bool:
        """Return whether *request* belongs to a unit and is between the scheduler and the spider."""
        return request in self._sent

    def fetched(self, result: Response | Request, request: Request) -> Response | Request:
        """Return the *result* of downloading *request*. If it is a request, it takes the place of *request*."""
        mark = [self.run, self._sent[request]]
        if isinstance(result, Request):
            self._coming[result] = self._sent.pop(request)
            result.meta[UNIT] = mark
        elif (other := result.request) is not None and other is not request:
            result = copy(result)  # a middleware took it from elsewhere, and may give the same object to other requests
            result.request = other.replace(meta={**other.meta, UNIT: mark})
        return result

    async def scrape(self, request: Request, scrape: Callable[[], Awaitable[None]]) -> None:
        """Count *request* until *scrape* is done: its callback or errback, and all items of it."""
        unit = self._sent.pop(request, None) or self.unit_of(request)
        if unit is None:
            await scrape()
            return
        request.meta[UNIT] = [self.run, unit]  # middlewares may have changed meta
        try:
            await scrape()
        except BaseException as error:
            self._progress.fail(unit, request, type(error).__name__)
            raise
        finally:
            self._progress.remove(unit)

    def not_taken(self, error: BaseException, request: Request) -> None:
        """The download of *request* failed, and no errback handled *error*."""
        if not isinstance(error, IgnoreRequest) or isinstance(error, HttpError):
            self.spider_failed(error, request)

    def spider_failed(self, error: BaseException, request: Request) -> None:
        """The callback or errback of *request* raised *error*."""
        unit = self.unit_of(request)
        if unit is None:
            return
        if isinstance(error, CloseSpider):
            self._progress.units.add(unit)  # neither done nor failed: the rest of it is for the next run
            return
        reason = f"HTTP {error.response.status}" if isinstance(error, HttpError) else type(error).__name__
        self._progress.fail(unit, request, reason)

    # What the barrier, the item processor and the exporter ask

    @property
    def crowded(self) -> bool:
        """Whether ``start()`` should wait until units are done."""
        return self._progress.crowded

    async def room(self) -> None:
        """Wait while it is :attr:`crowded` and the spider is not being closed."""
        await self._progress.wait_while_crowded()

    def item_failed(self, ticket: Ticket, error: BaseException) -> None:
        """A pipeline raised *error* for an item with that *ticket*."""
        self._progress.fail(ticket.side.unit, None, f"an item raised {type(error).__name__} in a pipeline")

    def report(self) -> dict[str, Any]:
        """Return the fields of the next checkpoint that are about units. Call it once for each checkpoint."""
        return self._progress.units.checkpoint_fields()

    def finished(self) -> bool:
        """The crawl is finished, so units still in flight fail. Return whether the state has not reached the last unit."""
        for unit in self._progress.units.all_in_flight():
            self._progress.fail(unit, None, "it never ended")
        return self._progress.units.is_behind

    def closing(self) -> None:
        """The spider is being closed."""
        self._progress.closing()

    def _begin(self, request: Request, state: dict[str, Any], by: Request | None) -> bool:
        name = name_of(json_object(state, 'meta["state"]'))
        if self._barrier.tracking is None:
            self._activate()
        units = self._progress.units
        del request.meta["state"]
        parent = self.unit_of(by)
        if parent is not None and parent != name:
            units.note_begun_another(parent)
        if units.finished_before(name):
            self.all_yielded(by)
            self._crawler.stats.inc_value("state/units_done_before")
            self._progress.advance()
            return False
        unit = units.begin(name)
        self.all_yielded(by)
        self._begun[by] = unit
        units.add(unit)  # until the engine has the request: Scrapy puts what callbacks yield into a queue
        self._coming[request] = unit
        request.meta[UNIT] = [self.run, unit]
        if unit != name:
            self._warn_once(
                "the state %s came again after its unit was done: yield all requests with one state one after the other",
                shortened(name),
            )
        return True

    def _activate(self) -> None:
        resolver = get_extension(SpiderSettingsState, self._crawler)
        assert resolver is not None  # the add-on, or whoever followed docs/setup.md, has enabled it
        self._progress.start_from(resolver.state, resolver.start.ahead if resolver.start is not None else ())
        self._barrier.begin_units()
        watch_requests(self._crawler.engine, self)

    def _warn_once(self, message: str, *args: Any) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message, *args, extra={"spider": self._crawler.spider})
