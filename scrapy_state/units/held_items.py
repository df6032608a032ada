"""The items of units that are not done: kept until they are, then exported together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from sys import getsizeof
from typing import Any

from itemadapter import ItemAdapter

from ..barrier.tickets import Side, Ticket, Tickets
from ..export.open_batches import OpenBatches

#: How many bytes of items are kept in memory before the largest unit's go to files of its own.
MAX_BYTES_IN_MEMORY = 32 * 1024 * 1024
#: A unit with fewer than that stays in memory all the same: each file is an open one, and comes to be a stored one.
LEAST_BYTES_IN_FILES = 64 * 1024
#: So many units have open files at most, in each feed: a process may often have no more than 1,024 open.
MAX_IN_FILES = 50
_LEAVES = frozenset({str, bytes, int, float, bool, type(None)})


@dataclass(slots=True)
class _Kept:
    """The items of one unit that are in memory, and about how many bytes they take there."""

    items: list[Any] = field(default_factory=list)
    bytes: int = 0


class HeldItems:
    """Keeps the items of units that are in flight; the exporter's. They have come through the pipelines.

    In memory they are what the pipelines made. When there are too many, the largest unit goes to batches of its own,
    exported as they will be stored; they become a checkpoint's files when the unit is done, and are gone if it fails. Those
    of the unit that has had its files longest are closed, and so stored, when there are too many; no checkpoint may name them.

    :param export: exports an item by its ticket, to the batches of that ticket's side
    """

    def __init__(self, tickets: Tickets, feeds: OpenBatches, export: Callable[[Any, Ticket], bool]) -> None:
        self._tickets = tickets
        self._feeds = feeds
        self._export = export
        self._in_memory: dict[Side, _Kept] = {}
        self._bytes = 0
        self._in_files: dict[Side, None] = {}

    @property
    def crowded(self) -> bool:
        """Whether there are more in memory than there should be."""
        return self._bytes > MAX_BYTES_IN_MEMORY

    def hold(self, item: Any, ticket: Ticket) -> None:
        """Keep *item* until the unit of *ticket* is done."""
        side = ticket.side
        if side.failed:
            return
        if side in self._in_files:
            self._export(item, ticket)
            return
        kept = self._in_memory.setdefault(side, _Kept())
        size = bytes_in_memory(item)
        kept.items.append(item)
        kept.bytes += size
        self._bytes += size
        if self._bytes > MAX_BYTES_IN_MEMORY:
            self._to_files()

    def release(self, side: Side) -> None:
        """Export what is kept of *side* to the side of an item that is yielded now."""
        now = self._tickets.current
        for item in self._taken(side):
            self._export(item, now)
        self._in_files.pop(side, None)
        if side.batches:
            self._feeds.close_side(side)
            now.side.batches += side.batches
        if side.errors:
            now.side.errors[now.epoch] += side.errors.total()

    def drop(self, side: Side) -> None:
        """Forget what is kept of *side*, and what still comes."""
        side.failed = True
        self._taken(side)
        self._in_files.pop(side, None)
        self._feeds.discard_side(side)

    def _taken(self, side: Side) -> list[Any]:
        kept = self._in_memory.pop(side, _Kept())
        self._bytes -= kept.bytes
        return kept.items

    def _to_files(self) -> None:
        side = max(self._in_memory, key=lambda each: self._in_memory[each].bytes)
        if self._in_memory[side].bytes >= LEAST_BYTES_IN_FILES:
            if len(self._in_files) >= MAX_IN_FILES:
                first = next(iter(self._in_files))
                del self._in_files[first]
                self._feeds.close_side(first)
            self._in_files[side] = None
            ticket = Ticket(side, 0)
            for item in self._taken(side):
                self._export(item, ticket)


def bytes_in_memory(item: Any) -> int:
    """Return about how many bytes *item* takes in memory, with all that is in it. Of objects that are no items, their shell."""
    size, seen, left = getsizeof(item), set(), [item]
    while left:
        value = left.pop()
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
        left += [each for each in inside if type(each) not in _LEAVES]
    return size
