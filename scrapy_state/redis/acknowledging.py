"""When leases are given up: once the items of their requests are durable."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from ..tickets import Listener
from .worker import Worker

_OFTEN_SECONDS = 0.1
#: A worker that has had nothing to do for so long makes a cut due. A page now and then must not make a file each.
_IDLE_SECONDS = 5.0


class Acknowledging:
    """Gives up leases whose requests are done, after a cut has made their items durable.

    :param listener: makes them durable; None: there is nothing to wait for
    :param interval_seconds: STATE_INTERVAL, between two cuts at least
    """

    def __init__(self, worker: Worker, listener: Listener | None, interval_seconds: float) -> None:
        self._worker = worker
        self._listener = listener
        self._interval_seconds = max(interval_seconds, _OFTEN_SECONDS)
        self._last_cut = time.monotonic()
        self._hurry = asyncio.Event()
        self._task = asyncio.create_task(self._cut_when_due()) if listener is not None else None

    def done(self, id: int) -> None:
        """The request of lease *id* has been through its callback, and its items through the pipelines."""
        if self._listener is None:
            self._worker.acknowledge([id])
        else:
            self._worker.finish(id)

    def hurry(self) -> None:
        """Make a cut now: nothing is left to crawl, and the other workers wait for this one."""
        self._hurry.set()

    async def close(self) -> None:
        """Make a last cut. What it can't make durable keeps its lease."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._make_durable(closing=True)

    async def _cut_when_due(self) -> None:
        busy = time.monotonic()
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), min(self._interval_seconds, 1.0))
            now = time.monotonic()
            if not self._worker.idle:
                busy = now
            is_due = self._hurry.is_set() or now - self._last_cut >= self._interval_seconds or now - busy >= _IDLE_SECONDS
            self._hurry.clear()
            if self._worker.done and is_due:
                await self._make_durable()

    async def _make_durable(self, closing: bool = False) -> None:
        assert self._listener is not None
        # What is done by now has all its items exported: before the cut, whatever is done meanwhile.
        ids = list(self._worker.done)
        self._last_cut = time.monotonic()
        if ids and await self._listener.make_durable(closing):
            del self._worker.done[: len(ids)]
            self._worker.acknowledge(ids)
