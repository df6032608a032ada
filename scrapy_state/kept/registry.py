"""The kept objects of one crawl: who they are, what they begin with, and to which items each change belongs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scrapy.crawler import Crawler

from ..barrier.barrier import get_barrier
from ..barrier.tickets import Side
from ..exceptions import StateSettingsError
from .changes import line

_ATTRIBUTE = "_scrapy_state_kept"


class Registry:
    """The kept objects of one crawl. Use it in the event loop's thread only."""

    def __init__(self, crawler: Crawler) -> None:
        self._barrier = get_barrier(crawler)
        #: object -> (whether each crawl begins with an empty one, takes its content)
        self._objects: dict[str, tuple[bool, Callable[[dict[Any, Any]], None]]] = {}
        self._has_begun = self._writes = False

    def __bool__(self) -> bool:
        return bool(self._objects)

    def add(self, name: str, per_crawl: bool, fill: Callable[[dict[Any, Any]], None]) -> None:
        """Add the object *name*.

        :param per_crawl: whether each crawl begins with an empty one
        :param fill: takes the object's content, once, when that is known
        :raises StateSettingsError: if there is one of that name already, or pipelines are open
        """
        kind, _, own = name.partition(":")
        if self._has_begun:
            remedy = "make it in from_crawler() or __init__()"
            raise StateSettingsError(f"the kept object {own!r} ({kind}) is made after the checkpoint was read", remedy=remedy)
        if name in self._objects:
            raise StateSettingsError(f"two kept objects ({kind}) have the name {own!r}", remedy="give one another name")
        self._objects[name] = per_crawl, fill

    def book(self, change: str) -> None:
        """Note *change*: it counts once the item, or the page, at work does. Before the checkpoint is read nothing is noted."""
        if self._writes:
            ticket = self._barrier.ticket_now()
            ticket.side.changes.append((ticket.epoch, change))

    def begin(self, contents: Mapping[str, dict[Any, Any]], is_new_crawl: bool, writes: bool) -> None:
        """Give the objects their *contents*. *is_new_crawl*: the last one is over; *writes*: this run stores."""
        self._has_begun, self._writes = True, writes
        for name, (per_crawl, fill) in self._objects.items():
            content = contents.get(name, {})
            if per_crawl and is_new_crawl and content:
                self.book(line(name, "0"))
                content = {}
            fill(content)

    def counted(self, side: Side) -> Callable[[], list[str]]:
        """Return a function that returns the changes that count with the checkpoint of *side*, which is cut now.

        To be called once all items of *side* are settled. At the end of a run items after the last state item may not count:
        then their changes don't, either.
        """
        barrier, epoch = self._barrier, self._barrier.tickets.current.epoch
        is_clean = barrier.recorder is None or (barrier.listener is not None and barrier.listener.is_clean)
        leaves_out = barrier.ended and is_clean

        def changes() -> list[str]:
            return [change for at, change in side.changes if not leaves_out or at < epoch]

        return changes


def get_registry(crawler: Crawler) -> Registry:
    """Return the one registry of *crawler*."""
    registry: Registry | None = vars(crawler).get(_ATTRIBUTE)
    if registry is None:
        registry = vars(crawler)[_ATTRIBUTE] = Registry(crawler)
    return registry
