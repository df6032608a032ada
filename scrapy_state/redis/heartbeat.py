"""A worker whose event loop is blocked is not dead: this says so, from a thread."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from scrapy import Spider

from ..exceptions import StoreError
from .connection import Connection
from .options import RedisSettings

logger = logging.getLogger("scrapy_state.state")


class Heartbeat:
    """Renews a worker's leases while its exchanges, which do so too, can't be sent because the event loop does not run.

    A callback in C code that keeps the interpreter's lock stops this thread as well.

    :param last: when the worker's last exchange had its reply, by time.monotonic()
    """

    def __init__(self, settings: RedisSettings, worker: str, spider: Spider, last: Callable[[], float]) -> None:
        self._settings = settings
        self._worker = worker
        self._spider = spider
        self._last = last
        self._stopped = threading.Event()
        self._loop_thread = threading.get_ident()
        self._told_at = 0.0
        self._thread = threading.Thread(target=self._run, name="scrapy_state heartbeat", daemon=True)

    def start(self) -> None:
        """Begin. To be called in the event loop's thread."""
        self._thread.start()

    def stop(self) -> None:
        """No more of it; waits for nothing."""
        self._stopped.set()

    def _run(self) -> None:
        every = self._settings.heartbeat_seconds
        while not self._stopped.wait(every / 2):
            last = self._last()
            silent_seconds = time.monotonic() - last
            if silent_seconds < 1.5 * every:
                continue
            with suppress(StoreError):  # Redis is away: the worker says so, when it can
                asyncio.run(self._beat())
            if silent_seconds >= self._settings.lease_seconds and self._told_at != last:
                self._told_at = last
                self._tell(silent_seconds)

    async def _beat(self) -> None:
        connection = Connection(self._settings.url)
        try:
            await connection.renew(self._settings.prefix, self._worker, self._settings.lease_seconds)
        finally:
            await connection.close()

    def _tell(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown"
        logger.warning(
            "no exchange with Redis for %.0f s: something blocks the event loop, or Redis does not answer (just now: %s). This "
            "worker keeps its leases meanwhile", seconds, where, extra={"spider": self._spider},
        )  # fmt: skip
