"""The barrier of a crawl: where its middleware, its item processor, its exporter and its units meet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from scrapy import Request
from scrapy.crawler import Crawler

from ..model.checkpoint import Checkpoint
from ..model.json_values import in_log
from ..model.requests import Requests
from ..stores.threads import StoreThreads
from .backpressure import Backpressure
from .failure import CrawlFailure
from .log import SpiderLog
from .tickets import Side, Ticket, Tickets


class Tracker(Protocol):
    """Knows which requests and items belong to which unit (units/tracker.py), as the barrier and a scheduler see it.

    :param run: a mark that tells requests of this run's units from those of other runs
    """

    run: str

    def unit_of(self, request: Request | None) -> str | None:
        """Return the unit in flight that *request* belongs to; None if it belongs to none."""

    def dropped(self, unit: str) -> None:
        """Count out a request of *unit*: the scheduler had accepted it, and has learned since that it is a duplicate."""

    def finished(self) -> bool:
        """The crawl is over: return whether a failed unit holds the state back."""

    @property
    def crowded(self) -> bool:
        """Whether too many units are in flight, so that ``start()`` should wait."""

    async def room(self) -> None:
        """Wait while it is :attr:`crowded`."""

    def request_yielded(self, request: Request, by: Request | None) -> bool:
        """Take note that the callback of *by*, or ``start()`` (None), has yielded *request*; return whether to send it."""

    def all_yielded(self, by: Request | None) -> None:
        """Take note that the callback of *by*, or ``start()`` (None), has ended."""

    def yielding_failed(self, error: Exception, by: Request | None) -> None:
        """Take note that the callback of *by*, or ``start()`` (None), has raised *error*."""

    def ticket(self, by: Request | None) -> Ticket | None:
        """Return the ticket for an item that the callback of *by* has yielded; None if it belongs to no unit in flight."""

    def item_failed(self, ticket: Ticket, error: BaseException) -> None:
        """Take note that a pipeline has raised *error* for an item of a unit."""

    def report(self) -> dict[str, Any]:
        """Return a checkpoint's fields about units, as of now. To be called once for each cut."""

    def closing(self) -> None:
        """Take note that the spider is being closed."""


class Recorder(Protocol):
    """Records the requests of the crawl (frontier/recorder.py), as the barrier and the checkpointer see it."""

    @property
    def continues(self) -> bool:
        """Whether this run continues with requests of the last one."""

    @property
    def has_changed(self) -> bool:
        """Whether a checkpoint would say anything that the last one doesn't."""

    def ticket(self, is_start: bool) -> Ticket | None:
        """Return the ticket for an item that is yielded now; None if it belongs to no page.

        :param is_start: whether ``start()`` yields it
        """

    def leaves_out_item(self, is_start: bool) -> bool:
        """Whether an item that is yielded now is one that an earlier run has yielded, so that it is left out."""

    def begin_anew(self, state: dict[str, Any], is_start: bool) -> bool:
        """The spider has yielded *state*: return whether that is clean. If so, the items before it join the current side."""

    def yielded_request(self, is_start: bool) -> None:
        """A request is yielded now. *is_start*: whether ``start()`` yields it."""

    def yielded_all(self) -> None:
        """The callback at work has ended."""

    def item_failed(self, ticket: Ticket) -> bool:
        """A pipeline has raised for an item: if it is that of a page, the page stays pending. Return whether it is."""

    def snapshot(self) -> Any:
        """Return the requests as they are now."""

    async def store(self, snapshot: Any, threads: StoreThreads, retry: Any) -> Requests:
        """Store what *snapshot* needs, and return what the checkpoint says.

        :raises StoreError: if that can't be stored
        """

    def stored(self, threads: StoreThreads) -> None:
        """Take note that a checkpoint names what was stored."""

    def state(self, state: Any) -> dict[str, Any]:
        """Return *state*, a spider's, as it can be stored."""

    def concludes(self, reason: str) -> bool:
        """Return whether the crawl is over, now that the spider is closed for *reason*."""

    def release_all(self) -> None:
        """The crawl is over: keep the items of all pages."""

    def log_held(self) -> bool:
        """Log the pages that have failed and are tried again. Return whether there are any."""

    def stop(self) -> None:
        """Take note that the spider has units, which are counted in another way."""


class Memory(Protocol):
    """Something else that the next run must know, as the checkpointer sees it. Its methods are called in the event loop.

    :param name: its name in checkpoints: lower-case letters and underscores
    """

    name: str

    async def opening(self, threads: StoreThreads, retry: Any) -> Mapping[str, Any] | None:
        """Return what the opening checkpoint says; None: what its parent says. Called before the first request.

        :raises StateError: if that can't be stored
        """

    def snapshot(self, side: Side) -> Any:
        """Return what the checkpoint of *side*, which is cut now, is about. Its last items may not be settled yet."""

    async def store(self, snapshot: Any, threads: StoreThreads, retry: Any) -> Mapping[str, Any]:
        """Store what *snapshot* needs, and return what the checkpoint says. All items of its side are durable by now.

        :raises StateError: if that can't be stored
        """

    def stored(self, threads: StoreThreads) -> None:
        """Take note that a checkpoint names what was stored."""


