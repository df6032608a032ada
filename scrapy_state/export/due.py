"""When the next cut is due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..barrier.log import SpiderLog

#: For how long a cut that is due waits for a clean state item at least, even if STATE_INTERVAL is shorter
_LEAST_WAIT_SECONDS = 10.0
#: The first cut of a crawl with requests comes no earlier than this: a clean state item may follow soon
_FIRST_CUT_SECONDS = 0.5


class Due:
    """Says when to cut, and in which of two ways: at a clean state item, or with the requests that are not done.

    :param interval_seconds: STATE_INTERVAL
    :param cut_with_requests: makes a cut of the second kind
    """

    def __init__(self, interval_seconds: float, cut_with_requests: Callable[[], None], log: SpiderLog) -> None:
        self._interval_seconds = interval_seconds
        self._cut_with_requests = cut_with_requests
        self._log = log
        self._last_cut = time.monotonic()
        #: whether the newest checkpoint has requests, or a cut has been made
        self._has_cut = False
        self._timer: asyncio.TimerHandle | None = None
        #: whether a checkpoint needs no requests: the newest state item was clean, and no cut with requests has come since.
        #: None before the first state item or cut
        self.is_clean: bool | None = None

    @property
    def now(self) -> bool:
        """Whether STATE_INTERVAL has passed since the last cut."""
        return time.monotonic() - self._last_cut >= self._interval_seconds

    def opened(self, with_requests: bool) -> None:
        """The opening checkpoint is stored."""
        self._has_cut = with_requests
        self._last_cut = time.monotonic()

    def cut(self) -> None:
        """A cut is made now."""
        self.cancel()
        self._has_cut = True
        self._last_cut = time.monotonic()

    def requests_changed(self) -> None:
        """Cut with requests once that is due. If the last state item was clean, first wait for another one."""
        if self._timer is not None:
            return
        interval_seconds = self._interval_seconds
        due_at = self._last_cut + (interval_seconds if self._has_cut else max(interval_seconds, _FIRST_CUT_SECONDS))
        if self.is_clean:
            due_at += max(interval_seconds, _LEAST_WAIT_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due_at - time.monotonic()), self._cut_with_requests)

    def cancel(self) -> None:
        """Forget the cut that :meth:`requests_changed` has planned."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def note_clean(self, is_clean: bool) -> None:
        """A state item has come, or a cut with requests; log it if the way of cutting changes."""
        before, self.is_clean = self.is_clean, is_clean
        if before == is_clean:
            return
        self.cancel()  # the next cut with requests is due earlier or later now
        if before is None:
            return
        if is_clean:
            what, why = "only the state", "the spider yields state items while nothing else is under way"
        else:
            what, why = "the state and the requests that are not done", "other requests are under way when state items come"
        self._log.info("checkpoints contain %s from now on: %s", what, why)
