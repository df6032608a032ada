"""Getting files away: trying again while a store is down, and keeping what waits on this disk within bounds."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from scrapy import signals
from scrapy.crawler import Crawler

from .batches import Batch
from .checkpoint import ItemFile
from .exceptions import StoreError, StoreUnreachable
from .gaps import hold
from .tickets import get_barrier

logger = logging.getLogger("scrapy_state.state")
T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_PAUSE_CLOSING_SECONDS = 2.0
#: What a call gets at least, however late it is made, so that a store which is well is not called down
_LEAST_SECONDS = 5.0


class Retry:
    """Calls again what raises StoreUnreachable, with pauses that grow and vary (full jitter).

    :param retry_seconds: how long after the first failure: STATE_RETRY_TIMEOUT
    :param close_seconds: how long after :meth:`closing`, at most: STATE_CLOSE_TIMEOUT
    """

    def __init__(self, retry_seconds: float, close_seconds: float) -> None:
        self.retry_seconds = retry_seconds
        self.close_seconds = close_seconds
        self._closing = asyncio.Event()
        self._closing_since = 0.0

    def closing(self) -> None:
        """The crawl is closing: whoever is pausing tries again at once."""
        if not self._closing.is_set():
            self._closing_since = time.monotonic()
            self._closing.set()

    async def run(self, what: str, function: Callable[[], Awaitable[T]]) -> T:
        """Return what *function* returns. *what*: its name in the log.

        :raises StoreUnreachable: if the time is over; any other error of *function* at once
        """
        first_failure: float | None = None
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._bounded(asyncio.ensure_future(function()), what)
            except StoreUnreachable as error:
                first_failure = first_failure or time.monotonic()
                left = self._deadline(first_failure) - time.monotonic()
                if left <= 0:
                    raise
                logger.warning("%s is not stored yet: %s. Trying again for %.0f s", what, error, left)
                await self._pause(min(left, random.uniform(pause / 2, pause)))
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _deadline(self, first_failure: float) -> float:
        by_failure = first_failure + self.retry_seconds
        return min(by_failure, self._closing_since + self.close_seconds) if self._closing.is_set() else by_failure

    async def _bounded(self, call: asyncio.Future[T], what: str) -> T:
        """Wait for *call*, which may be in a thread: once the crawl is closing, no longer than it has time."""
        closing: asyncio.Future[Any] = asyncio.ensure_future(self._closing.wait())
        either: list[asyncio.Future[Any]] = [call, closing]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                left = self._closing_since + self.close_seconds - time.monotonic()
                await asyncio.wait([call], timeout=max(_LEAST_SECONDS, left))
            if not call.done():
                call.cancel()
                raise StoreUnreachable(f"{what}: no answer within STATE_CLOSE_TIMEOUT ({self.close_seconds:g} s)")
            return call.result()
        finally:
            closing.cancel()

    async def _pause(self, seconds: float) -> None:
        if self._closing.is_set():
            await asyncio.sleep(min(seconds, _LONGEST_PAUSE_CLOSING_SECONDS))
        else:
            await asyncio.wait([asyncio.ensure_future(self._closing.wait())], timeout=seconds)


class Spool:
    """Counts the bytes in batches that are open or wait to be uploaded, and holds the crawl back above a limit.

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
    def over(self) -> bool:
        """Whether there is more than there should be."""
        return self.bytes > self.limit_bytes or self.waiting > self.MAX_WAITING

    def hold(self) -> None:
        """Hold the crawl back until there is room. Only while something is being uploaded."""
        if not self.held and self.waiting and not self._closed:
            self.held = True
            self._room.clear()
            self._pause()

    def uploaded(self, bytes: int) -> None:
        """A batch of *bytes* has been uploaded, or has failed for good."""
        self.bytes -= bytes
        self.waiting -= 1
        if not self.over or not self.waiting:
            self.release()

    def release(self) -> None:
        """Let the crawl go on."""
        if self.held:
            self.held = False
            self._room.set()
            self._resume()

    def close(self) -> None:
        """Let the crawl go on, and hold it back no more: what is under way can come to its end."""
        self._closed = True
        self.release()

    async def room(self) -> None:
        """Wait until there is room."""
        await self._room.wait()


class Uploads:
    """Makes closed batches durable, several at a time.

    :param failed: told when one can't be, after all the trying
    """

    def __init__(self, crawler: Crawler, retry: Retry, spool_bytes: int, failed: Callable[[StoreError], None]) -> None:
        self.crawler = crawler
        self.retry = retry
        self.spool = Spool(spool_bytes, self._pause, self._resume)
        self._failed = failed
        self._barrier = get_barrier(crawler)
        self._let_go: Callable[[], None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, batch: Batch) -> None:
        """Begin with *batch*; its ``upload`` is the task."""
        self.spool.waiting += 1
        batch.upload = asyncio.create_task(self._upload(batch))
        self._tasks.add(batch.upload)
        batch.upload.add_done_callback(self._done)

    async def wait(self) -> None:
        """Wait until all have come to their end, handlers of feed_slot_closed too."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told already; asyncio need not tell it again where nobody waits for this batch

    async def _upload(self, batch: Batch) -> ItemFile:
        slot, stats, counted = batch.slot, self.crawler.stats, batch.bytes
        try:
            stored = await self.retry.run(batch.uri, batch.store)
        except StoreError as error:
            stats.inc_value(f"feedexport/failed_count/{batch.kind}")
            self._failed(error)
            raise
        finally:
            self.spool.uploaded(counted)
            stats.set_value("state/spool_size", self.spool.bytes)
        stats.inc_value(f"feedexport/success_count/{batch.kind}")
        about = (slot.format, slot.itemcount, batch.uri)
        logger.info("Stored %s feed (%s items) in: %s", *about, extra={"spider": self.crawler.spider})
        # Handlers may take their time: only the end of the crawl waits for them.
        handlers = asyncio.create_task(self.crawler.signals.send_catch_log_async(signals.feed_slot_closed, slot=slot))
        self._tasks.add(handlers)
        handlers.add_done_callback(self._done)
        return stored

    def _pause(self) -> None:
        self._barrier.held = True
        self._let_go = hold(self.crawler.engine)
        self.crawler.stats.inc_value("state/pauses")
        spool = self.spool
        logger.info("the crawl waits: %s bytes to upload, STATE_SPOOL_SIZE is %s", spool.bytes, spool.limit_bytes)

    def _resume(self) -> None:
        self._barrier.held = False
        if self._let_go is not None:
            self._let_go()
            logger.info("the crawl goes on: %s bytes to upload", self.spool.bytes)