class UnitItems(Protocol):
    """Holds the items of units until these are done (units/held_items.py)."""

    @property
    def crowded(self) -> bool:
        """Whether they are too many, so that ``start()`` should wait."""

    def release(self, side: Side) -> None:
        """The unit is done: export its items as if they were yielded now."""

    def move(self, side: Side, to: Side) -> None:
        """Keep the items of *side* with those of *to*."""

    def drop(self, side: Side) -> None:
        """The unit has failed: discard its items."""


class Listener(Protocol):
    """The checkpointer (export/checkpointer.py), as the barrier and a scheduler see it."""

    @property
    def stored(self) -> Checkpoint | None:
        """The newest checkpoint of this run; None if it has stored none."""

    @property
    def is_clean(self) -> bool:
        """Whether a checkpoint needs no requests, because the newest state item came while nothing else was under way."""

    async def opening(self) -> None:
        """Check that items and checkpoints can be stored. Called before the first request; an error stops the crawl there."""

    def state_yielded(self, state: dict[str, Any], is_start: bool) -> None:
        """Take *state*; every item that was yielded before it has its ticket. *is_start*: whether ``start()`` yields it."""

    def requests_changed(self) -> None:
        """Take note that a checkpoint would say something new about the requests."""

    async def make_durable(self, closing: bool = False) -> bool:
        """Cut now, without a state item. Return whether every item that is settled by now has become durable."""

    def closing(self) -> None:
        """Take note that the spider is being closed. Requests may still be in flight, and items in the pipelines."""

    def item_failed(self, ticket: Ticket, error: BaseException) -> None:
        """Decide what follows from *error*, which a pipeline has raised for an item. The item is not settled yet."""


class Barrier:
    """What the parts of one crawl share. Only used in the event loop's thread.

    :class:`~scrapy_state.feedexport.CheckpointFeedExporter` builds the parts that store items, and connects them here. The
    downloader adds the tracker of units. If this run stores nothing, there is no listener, and items get no tickets.
    """

    def __init__(self, crawler: Crawler) -> None:
        self._log = SpiderLog(crawler)
        self.tickets = Tickets()
        self.backpressure = Backpressure(crawler)
        self.failure = CrawlFailure(crawler, self.backpressure)
        #: called before the first request; an error stops the crawl there
        self.openers: list[Callable[[], Awaitable[None]]] = []
        self.listener: Listener | None = None
        self.unit_items: UnitItems | None = None
        #: whether the scheduler keeps pending requests between runs, so that a state item may come while some are pending
        self.keeps_requests = False
        #: None where checkpoints contain no requests
        self.recorder: Recorder | None = None
        #: what else checkpoints contain; to be added before the first request
        self.memories: list[Memory] = []
        self.run_id = ""
        self.tracker: Tracker | None = None
        #: the tracker, once a request has begun a unit; None for a spider that gives its requests no state
        self.tracking: Tracker | None = None
        #: the newest state that the spider has yielded
        self.yielded: dict[str, Any] | None = None
        #: whether ``start()`` has raised an error
        self.start_raised = False
        self._ended = False

    def connect(self, listener: Listener, unit_items: UnitItems, keeps_requests: bool, run_id: str) -> None:
        """Connect the parts that store this run's items. To be called once, before the spider is opened."""
        self.run_id = run_id
        self.listener = listener
        self.unit_items = unit_items
        self.keeps_requests = keeps_requests

    def add_tracker(self, tracker: Tracker) -> None:
        """Add the tracker of units. To be called once, before the spider is opened."""
        self.tracker = tracker

    def begin_units(self) -> None:
        """Take note that a request has begun a unit: from now on items get their tickets from the tracker."""
        self.tracking = self.tracker
        if self.recorder is not None:
            self.recorder.stop()
            self.recorder = None

    @property
    def stored(self) -> Checkpoint | None:
        """The newest checkpoint of this run; None if it has stored none."""
        return None if self.listener is None else self.listener.stored

    @property
    def ended(self) -> bool:
        """Whether only the last checkpoint may follow, or none, so that ``start()`` should end."""
        return self._ended or self.failure.error is not None

    def end(self) -> None:
        """Take note that only the last checkpoint may follow. Whatever the spider still yields is for the next run."""
        self._ended = True
        self.backpressure.end()

    def state_yielded(self, state: dict[str, Any], is_start: bool = False) -> None:
        """Pass on *state*, which covers everything that was yielded before it. *is_start*: whether ``start()`` yields it."""
        self.yielded = state
        if self.listener is not None:
            self.listener.state_yielded(state, is_start)

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
