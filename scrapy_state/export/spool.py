"""How much waits on this disk to be uploaded, and holding the crawl back above a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Spool:
    """Counts the batches that are open or wait to be uploaded, and holds the crawl back above a limit, until half is free.

    :param limit_bytes: STATE_SPOOL_SIZE
    :param pause: stops the crawl from sending requests; *resume*: lets it go on
    """

    #: Each waiting batch also takes an open file, of which a process has about 1,000.
    MAX_WAITING = 200

    def __init__(self, limit_bytes: int, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.waiting = 0
        self._pause = pause
        self._resume = resume
        self._closed = False
        #: whether the crawl is being held back
        self.held = False
        self._room = asyncio.Event()
        self._room.set()

    @property
    def full(self) -> bool:
        """Whether the crawl should be held back, and is not yet."""
        return (self.bytes > self.limit_bytes or self.waiting > self.MAX_WAITING) and not self.held and not self._closed

    def hold(self) -> None:
        """Hold the crawl back until there is room. Only while something is being uploaded."""
        if self.full and self.waiting:
            self.held = True
            self._room.clear()
            self._pause()

    def uploaded(self, bytes: int) -> None:
        """A batch of *bytes* has been uploaded, or has failed for good."""
        self.bytes -= bytes
        self.waiting -= 1
        half_free = self.bytes <= self.limit_bytes / 2 and self.waiting <= self.MAX_WAITING / 2
        if half_free or not self.waiting:
            self._release()

    def _release(self) -> None:
        if self.held:
            self.held = False
            self._room.set()
            self._resume()

    def close(self) -> None:
        """Let the crawl go on, and hold it back no more: what is under way can come to its end."""
        self._closed = True
        self._release()

    async def room(self) -> None:
        """Wait until there is room."""
        await self._room.wait()
