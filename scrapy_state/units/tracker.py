"""Which requests and items come of which unit. What follows from that is in outcomes.py.

A request with ``meta["state"]`` starts a unit. Its name moves to another key of meta, which the requests that come of
it get too: so it goes wherever requests go, to a disk queue and back. A unit is over when nothing of it is out:

- a request, from when the scheduler takes it until its callback or errback has come to its end, with all items; where a
  downloader middleware puts another request in its place (redirect, retry), that one;
- a callback (or ``start()``) that may still yield another request with the same state.
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

from ..barrier.tickets import Ticket
from ..model.json_values import json_object, shortened
from ..scrapy_internals import watch_requests
from .outcomes import UnitOutcomes
from .watermark import name_of

logger = logging.getLogger("scrapy_state.state")
#: The key of meta that says which unit a request belongs to: [run, unit]
UNIT = "_state_unit"


class RequestTracker(UnitOutcomes):
    """The units of one crawl. It does nothing until a request has a state.

    Only touched from the event loop's thread.

    :param queue_on_disk: whether the scheduler may hand out requests of an earlier run
    :param seen_before: whether the duplicates filter remembers an earlier run
    """

    def __init__(self, crawler: Crawler, queue_on_disk: bool = False, seen_before: bool = False) -> None:
        super().__init__(crawler)
        #: what the units of this crawl's requests are told by from those of other runs
        self.run = secrets.token_hex(4)
        #: the requests of units between the scheduler and the spider
        self.sent: dict[Request, str] = {}
        #: those on their way to the engine, that begin a unit or have taken another's place
        self._coming: dict[Request, str] = {}
        #: callback's request (None: start()) -> the unit it began last, of which it may yield more
        self._begun: dict[Request | None, str] = {}
        self._told: set[str] = set()
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
        unit = self.unit_of(by)
        if unit is not None:
            request.meta[UNIT] = [self.run, unit]
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
        unit = self.unit_of(by)
        if unit is None:
            self._tell(
                "an item came of no unit: from start(), or from a request without a state. It is stored as it comes, and again "
                "when a later run yields it again. Give the request that it comes from a state"
            )
            return None
        return self._ticket_of(unit)

    # The way of a request: gaps.watch_requests and the downloader call these

    def unit_of(self, request: Request | None) -> str | None:
        """Return the unit of *request* that is in flight; None if there is none."""
        mark = None if request is None else request.meta.get(UNIT)
        if mark is None or mark[0] != self.run or not self._units.is_in_flight(mark[1]):
            return None
        unit: str = mark[1]
        return unit

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
        unit = self.unit_of(request)
        if unit is None:
            return
        if accepted:
            self._units.add(unit)
        elif self._seen_before:
            self._fail(unit, request, "filtered as seen, perhaps by an earlier run with this JOBDIR")

    def dropped(self, unit: str) -> None:
        """A request of *unit* that the scheduler had taken was a duplicate, as it knows by now."""
        self._remove(unit)

    def dequeued(self, request: Request) -> bool:
        """*request* comes from the scheduler; return whether it is to be sent."""
        unit = self.unit_of(request)
        if unit is not None:
            self.sent[request] = unit
        elif self._queue_on_disk and UNIT in request.meta and request.meta[UNIT][0] != self.run:
            self._tell("JOBDIR has requests of an earlier run's units; they are left out, as this run begins these units anew")
            return False
        return True

    def fetched(self, result: Response | Request, request: Request) -> Response | Request:
        """The download of *request* gave *result*: if that is a request, it takes its place."""
        mark = [self.run, self.sent[request]]
        if isinstance(result, Request):
            self._coming[result] = self.sent.pop(request)
            result.meta[UNIT] = mark
        elif (other := result.request) is not None and other is not request:
            result = copy(result)  # a middleware fetched it elsewhere, and may give it to others, too
            result.request = other.replace(meta={**other.meta, UNIT: mark})
        return result

    async def scrape(self, request: Request, scrape: Callable[[], Awaitable[None]]) -> None:
        """Count *request* out when its callback or errback, and all items of it, have come to their end."""
        unit = self.sent.pop(request, None) or self.unit_of(request)
        if unit is None:
            await scrape()
            return
        request.meta[UNIT] = [self.run, unit]  # whatever middlewares have done to meta
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
        unit = self.unit_of(request)
        if unit is None:
            return
        if isinstance(error, CloseSpider):
            self._units.add(unit)  # neither done nor failed: what it would have yielded is for the next run
            return
        self._fail(unit, request, f"HTTP {error.response.status}" if isinstance(error, HttpError) else type(error).__name__)

    def _begin(self, request: Request, state: dict[str, Any], by: Request | None) -> bool:
        name = name_of(json_object(state, 'meta["state"]'))
        if self._barrier.tracking is None:
            self._activate()
        del request.meta["state"]
        parent = self.unit_of(by)
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
        request.meta[UNIT] = [self.run, unit]
        if unit != name:
            self._tell(
                "the state %s came again when its unit was done: give it to requests that are yielded together", shortened(name)
            )
        return True

    def _activate(self) -> None:
        self._start()
        self._barrier.tracking = self
        watch_requests(self.crawler.engine, self)

    def _tell(self, message: str, *args: Any) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning(message, *args, extra={"spider": self.crawler.spider})
