"""Tickets: which side of a barrier each item is on, from the spider to the exporter."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from scrapy import Request, Spider
from scrapy.crawler import Crawler

from ..exceptions import StateError
from ..model.checkpoint import Checkpoint
from ..model.json_values import in_log
from .tickets import Side, Ticket, _Tickets, within

logger = logging.getLogger("scrapy_state.state")
#: the epoch of what nobody yields: it comes before every state, because no state says that it comes again
BEFORE_ALL = -1


class Tracker(Protocol):
    """Who knows which requests and items come of which unit (tracking.py), as the barrier and a scheduler see it.

    :param run: tells the units of this crawl's requests from those of other runs
    """

    run: str

    def unit_of(self, request: Request | None) -> str | None:
        """Return the unit of *request* that is in flight; None if there is none."""

    def dropped(self, unit: str) -> None:
        """A request of *unit* that the scheduler had taken was a duplicate, as it knows by now."""

    def finished(self) -> bool:
        """The crawl has come to its end; return whether units hold the state."""

    @property
    def crowded(self) -> bool:
        """Whether so many units are in flight that ``start()`` should wait."""

    async def room(self) -> None:
        """Wait while it should."""

    def request_yielded(self, request: Request, by: Request | None) -> bool:
        """*request* was yielded by the callback of *by*, or by ``start()`` (None); return whether it is to be sent."""

    def all_yielded(self, by: Request | None) -> None:
        """Nothing more comes of that callback, or of ``start()``."""

    def yielding_failed(self, error: Exception, by: Request | None) -> None:
        """That callback, or ``start()`` (None), raised."""

    def ticket(self, by: Request | None) -> Ticket | None:
        """Return the ticket of an item of that callback; None if no unit is in flight there."""

    def item_failed(self, ticket: Ticket, error: BaseException) -> None:
        """A pipeline raised for an item of a unit."""

    def report(self) -> dict[str, Any]:
        """Return what a checkpoint that is cut now says of units; call it once for each."""

    def closing(self) -> None:
        """The spider is being closed."""


class UnitItems(Protocol):
    """Who keeps the items of units until these are done (held.py)."""

    @property
    def crowded(self) -> bool:
        """Whether there are so many that ``start()`` should wait."""

    def release(self, side: Side) -> None:
        """The unit is done: its items are as if yielded now."""

    def drop(self, side: Side) -> None:
        """The unit has failed: its items go nowhere."""


class Listener(Protocol):
    """The exporter, as the barrier sees it."""

    async def opening(self) -> None:
        """Before the spider's first request; a raise refuses to start."""

    def state_yielded(self, state: dict[str, Any]) -> None:
        """A state item has come; every item yielded before it has its ticket."""

    def settled(self, side: Side) -> None:
        """No item of *side* needs anything more to happen to it."""

    async def room(self) -> None:
        """Wait while the crawl is held back."""

    async def make_durable(self, closing: bool = False) -> bool:
        """Cut now, without a state item; return whether all that is settled by now is durable."""

    def closing(self) -> None:
        """The spider is being closed; requests may still be in flight and items in the pipelines."""

    def item_failed(self, ticket: Ticket, error: BaseException) -> None:
        """A pipeline raised; the item is not settled."""

    def fail(self, reason: str, failure: StateError, blocks: bool = True) -> None:
        """No checkpoint past here; the crawl is closed. *blocks*: nor one for the newest state."""


@dataclass
class Barrier:
    """The tickets that are out in one crawl, and the newest states. Only touched from the event loop's thread."""

    listener: Listener | None = None
    #: called before the spider's first request; a raise refuses to start
    openers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    tracker: Tracker | None = None
    unit_items: UnitItems | None = None
    #: the tracker, once a request has started a unit; None for a spider that gives requests no state
    tracking: Tracker | None = None
    #: whether the requests that are out are kept elsewhere, so that no state item need say what is done
    keeps_requests: bool = False
    #: what an item yielded now gets; all items between two state items share one
    ticket: Ticket = field(default_factory=lambda: Ticket(Side(), 0))
    #: the newest state the spider yielded, and the newest stored checkpoint
    yielded: dict[str, Any] | None = None
    stored: Checkpoint | None = None
    #: whether no checkpoint will be stored any more, so that there is no use in going on
    ended: bool = False
    #: whether the spool is full, so that items of the new side wait
    held: bool = False
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

    def issue(self, item: Any, ticket: Ticket | None = None) -> None:
        """Give *item*, which the spider has just yielded, its ticket: *ticket*, or that of an item yielded now."""
        if ticket is None:
            ticket = self.ticket
        ticket.side.out += 1
        self._coming.put(item, ticket)

    def enter(self, item: Any) -> Ticket:
        """Return the ticket of *item*, which enters the pipelines; one that nobody yielded gets it here."""
        return self._coming.take(item) or self._issued_within()

    def leave(self, ticket: Ticket, item: Any) -> None:
        """Hand *ticket* on to what the pipelines made of its item."""
        self._leaving.put(item, ticket)

    def scraped(self, item: Any) -> Ticket:
        """Return the ticket of *item*, which has come through the pipelines."""
        return self._leaving.take(item) or self._issued_within()

    def settle(self, ticket: Ticket) -> None:
        """Take *ticket* back: its item is exported or dropped."""
        side = ticket.side
        side.out -= 1
        if not side.out and self.listener is not None:
            self.listener.settled(side)

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
        stored = f"{in_log(self.stored.state)} (checkpoint {self.stored.id})" if self.stored else "none in this run"
        yielded = "none in this run" if self.yielded is None else in_log(self.yielded)
        logger.info("%s: last state yielded %s, last stored %s", why, yielded, stored, extra={"spider": spider})

    def _issued_within(self) -> Ticket:
        """For an item that nobody yielded. If a pipeline submits it, it belongs to the item which that pipeline has.

        Else (an extension; a pipeline that opens, closes, or has let its item go long ago) no state says that it comes again.
        """
        ticket = within.get()
        if ticket is None or not (ticket.side.out or ticket.side.failed or ticket.side is self.side):
            ticket = Ticket(self.side, BEFORE_ALL)
        ticket.side.out += 1
        return ticket


def get_barrier(crawler: Crawler) -> Barrier:
    """Return the one barrier of *crawler*; middleware, processor and exporter meet there."""
    found: Barrier = vars(crawler).setdefault("_scrapy_state_barrier", Barrier())
    return found
