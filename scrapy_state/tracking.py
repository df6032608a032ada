"""Which requests and items come of which unit, and the state that follows from the units that are done.

A request with ``meta["state"]`` starts a unit. Its name moves to another key of meta, which the requests that come of
it get too: so it goes wherever requests go, to a disk queue and back. A unit is over when nothing of it is out:

- a request, from when the engine takes it until its callback or errback has come to its end, with all items; where a
  downloader middleware puts another request in its place (redirect, retry), that one;
- a callback (or ``start()``) that may still yield another request with the same state.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any, NoReturn

from scrapy import Request, Spider, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider, IgnoreRequest
from scrapy.http import Response
from scrapy.spidermiddlewares.httperror import HttpError

from .exceptions import StateSettingsError, UnitFailed
from .extension import SpiderSettingsState, get_extension
from .gaps import fail_when_closed, watch_requests
from .keys import without_credentials
from .plain import json_object
from .settings import StateSettings
from .tickets import Side, Ticket, get_barrier
from .units import Failure, Units, name_of

logger = logging.getLogger("scrapy_state.state")
#: The key of meta that says which unit a request belongs to: [run, unit]
UNIT = "_state_unit"
#: So many units are in flight at most that start() has begun: each is a request that waits.
MAX_IN_FLIGHT = 1000


class RequestTracker:
    """The units of one crawl. It does nothing until a request has a state.

    Only touched from the event loop's thread.

    :param queue_on_disk: whether the scheduler may hand out requests of an earlier run
    :param seen_before: whether the duplicates filter remembers an earlier run
    :param shared: whether requests lie outside the process, so that it can't be known when a unit is done
    """

    def __init__(self, crawler: Crawler, queue_on_disk: bool = False, seen_before: bool = False, shared: bool = False) -> None:
        self.crawler = crawler
        self._shared = shared
        self.settings = StateSettings.from_settings(crawler.settings)
        self._barrier = get_barrier(crawler)
        self._run = secrets.token_hex(4)
        self._units = Units({})
        #: the requests of units between the scheduler and the spider
        self.sent: dict[Request, str] = {}
        #: those on their way to the engine, that begin a unit or have taken another's place
        self._coming: dict[Request, str] = {}
        #: callback's request (None: start()) -> the unit it began last, of which it may yield more
        self._begun: dict[Request | None, str] = {}
        #: of units in flight; and of those that are over, but not to be stored yet: they have begun others
        self._tickets: dict[str, Ticket] = {}
        self._told: set[str] = set()
        self._closing = False
        self._room = asyncio.Event()
        self._queue_on_disk = queue_on_disk
        self._seen_before = seen_before

    # What the spider yields: StateMiddleware calls these

    def request_yielded(self, request: Request, by: Request | None) -> bool:
        """Begin a unit, or make *request* one of the unit it comes of; False if an earlier run has finished its unit.

        :raises TypeError: if its state is a dict but no JSON object
        """
        state = request.meta.get("state")
        if isinstance(state, dict):
            return self._begin(request, state, by)
        if state is not None:
            kind = type(state).__name__
            self._tell('meta["state"] of %s is a %s, not a dict: it starts no unit, and is left as it is', request, kind)
        unit = self._unit_of(by)
        if unit is not None:
            request.meta[UNIT] = [self._run, unit]
        else:
            request.meta.pop(UNIT, None)
        return True

    def all_yielded(self, by: Request | None) -> None:
        """Let go the unit that was begun last there: no more of it can come."""
        unit = self._begun.pop(by, None)
        if unit is not None:
            self._remove(unit)

    def yielding_failed(self, error: Exception, by: Request | None) -> None:
        """That callback raised: of the unit that was begun last there might have come more. ``start()``'s stays as it is."""
        unit = None if by is None or isinstance(error, CloseSpider) else self._begun.pop(by, None)
        if unit is not None:
            self._fail(unit, by, f"{type(error).__name__} in the callback that began it")
            self._remove(unit)

    def ticket(self, by: Request | None) -> Ticket | None:
        """Return the ticket for an item that the callback of *by* has yielded; None if it is not of a unit."""
        unit = self._unit_of(by)
        if unit is None:
            return None
        ticket = self._tickets.get(unit)
        if ticket is None:
            ticket = self._tickets[unit] = Ticket(Side(unit=unit, failed=self._units.has_failed(unit)), 0)
        return ticket

    @property
    def crowded(self) -> bool:
        """Whether ``start()`` should wait until units are done. Scrapy itself reads on, faster than it sends requests."""
        return self._units.in_flight >= MAX_IN_FLIGHT or (self._too_many_items and self._units.in_flight > 1)

    async def room(self) -> None:
        """Wait while it is :attr:`crowded`, and the spider is not being closed.

        Something is under way of each unit, but the one that waits for ``start()`` to go on. So that comes to an end.
        """
        while self.crowded and not self._closing:
            if self._too_many_items:
                for unit in self._units.held_back():
                    self._drop(unit)  # the next run does it again
            self._room.clear()
            await self._room.wait()

    # The way of a request: gaps.watch_requests and the downloader call these

    def crawl(self, request: Request, crawl: Callable[[Request], None]) -> None:
        """Have the engine take *request*, begin its unit if nobody has, and let go what was to last until here."""
        coming = self._coming.pop(request, None)
        state = request.meta.get("state")
        try:
            # Yielded requests have begun by now; this one comes from an extension or a middleware.
            if not isinstance(state, dict) or self._begin(request, state, request):
                crawl(request)
        except Exception as error:  # a queue that can't be reached, say: whoever called may not even see it
            self.spider_failed(error, request)
            raise
        finally:
            self.all_yielded(request)
            for each in (coming, self._coming.pop(request, None)):
                if each is not None:
                    self._remove(each)

    def enqueued(self, request: Request, accepted: bool) -> None:
        """The scheduler has taken *request*, which counts from now on; or filtered it as a duplicate."""
        unit = self._unit_of(request)
        if unit is None:
            return
        if accepted:
            self._units.add(unit)
        elif self._seen_before:
            self._fail(unit, request, "filtered as seen, perhaps by an earlier run with this JOBDIR")

    def dequeued(self, request: Request) -> bool:
        """*request* comes from the scheduler; return whether it is to be sent."""
        unit = self._unit_of(request)
        if unit is not None:
            self.sent[request] = unit
        elif self._queue_on_disk and UNIT in request.meta and request.meta[UNIT][0] != self._run:
            self._tell("JOBDIR has requests of an earlier run's units; they are left out, as this run begins these units anew")
            return False
        return True

    def fetched(self, result: Response | Request, request: Request) -> Response | Request:
        """The download of *request* gave *result*: if that is a request, it takes its place."""
        mark = [self._run, self.sent[request]]
        if isinstance(result, Request):
            self._coming[result] = self.sent.pop(request)
            result.meta[UNIT] = mark
        elif (other := result.request) is not None and other is not request:
            result = copy(result)  # a middleware fetched it elsewhere, and may give it to others, too
            result.request = other.replace(meta={**other.meta, UNIT: mark})
        return result

    async def scrape(self, request: Request, scrape: Callable[[], Awaitable[None]]) -> None:
        """Count *request* out when its callback or errback, and all items of it, have come to their end."""
        unit = self.sent.pop(request, None) or self._unit_of(request)
        if unit is None:
            await scrape()
            return
        request.meta[UNIT] = [self._run, unit]  # whatever middlewares have done to meta
        try:
            await scrape()
        except BaseException as error:
            self._fail(unit, request, type(error).__name__)
            raise
        finally:
            self._remove(unit)

    def not_taken(self, error: BaseException, request: Request) -> None:
        """No errback took what became of *request*, or it raised *error* itself."""
        if not isinstance(error, IgnoreRequest) or isinstance(error, HttpError):
            self.spider_failed(error, request)

    def spider_failed(self, error: BaseException, request: Request) -> None:
        """A callback or errback raised."""
        unit = self._unit_of(request)
        if unit is None:
            return
        if isinstance(error, CloseSpider):
            self._units.add(unit)  # neither done nor failed: what it would have yielded is for the next run
            return
        self._fail(unit, request, f"HTTP {error.response.status}" if isinstance(error, HttpError) else type(error).__name__)

    # What becomes of units

    def item_failed(self, ticket: Ticket, error: BaseException) -> None:
        """A pipeline raised for an item of that ticket's unit."""
        self._fail(ticket.side.unit, None, f"an item raised {type(error).__name__} in a pipeline")

    def finished(self) -> bool:
        """The crawl has come to its end; return whether units hold the state. Those that have not come to theirs fail."""
        for unit in self._units.all_in_flight():
            self._fail(unit, None, "it never came to its end")
        return self._units.holding

    def report(self) -> dict[str, Any]:
        """Return a checkpoint's fields about units; call it once for each."""
        return self._units.report()

    def closing(self) -> None:
        """Let ``start()`` go on."""
        self._closing = True
        self._room.set()

    def _begin(self, request: Request, state: dict[str, Any], by: Request | None) -> bool:
        name = name_of(json_object(state, 'meta["state"]'))
        if self._barrier.tracking is None:
            self._activate()
        del request.meta["state"]
        parent = self._unit_of(by)
        if parent is not None and parent != name:
            self._units.has_begun_another(parent)
        if self._units.finished_before(name):
            self.all_yielded(by)
            self._stat("state/units_done_before")
            self._advance(None)
            return False
        unit = self._units.begin(name)
        self.all_yielded(by)
        self._begun[by] = unit
        self._units.add(unit)  # until the engine takes it: Scrapy queues what callbacks yield
        self._coming[request] = unit
        request.meta[UNIT] = [self._run, unit]
        if unit != name:
            self._tell("the state %s came again when its unit was done: give it to requests that are yielded together", name)
        return True

    def _activate(self) -> None:
        if self._shared:
            self._refuse()
        resolver = get_extension(SpiderSettingsState, self.crawler)
        assert resolver is not None  # is_crawl(), and the add-on or setup.md put it there
        ahead = resolver.start.ahead if resolver.start is not None else ()
        self._units = Units(resolver.state, ahead, self.settings.on_unit_error == "skip")
        self._barrier.tracking = self
        watch_requests(self.crawler.engine, self)
        self.crawler.signals.connect(self._spider_closed, signals.spider_closed)

    def _refuse(self) -> NoReturn:
        # Only outside it is known which requests are duplicates, and which of earlier runs are pending.
        error = StateSettingsError(
            f'requests carry units of state (meta["state"]), and SCHEDULER {self.crawler.settings["SCHEDULER"]} keeps them '
            "outside the process, where it can't be seen when a unit is done. There the frontier is the state: yield requests "
            "without units, or use Scrapy's own scheduler"
        )
        logger.error("the crawl ends: %s", error, extra={"spider": self.crawler.spider})
        fail_when_closed(self.crawler)
        raise CloseSpider("state_refused") from error

    def _unit_of(self, request: Request | None) -> str | None:
        mark = None if request is None else request.meta.get(UNIT)
        if mark is None or mark[0] != self._run or not self._units.is_in_flight(mark[1]):
            return None
        unit: str = mark[1]
        return unit

    def _remove(self, unit: str) -> None:
        if not self._units.remove(unit):
            return
        ticket = self._tickets.get(unit)
        if ticket is not None and ticket.side.out:
            self._fail(unit, None, f"{ticket.side.out} items never came out of the pipelines")
        if self._units.has_failed(unit):
            self._tickets.pop(unit, None)
        if self._barrier.unit_items is not None and self._barrier.ended:
            return  # no checkpoint will tell of it
        self._stat("state/units")
        self._advance(unit)

    def _advance(self, over: str | None) -> None:
        """Move the state as far as it goes; the items of the units that the next checkpoint will tell of are to be stored."""
        passed = self._units.advance(over)
        for unit in passed if over is None or not self._units.is_ahead(over) else [*passed, over]:
            ticket = self._tickets.pop(unit, None)
            if ticket is not None and self._barrier.unit_items is not None:
                self._barrier.unit_items.release(ticket.side)
        if passed:
            self.crawler.spider.state = json.loads(self._units.watermark)  # type: ignore[union-attr]
        if passed or over is not None:
            # Also where it has not moved: there are finished units beyond it, for the next checkpoint to tell of.
            self._barrier.state_yielded(json.loads(self._units.watermark))
        if not self.crowded:
            self._room.set()

    @property
    def _too_many_items(self) -> bool:
        return self._barrier.unit_items is not None and self._barrier.unit_items.crowded

    def _drop(self, unit: str) -> None:
        ticket = self._tickets.get(unit)
        if ticket is not None and self._barrier.unit_items is not None:
            self._barrier.unit_items.drop(ticket.side)

    def _fail(self, unit: str, request: Request | None, reason: str) -> None:
        failure = Failure(without_credentials(request.url) if request is not None else "", reason)
        if not self._units.fail(unit, failure):
            return
        self._stat("state/units_failed")
        self._drop(unit)
        if self.settings.on_unit_error == "stop" and self._barrier.listener is not None:
            stop = UnitFailed(f"unit {unit} failed: {' '.join(filter(None, reversed(failure)))}")
            self._barrier.listener.fail("state_unit_failed", stop, blocks=False)

    def _spider_closed(self, spider: Spider) -> None:
        if not self._units.failures:
            return
        then = "they are passed over, and the checkpoints list them as skipped_units"
        if self.settings.on_unit_error != "skip":
            then = f"the state stays before them, at {self._units.watermark}; a next run does only what is missing"
        lines = "\n".join(self._units.failures_told())
        logger.error("%s units failed; %s:\n%s", self._units.failures, then, lines, extra={"spider": spider})

    def _stat(self, name: str) -> None:
        self.crawler.stats.inc_value(name)

    def _tell(self, message: str, *args: Any) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning(message, *args, extra={"spider": self.crawler.spider})
