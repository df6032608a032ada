"""The items of pages and units that are under way: kept until the page or unit is done, then exported together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from copy import deepcopy
from dataclasses import dataclass, field
from sys import getsizeof
from typing import Any

from itemadapter import ItemAdapter

from ..barrier.tickets import Side, Ticket, Tickets
from ..export.open_batches import OpenBatches

#: When more bytes of items than this are in memory, the items of the largest page or unit move to files.
MAX_BYTES_IN_MEMORY = 32 * 1024 * 1024
#: The items of a page or unit with fewer bytes than this stay in memory all the same: each file is an open one, and later a
#: stored one.
MIN_BYTES_IN_FILES = 64 * 1024
#: At most this many of them have open files, in each feed: many systems allow a process only 1,024 open files.
MAX_SIDES_IN_FILES = 50
#: Types whose values contain no other objects
_LEAVES = frozenset({str, bytes, int, float, bool, type(None)})


@dataclass(slots=True)
class _InMemory:
    """The items of one side that are in memory, and about how many bytes they take there."""

    items: list[Any] = field(default_factory=list)
    bytes: int = 0


class HeldItems:
    """Keeps the items of each page or unit that is under way, after they have passed the pipelines.

    Items stay in memory as copies, because the spider and its pipelines may change them. When there are too many, those of the
    largest side are exported to batches of their own. These become files of a checkpoint when the page or unit is done, and
    disappear if it fails. When too many sides have such batches, those of the side that has had them longest are closed, and so
    stored; if that page or unit fails, no checkpoint names its files.

    :param export: exports an item to the batches of its ticket's side
    """

    def __init__(self, tickets: Tickets, feeds: OpenBatches, export: Callable[[Any, Ticket], bool]) -> None:
        self._tickets = tickets
        self._feeds = feeds
        self._export = export
        self._in_memory: dict[Side, _InMemory] = {}
        self._bytes = 0
        self._most_bytes = min(MAX_BYTES_IN_MEMORY, feeds.spool_bytes)
        self._most_items = feeds.fewest_items
        self._in_files: dict[Side, None] = {}

    @property
    def crowded(self) -> bool:
        """Whether more bytes are in memory than there should be."""
        return self._bytes > self._most_bytes

    def hold(self, item: Any, ticket: Ticket) -> None:
        """Keep a copy of *item* until the page or unit of *ticket* is done."""
        side = ticket.side
        if side.failed:
            return
        if side in self._in_files:
            self._export(item, ticket)
            return
        in_memory = self._in_memory.setdefault(side, _InMemory())
        own, size = copy_of(item)
        in_memory.items.append(own)
        in_memory.bytes += size
        self._bytes += size
        if len(in_memory.items) >= self._most_items:
            self._move_to_files(side)  # so that it doesn't become many files at once when it is released
        elif self.crowded:
            self._move_largest_to_files()

    def release(self, side: Side) -> None:
        """Export the items of *side*, which is done, to the side of an item that is yielded now."""
        now = self._tickets.current
        for item in self._take(side):
            self._export(item, now)
        self._in_files.pop(side, None)
        if side.batches:
            self._feeds.close_side(side)
            for batch in side.batches:
                batch.all_after(now.epoch)  # its items count from now on
            now.side.batches += side.batches
        if side.errors:
            now.side.errors[now.epoch] += sum(side.errors.values())
        for key, newest in side.keys.items():
            now.side.note_key(key, max(newest, now.epoch))
        if side.changes and not side.failed:
            now.side.changes += [(now.epoch, change) for _, change in side.changes]
            side.changes = []

    def move(self, side: Side, to: Side) -> None:
        """Keep the items of *side*, none of which is in the pipelines, with those of *to*."""
        if to.failed:
            self.drop(side)
            return
        moved = self._in_memory.pop(side, None)
        if moved is not None and to in self._in_files:
            self._bytes -= moved.bytes
            for item in moved.items:
                self._export(item, Ticket(to, 0))
        elif moved is not None:
            in_memory = self._in_memory.setdefault(to, _InMemory())
            in_memory.items += moved.items
            in_memory.bytes += moved.bytes
        if side.batches:
            self._in_files.pop(side, None)
            self._feeds.close_side(side)
            to.batches += side.batches
        for epoch, count in side.errors.items():
            to.errors[epoch] += count
        for key, newest in side.keys.items():
            to.note_key(key, newest)
        to.changes += side.changes

    def drop(self, side: Side) -> None:
        """Forget the items of *side*, and those that are still to come."""
        side.failed = True
        self._take(side)
        self._in_files.pop(side, None)
        self._feeds.discard_side(side)

    def _take(self, side: Side) -> list[Any]:
        in_memory = self._in_memory.pop(side, _InMemory())
        self._bytes -= in_memory.bytes
        return in_memory.items

    def _move_largest_to_files(self) -> None:
        side = max(self._in_memory, key=lambda side: self._in_memory[side].bytes)
        if self._in_memory[side].bytes >= min(MIN_BYTES_IN_FILES, self._feeds.spool_bytes // 2):
            self._move_to_files(side)

    def _move_to_files(self, side: Side) -> None:
        if len(self._in_files) >= MAX_SIDES_IN_FILES:
            first = next(iter(self._in_files))
            del self._in_files[first]
            self._feeds.close_side(first)
        self._in_files[side] = None
        ticket = Ticket(side, 0)
        for item in self._take(side):
            self._export(item, ticket)


def copy_of(item: Any) -> tuple[Any, int]:
    """Return a copy of *item*, and about how many bytes it takes in memory. What can't be copied is returned itself."""
    if type(item) is dict and _LEAVES.issuperset(map(type, item.values())):  # most items; the rest takes ten times as long
        return item.copy(), getsizeof(item) + sum(map(getsizeof, item)) + sum(map(getsizeof, item.values()))
    try:
        return deepcopy(item), bytes_in_memory(item)
    except Exception:  # an object that refuses to be copied; the feed may still be able to export it
        return item, bytes_in_memory(item)


def bytes_in_memory(item: Any) -> int:
    """Return about how many bytes *item* takes in memory, with all that it contains.

    Objects of other kinds than items and Python's own containers count without their content.
    """
    size, seen, to_visit = getsizeof(item), set(), [item]
    while to_visit:
        value = to_visit.pop()
        if id(value) in seen:  # it may contain itself
            continue
        seen.add(id(value))
        inside: Collection[Any] = ()
        if isinstance(value, dict):
            inside = [*value, *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            inside = value
        elif ItemAdapter.is_item(value):
            inside = list(ItemAdapter(value).values())
        size += sum(map(getsizeof, inside))
        to_visit += [part for part in inside if type(part) not in _LEAVES]
    return size
