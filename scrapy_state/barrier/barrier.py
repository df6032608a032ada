"""The barrier of a crawl: where its middleware, its item processor, its exporter and its units meet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from scrapy.crawler import Crawler

from ..model.checkpoint import Checkpoint
from ..model.json_values import in_log
from ..scrapy_internals import PAGE
from .backpressure import Backpressure
from .failure import CrawlFailure
from .log import SpiderLog
from .parts import Delta, Listener, Memory, Recorder, Tracker, UnitItems
from .tickets import Ticket, Tickets


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
        #: None in a crawl that is not incremental
        self.delta: Delta | None = None
        self.run_id = ""
        self.tracker: Tracker | None = None
        #: the tracker, once a request has begun a unit; None for a spider that gives its requests no state
        self.tracking: Tracker | None = None
        #: the newest state that the spider has yielded
        self.yielded: dict[str, Any] | None = None
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

    def ticket_now(self) -> Ticket:
        """Return the ticket for what happens now: that of the item in the pipelines, or one of the page at work."""
        ticket = self.tickets.now()
        if ticket is None and self.recorder is not None:
            ticket = self.recorder.ticket(is_start=False)
        elif ticket is None and self.tracking is not None and self.tracking.unit_of(PAGE.get()) is not None:
            ticket = self.tracking.ticket(PAGE.get())
        return (ticket or self.tickets.current).to_export

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
