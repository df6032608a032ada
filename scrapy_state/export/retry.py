"""Retrying calls to a store during a crawl, for as long as the crawl may wait."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, TypeVar

from ..exceptions import StoreSilent, StoreUnreachable
from ..stores.retry import pauses

logger = logging.getLogger("scrapy_state.state")
T = TypeVar("T")
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_PAUSE_CLOSING_SECONDS = 2.0
#: Every call gets this long, however late it is made: otherwise a store that works would look as if it were down.
_LEAST_SECONDS = 5.0
#: How often to check whether a call makes progress
_LOOK_SECONDS = 1.0
_NO_TURNS = nullcontext()


class Retry:
    """Repeats calls that raise StoreUnreachable, with growing pauses.

    While a call makes progress it may take any time, even when the crawl is closing. The clock starts with a failure. It also
    starts when somebody stops the crawl, because they may kill it soon.

    :param retry_seconds: how long to try after the first failure: STATE_RETRY_TIMEOUT
    :param close_seconds: how long to try, at most, once the crawl is closing: STATE_CLOSE_TIMEOUT
    """

    def __init__(self, retry_seconds: float, close_seconds: float) -> None:
        self.retry_seconds = retry_seconds
        self.close_seconds = close_seconds
        self._closing = asyncio.Event()
        self._closing_since = self._stopped_since = math.inf

    def closing(self, stopped: bool) -> None:
        """Take note that the crawl is closing, and end all pauses now.

        :param stopped: whether somebody has stopped it (SIGTERM)
        """
        now = time.monotonic()
        self._closing_since = min(self._closing_since, now)
        if stopped:
            self._stopped_since = min(self._stopped_since, now)
        self._closing.set()

    async def run(
        self,
        what: str,
        function: Callable[[], Awaitable[T]],
        turns: AbstractAsyncContextManager[Any] = _NO_TURNS,
        progress: Callable[[], object] = lambda: None,
    ) -> T:
        """Return what *function* returns.

        :param what: what is being stored, for the log: a URI, or "checkpoint 12"
        :param turns: entered for each call; the time spent waiting for it does not count
        :param progress: returns another value whenever the call has made progress
        :raises StoreUnreachable: if the time is over; other errors of *function* immediately
        :raises StoreSilent: if a call is abandoned. It may still be running in its thread, so it is not repeated
        """
        first_failure = math.inf
        backoff = pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            try:
                async with turns:
                    return await self._watched(asyncio.ensure_future(function()), what, first_failure, progress)
            except StoreUnreachable as error:
                now = time.monotonic()
                first_failure = min(first_failure, now)
                left = self._deadline(first_failure) - now
                if left <= 0:
                    raise
                logger.warning("%s is not stored yet: %s. Trying again for %.0f s", what, error, left)
                await self._pause(min(left, next(backoff)))

    def _deadline(self, first_failure: float) -> float:
        closing = max(first_failure, self._closing_since) + self.close_seconds
        return min(first_failure + self.retry_seconds, closing, self._stopped_since + self.close_seconds)

    async def _watched(self, call: asyncio.Future[T], what: str, first_failure: float, progress: Callable[[], object]) -> T:
        """Wait for *call*, which may be running in a thread, and abandon it when its time is over."""
        began = last_progress = time.monotonic()
        position = progress()
        try:
            while not call.done():
                now = time.monotonic()
                stop = max(self._stopped_since + self.close_seconds, began + _LEAST_SECONDS)
                if now >= stop:
                    limit = f"STATE_CLOSE_TIMEOUT ({self.close_seconds:g} s)"
                    raise StoreSilent(f"it was not stored within {limit} after the crawl was told to stop", uri=what)
                give_up = min(
                    last_progress + max(self.retry_seconds, self.close_seconds, _LEAST_SECONDS),
                    max(self._deadline(first_failure), last_progress + _LEAST_SECONDS),
                )
                if now >= give_up:
                    seconds = now - last_progress
                    raise StoreSilent(f"no answer for {seconds:.0f} s, and nothing of it was read in that time", uri=what)
                await asyncio.wait([call], timeout=min(stop - now, give_up - now, _LOOK_SECONDS))
                if position != (position := progress()):
                    last_progress = time.monotonic()
            return call.result()
        finally:
            call.cancel()

    async def _pause(self, seconds: float) -> None:
        if self._closing.is_set():
            await asyncio.sleep(min(seconds, _LONGEST_PAUSE_CLOSING_SECONDS))
        else:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), seconds)
