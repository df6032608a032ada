"""STATE_REDIS_CLEAR: a frontier that is removed before the first request, or when the crawl has finished."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .connection import Connection
from .options import RedisSettings
from .report import clear_frontier, read_frontier

logger = logging.getLogger("scrapy_state.state")
_POLL_SECONDS = 0.2


class Clearing:
    """Removes the frontier of one job while nobody else does, or opens it.

    A lock beside the frontier keeps workers that start at the same moment from removing what another one has begun.
    """

    def __init__(self, connection: Connection, settings: RedisSettings, worker: str) -> None:
        self._connection = connection
        self._settings = settings
        self._worker = worker

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Wait until nobody else has the lock, and hold it. One that was not let go ends by itself after a minute.

        :raises StoreError: if Redis does not answer, or refuses
        """
        while not await self._connection.lock(self._settings.prefix, self._worker):  # noqa: ASYNC110 - others are elsewhere
            await asyncio.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            await self._connection.unlock(self._settings.prefix, self._worker)

    async def clear(self) -> None:
        """Remove the frontier, but for what was pushed to it. To be called with the lock held.

        :raises StoreError: if Redis does not answer, or refuses
        """
        await asyncio.to_thread(clear_frontier, self._settings.url, self._settings.prefix, keep_pushed=True)

    async def clear_if_finished(self) -> None:
        """Remove the frontier if nobody is at work on it, and nothing in it is left to do.

        :raises StoreError: if Redis does not answer, or refuses
        """
        settings = self._settings
        async with self.lock():
            found = await asyncio.to_thread(read_frontier, settings.url, settings.prefix, settings.pushed_key)
            if found.seconds_left or found.pending:
                return  # the last worker does it
            if found.unreadable:
                logger.warning(
                    "STATE_REDIS_CLEAR: the frontier %s is kept, since %s requests in it could not be read", settings.prefix,
                    found.unreadable,
                )  # fmt: skip
                return
            await self.clear()
        logger.info("The crawl is finished, and its frontier %s is removed (STATE_REDIS_CLEAR)", settings.prefix)
