"""Tickets: they say on which side of a barrier an item is, from the spider to the exporter."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .parking_lot import ParkingLot

#: The epoch of an item that the spider did not yield. It comes before every state: no state promises that it comes again.
BEFORE_ALL = -1


@dataclass(eq=False, slots=True)
class Side:
    """The items between two barriers.

    :param out: how many of them are not settled yet
    :param errors: how many of them a pipeline failed and STATE_ON_ITEM_ERROR skipped, by the epoch of their tickets
    :param batches: the batches that hold them, in the order they were opened
    :param changes: what they have changed in kept objects (kept/objects/), with the epochs of their tickets, in their order
    :param is_held: whether these are the items of one page or unit: they join a side between barriers when that is done
    :param owner: that page (frontier/page.py); None for a unit
    :param unit: the unit whose items these are; otherwise empty
    :param failed: whether that page or unit has failed, so that its items are discarded
    :param into: the side that these items have joined before they had left the pipelines
    :param waiting: where tasks wait until all items are settled
    :param when_settled: called once, when all items are settled
    :param keys: the keys of the pages (delta/) whose items these are, each with the epoch of its newest item. If that is
        infinite, the page does not count, because something of it is missing
    """

    out: int = 0
    errors: defaultdict[int, int] = field(default_factory=partial(defaultdict, int))  # a Counter takes three times as long
    batches: list[Any] = field(default_factory=list)
    changes: list[tuple[int, str]] = field(default_factory=list)
    is_held: bool = False
    owner: Any = None
    unit: str = ""
    failed: bool = False
    into: Side | None = None
    waiting: ParkingLot = field(default_factory=ParkingLot)
    when_settled: Callable[[], None] | None = None
    keys: dict[int, float] = field(default_factory=dict)

    def take(self) -> None:
        """Take note of one more item."""
        self.out += 1
        if self.into is not None:
            self.into.take()

    def join(self, side: Side) -> None:
        """From now on these items belong to *side*, where they will be exported."""
        side.out += self.out
        self.into = side

    def settle(self) -> None:
        """Take note that one item has been exported, dropped or skipped."""
        self.out -= 1
        if self.into is not None:
            self.into.settle()
        if self.out:
            return
        self.waiting.unpark_all()
        if self.when_settled is not None:
            when_settled, self.when_settled = self.when_settled, None
            when_settled()

    def note_key(self, key: int, epoch: float) -> None:
        """Note that the page with this *key* has an item here."""
        self.keys[key] = max(epoch, self.keys.get(key, epoch))

    def void_keys_from(self, epoch: int) -> None:
        """Note that items of this *epoch* and of later ones are left out."""
        for key, newest in self.keys.items():
            if newest >= epoch:
                self.keys[key] = math.inf

    async def settled(self) -> None:
        """Wait until every item of this side is settled."""
        while self.out:
            await self.waiting.park()


@dataclass(eq=False, slots=True)
class Ticket:
    """The side of an item, and its epoch: how many state items the spider had yielded before it. A ticket never changes.

    :param key: the key of its page, if what was stored of that page is remembered (delta/)
    """

    side: Side
    epoch: int
    key: int | None = None

    def settle(self) -> None:
        """Take note that one item with this ticket has been exported, dropped or skipped."""
        self.side.settle()

    @property
    def to_export(self) -> Ticket:
        """The ticket under which its item is exported: that of the side which its own side has joined."""
        return self if self.side.into is None else Ticket(self.side.into, self.epoch, self.key)

    def note_key(self) -> None:
        """Take note that the item has been exported."""
        if self.key is not None:
            self.side.note_key(self.key, self.epoch)

    def void_key(self) -> None:
        """Take note that something of the item's page has failed."""
        if self.key is not None:
            self.to_export.side.note_key(self.key, math.inf)


#: The ticket of the item that is in the pipelines, for the items that these submit themselves
within: ContextVar[Ticket | None] = ContextVar("scrapy_state_within", default=None)


class Tickets:
    """The tickets of one crawl. Only used in the event loop's thread.

    Items can be of any type, so a ticket is found by its item's identity. It is looked up twice: when the item enters the
    pipelines, and when the exporter gets what the pipelines returned, which may be another object.
    """

    def __init__(self) -> None:
        #: the ticket for an item that is yielded now; all items between two state items share one
        self.current = Ticket(Side(), 0)
        self._yielded = _ByObject()
        self._processed = _ByObject()

    def issue(self, item: Any, ticket: Ticket | None = None) -> None:
        """Give *item*, which the spider has just yielded, *ticket*, or the current one."""
        if ticket is None:
            ticket = self.current
        ticket.side.take()
        self._yielded.put(item, ticket)

    def enter(self, item: Any) -> Ticket:
        """Return the ticket of *item*, which enters the pipelines. An item that the spider did not yield gets one here."""
        return self._yielded.take(item) or self._issue_within()

    def now(self) -> Ticket | None:
        """Return the ticket of the item that is in the pipelines, as far as the caller knows; None if there is none."""
        ticket = within.get()
        return ticket if ticket is not None and self._is_open(ticket) else None

    def leave(self, ticket: Ticket, item: Any) -> None:
        """Give *ticket* to *item*, which the pipelines have returned."""
        self._processed.put(item, ticket)

    def scraped(self, item: Any) -> Ticket:
        """Return the ticket of *item*, which the pipelines have returned."""
        return self._processed.take(item) or self._issue_within()

    def cut(self) -> Side:
        """Begin a new side for the items that are yielded from now on; return the old one."""
        old = self.current.side
        self.current = Ticket(Side(), self.current.epoch)
        return old

    def next_epoch(self) -> None:
        """Take note that the spider has yielded a state item."""
        self.current = Ticket(self.current.side, self.current.epoch + 1)

    def _issue_within(self) -> Ticket:
        """Issue a ticket for an item that the spider did not yield.

        If a pipeline submits it, it belongs to the item that this pipeline is processing. Otherwise (an extension; a pipeline
        that opens, closes, or returned its item long ago) no state promises that it comes again.
        """
        ticket = self.now() or Ticket(self.current.side, BEFORE_ALL)
        ticket.side.take()
        return ticket

    def _is_open(self, ticket: Ticket) -> bool:
        return bool(ticket.side.out) or ticket.side.failed or ticket.side is self.current.side


class _ByObject:
    """Tickets by object, for objects that can't be dict keys and that may be yielded several times: first in, first out."""

    def __init__(self) -> None:
        # By id, with the object, so that it lives as long as its id is a key here
        self._first: dict[int, tuple[Any, Ticket]] = {}
        #: the second and later tickets of objects that were yielded several times
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
