"""What follows when a unit is done or fails: the state moves, its items are released or dropped, failures are logged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from scrapy import Request, Spider, signals
from scrapy.crawler import Crawler

from ..barrier.barrier import get_barrier
from ..barrier.parts import UnitItems
from ..barrier.tickets import Side, Ticket
from ..exceptions import UnitFailed
from ..model.json_values import shortened
from ..model.key_template import without_credentials
from .failures import FailureLog
from .watermark import Failure, Units, name_of, state_of

#: ``start()`` waits while this many units are in flight, because each of them has a request in the queue.
MAX_IN_FLIGHT = 1000


class Progress:
    """The units of one crawl and their items.

    :class:`~scrapy_state.units.tracker.RequestTracker` says when something of a unit begins, ends or fails.

    :param on_unit_error: STATE_ON_UNIT_ERROR
    """

    def __init__(self, crawler: Crawler, on_unit_error: str) -> None:
        self.units = Units({})
        self._crawler = crawler
        self._on_unit_error = on_unit_error
        self._barrier = get_barrier(crawler)
        self._failures = FailureLog()
        #: one for each unit that has yielded items, until it is done or has failed; its side is the unit's own
        self._tickets: dict[str, Ticket] = {}
        self._closing = False
        self._start_may_go_on = asyncio.Event()

    def start_from(self, state: dict[str, Any], ahead: Iterable[str]) -> None:
        """Begin with *state*, before the first unit; *ahead*: digests of the units beyond it that earlier runs finished."""
        self.units = Units(state, ahead, skip_failed=self._on_unit_error == "skip")
        self._crawler.signals.connect(self._spider_closed, signals.spider_closed)

    def ticket(self, unit: str) -> Ticket:
        """Return the ticket for an item of *unit*."""
        ticket = self._tickets.get(unit)
        if ticket is None:
            ticket = self._tickets[unit] = Ticket(Side(is_held=True, unit=unit, failed=self.units.has_failed(unit)), 0)
        return ticket

    def remove(self, unit: str) -> None:
        """One request or callback of *unit* has ended; if it was the last one, the unit is over."""
        if not self.units.remove(unit):
            return
        ticket = self._tickets.get(unit)
        if ticket is not None and ticket.side.out:
            self.fail(unit, None, f"{ticket.side.out} items never came out of the pipelines")
        if self.units.has_failed(unit):
            self._tickets.pop(unit, None)
        if self._items is not None and self._barrier.ended:
            return  # no more checkpoints are stored
        self._crawler.stats.inc_value("state/units")
        self.advance(unit)

    def advance(self, over: str | None = None) -> None:
        """Move the state as far as possible, and release the items of the units that the next checkpoint will cover.

        :param over: the unit that has just ended; None if an earlier run finished it
        """
        passed = self.units.advance(over)
        for unit in passed if over is None or not self.units.is_ahead(over) else [*passed, over]:
            ticket = self._tickets.pop(unit, None)
            if ticket is not None and self._items is not None:
                self._items.release(ticket.side)
        if passed:
            self._crawler.spider.state = state_of(self.units.watermark)  # type: ignore[union-attr]
        if passed or over is not None:
            # Also if the state has not moved: the next checkpoint lists one more finished unit beyond it.
            self._barrier.state_yielded(state_of(self.units.watermark))
        if not self.crowded:
            self._start_may_go_on.set()

    def fail(self, unit: str, request: Request | None, reason: str) -> None:
        """*unit* has failed, because of *request* if that is known."""
        failure = Failure(without_credentials(request.url) if request is not None else "", reason)
        if not self.units.fail(unit, failure):
            return
        self._failures.add(unit, failure)
        self._crawler.stats.inc_value("state/units_failed")
        self._drop_items(unit)
        if self._on_unit_error == "stop" and self._barrier.listener is not None:
            error = UnitFailed(f"unit {shortened(unit)} failed: {' '.join(filter(None, reversed(failure)))}")
            self._barrier.failure.fail("state_unit_failed", error, blocks_newest=False)

    @property
    def crowded(self) -> bool:
        """Whether ``start()`` should wait until units are done. Scrapy reads it faster than it sends requests."""
        return self.units.in_flight >= MAX_IN_FLIGHT or (self._too_many_items and self.units.in_flight > 1)

    async def wait_while_crowded(self) -> None:
        """Wait while it is :attr:`crowded` and the spider is not being closed.

        Every unit in flight has a request under way, except the unit that ``start()`` began last. So they do end.
        """
        while self.crowded and not self._closing:
            self._start_may_go_on.clear()
            if self._too_many_items:
                for unit in self.units.over_but_blocked():
                    self._drop_items(unit)  # the next run repeats the unit
            await self._start_may_go_on.wait()

    def closing(self) -> None:
        """The spider is being closed: ``start()`` waits no longer."""
        self._closing = True
        self._start_may_go_on.set()

    @property
    def _items(self) -> UnitItems | None:
        """The items of units in flight; None where no checkpoints are stored (in a read-only run, say)."""
        return self._barrier.unit_items

    @property
    def _too_many_items(self) -> bool:
        return self._items is not None and self._items.crowded

    def _drop_items(self, unit: str) -> None:
        ticket = self._tickets.get(unit)
        if ticket is not None and self._items is not None:
            self._items.drop(ticket.side)

    def _spider_closed(self, spider: Spider) -> None:
        state = shortened(name_of(state_of(self.units.watermark)))
        consequence = f"the state stays before them, at {state}; the next run does only what is missing"
        if self._barrier.stored is None:
            consequence = "this run stores no checkpoint"
        elif self._on_unit_error == "skip":
            consequence = "they are skipped, and the checkpoints list them as skipped_units"
        self._failures.log(consequence, spider)
