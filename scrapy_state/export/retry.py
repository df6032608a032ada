"""Retrying what a store does not answer: with growing pauses, for as long as the crawl may wait."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, TypeVar

from ..exceptions import StoreError, StoreUnreachable
from ..stores.retry import pauses

logger = logging.getLogger("scrapy_state.state")
T = TypeVar("T")
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_PAUSE_CLOSING_SECONDS = 2.0
#: What a call gets at least, however late it is made, so that a store which is well is not called down
_LEAST_SECONDS = 5.0
#: How often to look whether a call has got on
_LOOK_SECONDS = 1.0
_AT_ONCE = nullcontext()


class Retry:
    """Calls again what raises StoreUnreachable, with pauses that grow and vary (full jitter).

    A call may take as long as it makes progress, also when the crawl is closing. A time limit begins with a failure, or when
    somebody stops the crawl, who may then kill it.

    :param retry_seconds: how long after the first failure: STATE_RETRY_TIMEOUT
    :param close_seconds: how long, at most, after the first failure or the stop once the crawl is closing: STATE_CLOSE_TIMEOUT
    """

    def __init__(self, retry_seconds: float, close_seconds: float) -> None:
        self.retry_seconds = retry_seconds
        self.close_seconds = close_seconds
        self._closing = asyncio.Event()
        self._closing_since = self._stopped_since = math.inf

    def closing(self, stopped: bool) -> None:
        """The crawl is closing: whoever is pausing tries again at once. *stopped*: because somebody stops it (SIGTERM)."""
        now = time.monotonic()
        self._closing_since = min(self._closing_since, now)
        if stopped:
            self._stopped_since = min(self._stopped_since, now)
        self._closing.set()

    async def run(
        self,
        what: str,
        function: Callable[[], Awaitable[T]],
        turns: AbstractAsyncContextManager[Any] = _AT_ONCE,
        progress: Callable[[], object] = lambda: None,
    ) -> T:
        """Return what *function* returns.

        :param what: its name in the log
        :param turns: entered for each call; waiting for it does not count
        :param progress: returns something else each time that a call has got on
        :raises StoreUnreachable: if the time is over; any other error of *function* at once
        :raises StoreError: if a call is given up. It may still be at work in its thread, so it is not made again
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
        """Wait for *call*, which may be in a thread, and give it up when its time is over."""
        began = moved = time.monotonic()
        seen = progress()
        try:
            while not call.done():
                now = time.monotonic()
                stop = max(self._stopped_since + self.close_seconds, began + _LEAST_SECONDS)
                if now >= stop:
                    limit = f"STATE_CLOSE_TIMEOUT ({self.close_seconds:g} s)"
                    raise StoreError(f"{what}: it was not stored within {limit} after the crawl was told to stop")
                silent = min(
                    moved + max(self.retry_seconds, self.close_seconds, _LEAST_SECONDS),
                    max(self._deadline(first_failure), moved + _LEAST_SECONDS),
                )
                if now >= silent:
                    raise StoreError(f"{what}: no answer for {now - moved:.0f} s, and nothing of it was read in that time")
                await asyncio.wait([call], timeout=min(stop - now, silent - now, _LOOK_SECONDS))
                if seen != (seen := progress()):
                    moved = time.monotonic()
            return call.result()
        finally:
            call.cancel()

    async def _pause(self, seconds: float) -> None:
        if self._closing.is_set():
            await asyncio.sleep(min(seconds, _LONGEST_PAUSE_CLOSING_SECONDS))
        else:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), seconds)
