"""Warnings about a spider's state items: that there are too few, or that they come while requests are out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Set
from dataclasses import dataclass

from scrapy import Request
from scrapy.http.request import NO_CALLBACK

from ..model.web_docs import docs_url
from .log import SpiderLog

#: After this many items, and this many times STATE_INTERVAL, without a state item comes a warning
MANY_ITEMS = 100
MANY_INTERVALS = 5
_REMEDY = (
    "Yield a StateItem while no request is out but the one that continues from there, or give the requests units "
    f'(meta={{"state": …}}): see {docs_url("state", "state-items-while-requests-are-out")}'
)


@dataclass(eq=False, slots=True)
class Page:
    """The output of one callback, or of ``start()``.

    :param request: the callback's request; None for ``start()``
    :param before: the requests that were in flight when the callback began
    :param sent: how many requests it has yielded; ``start()``: since its last state item
    :param is_start: whether this is the output of ``start()``
    """

    request: Request | None
    before: Set[Request] = frozenset()
    sent: int = 0
    is_start: bool = False


class OrderCheck:
    """Counts the requests that are out, in flight or waiting, when a state item comes. Only used in the event loop's thread.

    One request that the state item's own callback has yielded does not count: it continues from there. Requests that pipelines
    and middlewares download don't count either.

    :param in_flight: returns the requests in flight, including those of pipelines and middlewares
    :param waiting: returns how many requests wait in the scheduler
    """

    def __init__(self, in_flight: Callable[[], Set[Request]], waiting: Callable[[], int]) -> None:
        self._all_in_flight = in_flight
        self._waiting = waiting
        #: requests whose callbacks have ended, though their items may still be in the pipelines
        self._over: Set[Request] = set()

    def begin(self, request: Request | None) -> Page:
        """The callback of *request*, or ``start()`` (None), begins."""
        return Page(request, self._in_flight(request) if request is not None else set())

    def end(self, page: Page) -> None:
        """The callback of *page* has ended."""
        if page.request is not None:
            self._over |= {page.request}

    def out(self, page: Page) -> int:
        """*page* has yielded a state item: return how many requests are out."""
        in_flight, waiting = self._in_flight(page.request), self._waiting()
        if page.request is None:
            own, page.sent = min(page.sent, 1), 0
            return max(0, len(in_flight) + waiting - own)
        # The requests that this callback has yielded may still be on their way to the scheduler.
        others = max(len(in_flight) + waiting - page.sent, len(in_flight & page.before))
        return max(others, 0) + (page.sent if page.sent > 1 else 0)

    def _in_flight(self, own: Request | None) -> Set[Request]:
        in_flight = self._all_in_flight()
        self._over &= in_flight
        return {request for request in in_flight - self._over if request is not own and request.callback is not NO_CALLBACK}


class StateItemCheck:
    """Counts a spider's items and state items. Warns once during the crawl, and with the totals when the spider is closed.

    :param order: counts the requests that are out
    :param interval_seconds: STATE_INTERVAL
    :param log: takes the warnings
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
        #: how many state items came while requests were out, and at most how many requests were out then
        self.early = 0
        self.most_out = 0

    def item(self) -> None:
        """Count an item."""
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
        """Count a state item, and the requests that are out. *page*: what yielded it, if that is known."""
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
                    "before it is done: if this run is killed now, the items of these requests are lost. %s", out, _REMEDY,
                )  # fmt: skip

    def closed(self, reason: str) -> None:
        """The spider is closed: warn of items that no checkpoint names, and of items that a kill would have lost."""
        if self.early:
            self._log.warning(
                "%s of %s state items came while requests yielded before them were out (up to %s): if a run was killed "
                "then, the items of these requests are missing. %s",
                self.early, self.states, self.most_out, _REMEDY,
            )  # fmt: skip
        if self.items and (not self.states or reason == "finished"):
            where = "after the last state item" if self.states else "and no state item"
            self._log.warning(
                "the spider yielded %s items %s: no checkpoint names them, and the next run begins before them. %s",
                self.items, where, _REMEDY,
            )  # fmt: skip
