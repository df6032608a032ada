"""Whether a spider's state items say what they should: that they come, and that nothing is under way when they do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Set
from dataclasses import dataclass

from scrapy import Request
from scrapy.http.request import NO_CALLBACK

from .log import SpiderLog

#: Items, and intervals between cuts, without a state item, before a warning says so
MANY_ITEMS = 100
MANY_INTERVALS = 5
_REMEDY = (
    "Yield a StateItem where no request is under way but the one that goes on from there, or give the requests units "
    '(meta={"state": …}): see docs/state.md'
)


@dataclass(eq=False, slots=True)
class Page:
    """One callback's output, or that of ``start()`` (*request* is None).

    :param before: the requests that were in flight when it began
    :param sent: how many requests it has yielded; of ``start()``, since its last state item
    """

    request: Request | None
    before: Set[Request]
    sent: int = 0


class OrderCheck:
    """Counts the requests that are out when a state item comes. Only touched from the event loop's thread.

    One that the state item's own callback has sent is no such request: it goes on from there. Requests of pipelines and
    middlewares are their own business.

    :param in_flight: returns the requests in flight, those of pipelines and middlewares too
    :param waiting: returns how many wait in the scheduler
    """

    def __init__(self, in_flight: Callable[[], Set[Request]], waiting: Callable[[], int]) -> None:
        self._all_in_flight = in_flight
        self._waiting = waiting
        #: whose callbacks yield nothing more, while their items may be in the pipelines
        self._over: Set[Request] = set()

    def begin(self, request: Request | None) -> Page:
        """The callback of *request*, or ``start()``, begins."""
        return Page(request, self._in_flight(request) if request is not None else set())

    def end(self, page: Page) -> None:
        """Nothing more comes of it."""
        if page.request is not None:
            self._over |= {page.request}

    def out(self, page: Page) -> int:
        """A state item comes of *page*; return how many requests are out."""
        in_flight, waiting = self._in_flight(page.request), self._waiting()
        if page.request is None:
            own, page.sent = min(page.sent, 1), 0
            return max(0, len(in_flight) + waiting - own)
        # What this callback has yielded may be on its way to the scheduler still.
        others = max(len(in_flight) + waiting - page.sent, len(in_flight & page.before))
        return max(others, 0) + (page.sent if page.sent > 1 else 0)

    def _in_flight(self, but: Request | None) -> Set[Request]:
        in_flight = self._all_in_flight()
        self._over &= in_flight
        return {each for each in in_flight - self._over if each is not but and each.callback is not NO_CALLBACK}


class StateItemCheck:
    """Counts a spider's items and state items, and warns: once while it crawls, and with the numbers when it is closed.

    :param order: None where pending requests are kept, so that it does not matter
    :param interval_seconds: STATE_INTERVAL
    :param log: where the warnings go
    """

    def __init__(self, order: OrderCheck, interval_seconds: float, log: logging.Logger | SpiderLog) -> None:
        self.order = order
        self._long_seconds = interval_seconds * MANY_INTERVALS
        self._log = log
        self._since = time.monotonic()
        self._warned = False
        #: items since the last state item
        self.items = 0
        self.states = 0
        #: state items that came while requests were out, and at most how many of these
        self.early = 0
        self.most_out = 0

    def item(self) -> None:
        """The spider has yielded an item that a checkpoint could name."""
        self.items += 1
        if self.items < MANY_ITEMS or self._warned:
            return
        seconds = time.monotonic() - self._since
        if seconds >= self._long_seconds:
            self._warned = True
            self._log.warning(
                "%s items in %.0f s, and no state item %s: if this run is killed now, the next one begins before them. %s",
                self.items, seconds, "since the last one" if self.states else "yet", _REMEDY,
            )  # fmt: skip

    def state(self, page: Page | None) -> None:
        """The spider has yielded a state item."""
        self.items = 0
        self.states += 1
        self._since = time.monotonic()
        out = self.order.out(page) if page is not None else 0
        if out:
            self.early += 1
            self.most_out = max(self.most_out, out)
            if self.early == 1:
                self._log.warning(
                    "a state item came while requests that were yielded before it are still out (%s of them). It says that all "
                    "before it is done: if this run is killed now, what they were to bring is lost. %s", out, _REMEDY,
                )  # fmt: skip

    def closed(self, reason: str) -> None:
        """The spider is closed: say what no checkpoint names, and what a kill would have lost."""
        if self.early:
            self._log.warning(
                "%s of %s state items came while requests yielded before them were out (up to %s): where a run was killed "
                "then, what these were to bring is missing. %s",
                self.early, self.states, self.most_out, _REMEDY,
            )  # fmt: skip
        if self.items and (not self.states or reason == "finished"):
            which = "after the last state item" if self.states else "and no state item"
            self._log.warning(
                "the spider yielded %s items %s: no checkpoint names them, and the next run begins before them. %s",
                self.items, which, _REMEDY,
            )  # fmt: skip
