"""``start()`` in a run that continues a crawl: what it yields now, and which requests wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from scrapy import Request

#: A request with this key in its meta is sent in every run: a log-in, a poll.
EVERY_RUN = "state_every_run"
#: How long pending requests wait for ``start()`` to yield something
_START_SECONDS = 10.0
#: How long they wait for what follows from the first request that is sent in every run
_LOG_IN_SECONDS = 30.0


class StartRequests:
    """The requests of ``start()``.

    :param release: called once, when the pending requests of earlier runs may be sent
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self._released = False
        self._every_run = 0
        self._timer: asyncio.TimerHandle | None = None
        #: what ``start()`` has yielded just now
        self.newest: object = None

    def begin(self) -> None:
        """``start()`` is about to be read."""
        self._timer = asyncio.get_running_loop().call_later(_START_SECONDS, self.release)

    def yielded(self, result: object) -> None:
        """``start()`` has yielded *result*, which the engine gets next."""
        self.newest = result
        if not (isinstance(result, Request) and result.meta.get(EVERY_RUN)):
            self._release_unless_logging_in()

    def ended(self) -> None:
        """``start()`` yields no more."""
        self._release_unless_logging_in()

    def every_run_sent(self) -> None:
        """A request that is sent in every run is under way."""
        self._every_run += 1

    def every_run_done(self) -> None:
        """One of these is done. What it has sent, a form with the password, may be one, too."""
        self._every_run -= 1
        if self._released:
            return
        self._cancel_timer()
        if self._every_run:
            self._timer = asyncio.get_running_loop().call_later(_LOG_IN_SECONDS, self.release)
        else:
            self.release()

    def release(self) -> None:
        """Let the pending requests go."""
        self._cancel_timer()
        if not self._released:
            self._released = True
            self._release()

    def close(self) -> None:
        """The spider is closed."""
        self._cancel_timer()

    def _release_unless_logging_in(self) -> None:
        if not self._every_run:
            self.release()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
