"""The parts that meet at the barrier, as it and its other parts see them: protocols, so that imports go one way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from scrapy import Request

from ..model.checkpoint import Checkpoint
from ..model.requests import Requests
from ..stores.threads import StoreThreads
from .tickets import Side, Ticket


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

    def leaves_out_item(self) -> bool:
        """Whether an item that ``start()`` yields now is one that an earlier run has yielded, so that it is left out."""

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


class Delta(Protocol):
    """Knows which pages gave items in earlier crawls (delta/delta.py), as the middleware sees it."""

    def skips(self, request: Request, is_start: bool) -> bool:
        """Return whether to leave out *request*, which the spider has yielded. *is_start*: whether ``start()`` has."""

    def ticket(self, item: Any, request: Request | None, ticket: Ticket) -> Ticket:
        """Return the ticket for *item* of the callback of *request* (None: ``start()``), which would have *ticket*."""

    def failed(self, request: Request | None, ticket: Ticket) -> None:
        """Take note that the callback of *request* (None: ``start()``), whose items have *ticket*, has raised."""


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
