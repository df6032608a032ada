"""The barrier of a crawl: where its middleware, its item processor, its exporter and its units meet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from scrapy import Request
from scrapy.crawler import Crawler

from ..exceptions import StateError
from ..model.checkpoint import Checkpoint
from ..model.json_values import in_log
from .backpressure import Backpressure
from .failure import CrawlFailure
from .log import SpiderLog
from .tickets import Side, Ticket, Tickets


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
    """Who keeps the items of units until these are done (units/held_items.py)."""

    @property
    def crowded(self) -> bool:
        """Whether there are so many that ``start()`` should wait."""

    def release(self, side: Side) -> None:
        """The unit is done: its items are as if yielded now."""

    def drop(self, side: Side) -> None:
        """The unit has failed: its items go nowhere."""


class Listener(Protocol):
    """The checkpointer (export/checkpointer.py), as the barrier and a scheduler see it."""

    @property
    def stored(self) -> Checkpoint | None:
        """The newest checkpoint of this run; None if it has stored none."""

    async def opening(self) -> None:
        """Check before the spider's first request that items and checkpoints can be stored; an error refuses to start."""

    def state_yielded(self, state: dict[str, Any]) -> None:
        """Take *state*; every item that was yielded before it has its ticket."""

    async def make_durable(self, closing: bool = False) -> bool:
        """Cut now, without a state item; return whether all that is settled by now is durable."""

    def closing(self) -> None:
        """Note that the spider is being closed; requests may still be in flight and items in the pipelines."""

    def item_failed(self, ticket: Ticket, error: BaseException) -> None:
        """Decide what follows from an item that a pipeline failed; it is not settled yet."""

    def fail(self, reason: str, failure: StateError, blocks: bool = True) -> None:
        """Fail the crawl: see :meth:`CrawlFailure.fail`."""


class Barrier:
    """What the parts of one crawl share. Only used in the event loop's thread.

    :class:`~scrapy_state.feedexport.CheckpointFeedExporter` builds the parts that store, and connects them here once. The
    downloader adds the tracker of units. Without a state feed there is no listener, and no item gets a ticket.
    """

    def __init__(self, crawler: Crawler) -> None:
        self._log = SpiderLog(crawler)
        self.tickets = Tickets()
        self.backpressure = Backpressure(crawler)
        self.failure = CrawlFailure(crawler, self.backpressure)
        #: called before the spider's first request; an error refuses to start
        self.openers: list[Callable[[], Awaitable[None]]] = []
        self.listener: Listener | None = None
        self.unit_items: UnitItems | None = None
        #: whether the scheduler keeps the pending requests, so that a state item need not wait until none is left
        self.keeps_requests = False
        self.tracker: Tracker | None = None
        #: the tracker, once a request has begun a unit; None for a spider that gives its requests no state
        self.tracking: Tracker | None = None
        #: the newest state that the spider has yielded
        self.yielded: dict[str, Any] | None = None
        self._ended = False

    def connect(self, listener: Listener, unit_items: UnitItems, keeps_requests: bool) -> None:
        """Connect the parts that store this crawl's items. To be called once, before the spider is opened."""
        self.listener = listener
        self.unit_items = unit_items
        self.keeps_requests = keeps_requests

    @property
    def stored(self) -> Checkpoint | None:
        """The newest checkpoint of this run; None if it has stored none."""
        return None if self.listener is None else self.listener.stored

    @property
    def ended(self) -> bool:
        """Whether no more checkpoints follow, so that ``start()`` should end."""
        return self._ended or self.failure.error is not None

    def end(self) -> None:
        """Note that only the last checkpoint may follow: what is yielded from now on is for the next run."""
        self._ended = True
        self.backpressure.end()

    def state_yielded(self, state: dict[str, Any]) -> None:
        """Pass on *state*, which everything yielded before it belongs to."""
        self.yielded = state
        if self.listener is not None:
            self.listener.state_yielded(state)

    def log_progress(self, why: str) -> None:
        """Log the newest state that was yielded, and the newest that was stored."""
        checkpoint = self.stored
        stored = "none in this run" if checkpoint is None else f"{in_log(checkpoint.state)} (checkpoint {checkpoint.id})"
        yielded = "none in this run" if self.yielded is None else in_log(self.yielded)
        self._log.info("%s: last state yielded %s, last stored %s", why, yielded, stored)


def get_barrier(crawler: Crawler) -> Barrier:
    """Return the one barrier of *crawler*."""
    barrier: Barrier | None = vars(crawler).get("_scrapy_state_barrier")
    if barrier is None:
        barrier = vars(crawler)["_scrapy_state_barrier"] = Barrier(crawler)
    return barrier
