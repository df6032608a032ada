"""What follows for the state, and for the items, from units that are over or have failed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from scrapy import Request, Spider, signals
from scrapy.crawler import Crawler

from ..barrier.barrier import get_barrier
from ..barrier.tickets import Side, Ticket
from ..exceptions import UnitFailed
from ..extension import SpiderSettingsState, get_extension
from ..model.json_values import shortened
from ..model.key_template import without_credentials
from ..settings import get_settings
from .watermark import Failure, Units, name_of, state_of

logger = logging.getLogger("scrapy_state.state")
#: So many units are in flight at most that start() has begun: each is a request that waits.
MAX_IN_FLIGHT = 1000


class UnitOutcomes:
    """The units of one crawl; which of them are over, somebody else knows (:class:`~scrapy_state.tracking.RequestTracker`)."""

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.settings = get_settings(crawler)
        self._barrier = get_barrier(crawler)
        self._units = Units({})
        #: of units in flight; and of those that are over, but not to be stored yet: they have begun others
        self._tickets: dict[str, Ticket] = {}
        self._closing = False
        self._room = asyncio.Event()

    # The barrier calls these

    @property
    def crowded(self) -> bool:
        """Whether ``start()`` should wait until units are done. Scrapy itself reads on, faster than it sends requests."""
        return self._units.in_flight >= MAX_IN_FLIGHT or (self._too_many_items and self._units.in_flight > 1)

    async def room(self) -> None:
        """Wait while it is :attr:`crowded`, and the spider is not being closed.

        Something is under way of each unit, but the one that waits for ``start()`` to go on. So that comes to an end.
        """
        while self.crowded and not self._closing:
            self._room.clear()
            if self._too_many_items:
                for unit in self._units.held_back():
                    self._drop(unit)  # the next run does it again
            await self._room.wait()

    def item_failed(self, ticket: Ticket, error: BaseException) -> None:
        """A pipeline raised for an item of that ticket's unit."""
        self._fail(ticket.side.unit, None, f"an item raised {type(error).__name__} in a pipeline")

    def finished(self) -> bool:
        """The crawl has come to its end; return whether units hold the state. Those that have not come to theirs fail."""
        for unit in self._units.all_in_flight():
            self._fail(unit, None, "it never came to its end")
        return self._units.holding

    def report(self) -> dict[str, Any]:
        """Return a checkpoint's fields about units; call it once for each."""
        return self._units.report()

    def closing(self) -> None:
        """Let ``start()`` go on."""
        self._closing = True
        self._room.set()

    # For the tracker

    def _start(self) -> None:
        resolver = get_extension(SpiderSettingsState, self.crawler)
        assert resolver is not None  # is_crawl(), and the add-on or setup.md put it there
        ahead = resolver.start.ahead if resolver.start is not None else ()
        self._units = Units(resolver.state, ahead, self.settings.on_unit_error == "skip")
        self.crawler.signals.connect(self._spider_closed, signals.spider_closed)

    def _ticket_of(self, unit: str) -> Ticket:
        ticket = self._tickets.get(unit)
        if ticket is None:
            ticket = self._tickets[unit] = Ticket(Side(unit=unit, failed=self._units.has_failed(unit)), 0)
        return ticket

    def _remove(self, unit: str) -> None:
        if not self._units.remove(unit):
            return
        ticket = self._tickets.get(unit)
        if ticket is not None and ticket.side.out:
            self._fail(unit, None, f"{ticket.side.out} items never came out of the pipelines")
        if self._units.has_failed(unit):
            self._tickets.pop(unit, None)
        if self._barrier.unit_items is not None and self._barrier.ended:
            return  # no checkpoint will tell of it
        self._stat("state/units")
        self._advance(unit)

    def _advance(self, over: str | None) -> None:
        """Move the state as far as it goes; the items of the units that the next checkpoint will tell of are to be stored."""
        passed = self._units.advance(over)
        for unit in passed if over is None or not self._units.is_ahead(over) else [*passed, over]:
            ticket = self._tickets.pop(unit, None)
            if ticket is not None and self._barrier.unit_items is not None:
                self._barrier.unit_items.release(ticket.side)
        if passed:
            self.crawler.spider.state = state_of(self._units.watermark)  # type: ignore[union-attr]
        if passed or over is not None:
            # Also where it has not moved: there are finished units beyond it, for the next checkpoint to tell of.
            self._barrier.state_yielded(state_of(self._units.watermark))
        if not self.crowded:
            self._room.set()

    @property
    def _too_many_items(self) -> bool:
        return self._barrier.unit_items is not None and self._barrier.unit_items.crowded

    def _drop(self, unit: str) -> None:
        ticket = self._tickets.get(unit)
        if ticket is not None and self._barrier.unit_items is not None:
            self._barrier.unit_items.drop(ticket.side)

    def _fail(self, unit: str, request: Request | None, reason: str) -> None:
        failure = Failure(without_credentials(request.url) if request is not None else "", reason)
        if not self._units.fail(unit, failure):
            return
        self._stat("state/units_failed")
        self._drop(unit)
        if self.settings.on_unit_error == "stop" and self._barrier.listener is not None:
            stop = UnitFailed(f"unit {shortened(unit)} failed: {' '.join(filter(None, reversed(failure)))}")
            self._barrier.listener.fail("state_unit_failed", stop, blocks=False)

    def _spider_closed(self, spider: Spider) -> None:
        if not self._units.failures:
            return
        state = shortened(name_of(state_of(self._units.watermark)))
        then = f"the state stays before them, at {state}; the next run does only what is missing"
        if self._barrier.stored is None:
            then = "this run stores no checkpoint"
        elif self.settings.on_unit_error == "skip":
            then = "they are passed over, and the checkpoints list them as skipped_units"
        lines = "\n".join(self._units.failures_told())
        logger.error("%s units failed; %s:\n%s", self._units.failures, then, lines, extra={"spider": spider})

    def _stat(self, name: str) -> None:
        self.crawler.stats.inc_value(name)
