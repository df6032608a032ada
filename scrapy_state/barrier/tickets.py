"""Tickets: which side of a barrier each item is on."""

from __future__ import annotations

from collections import Counter, deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class Side:
    """The items between two barriers.

    :param out: how many of them are not settled yet
    :param errors: how many failed in a pipeline and were passed over, by their ticket's epoch
    :param batches: the exporter's batches of them, in the order they were opened
    :param unit: the unit (tracking.py) whose items these are, which come to a side between barriers when it is done; else empty
    :param failed: whether that unit has failed, so that its items go nowhere
    """

    out: int = 0
    errors: Counter[int] = field(default_factory=Counter)
    batches: list[Any] = field(default_factory=list)
    unit: str = ""
    failed: bool = False


@dataclass(eq=False, slots=True)
class Ticket:
    """An item's place; never changed. *epoch*: how many state items the spider had yielded before it."""

    side: Side
    epoch: int


#: the ticket of the item that is in the pipelines, for what these submit themselves
within: ContextVar[Ticket | None] = ContextVar("scrapy_state_within", default=None)


class _Tickets:
    """Tickets by object, for objects that can't be keys and may be there more than once: first in, first out."""

    def __init__(self) -> None:
        # By id, with the object, so that it lives as long as its id stands here
        self._first: dict[int, tuple[Any, Ticket]] = {}
        #: the tickets after the first, of objects that are there more than once
        self._more: dict[int, deque[Ticket]] = {}

    def put(self, item: Any, ticket: Ticket) -> None:
        entry = (item, ticket)
        if self._first.setdefault(id(item), entry) is not entry:
            self._more.setdefault(id(item), deque()).append(ticket)

    def take(self, item: Any) -> Ticket | None:
        key = id(item)
        entry = self._first.pop(key, None)
        if entry is None:
            return None
        if key in self._more:
            self._first[key] = (item, self._more[key].popleft())
            if not self._more[key]:
                del self._more[key]
        return entry[1]
