"""Requests of units (docs/units.md) in a frontier: filtered within this run, and left out if they are an earlier run's.

With units, the state says where to continue. The frontier is only the queue of one run and one worker.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..barrier.barrier import get_barrier
from ..exceptions import StateConflict, StateError, StoreError
from ..units.tracker import UNIT

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler

    from .frontier import NewRequest, Reply
    from .opening import Opening
    from .settings import RedisSettings

logger = logging.getLogger("scrapy_state.state")
#: How often to check whether another worker is alive. One that was just killed does not count.
_LOOK_SECONDS = 0.5


class UnitRequests:
    """Handles the requests of units for one worker's scheduler.

    :param end: ends the crawl with exit code 1 and a finish reason
    """

    def __init__(self, crawler: Crawler, end: Callable[[str, StateError], None]) -> None:
        self._crawler = crawler
        self._barrier = get_barrier(crawler)
        self._end = end
        self._is_logged = self._ended = False
        #: whether there may be another worker, so the crawl must not finish yet
        self.unsure = False
        self._task: asyncio.Task[None] | None = None

    def opened(self, opening: Opening, settings: RedisSettings) -> None:
        """Note that the frontier is open."""
        self._opening, self._settings = opening, settings

    def close(self) -> None:
        """Stop looking for other workers."""
        if self._task is not None:
            self._task.cancel()

    def fingerprint(self, request: Request) -> bytes:
        """Return the fingerprint of *request*. In a unit it differs from run to run, as each run starts its units afresh."""
        fingerprint: bytes = self._crawler.request_fingerprinter.fingerprint(request)
        mark = request.meta.get(UNIT)
        if mark is None or not fingerprint:
            return fingerprint
        size = min(len(fingerprint), hashlib.blake2b.MAX_DIGEST_SIZE)
        return hashlib.blake2b(fingerprint, digest_size=size, key=str(mark[0]).encode()).digest()

    def unit_of(self, request: Request) -> str | None:
        """Return the unit that *request* belongs to once the scheduler has taken it."""
        tracking = self._barrier.tracking
        return None if tracking is None else tracking.unit_of(request)

    def is_left_over(self, meta: Any) -> bool:
        """Whether a request with this *meta* belongs to another run's unit, so that it must not be crawled."""
        mark = meta.get(UNIT) if isinstance(meta, dict) else None
        tracker = self._barrier.tracker
        if mark is None or (tracker is not None and isinstance(mark, list) and mark[:1] == [tracker.run]):
            return False
        self._crawler.stats.inc_value("state/redis/left_over")
        if not self._is_logged:
            self._is_logged = True
            logger.warning(
                "the frontier has requests of an earlier run's units; they are left out, as each run starts its units afresh",
                extra={"spider": self._crawler.spider},
            )
        return True

    def received(self, reply: Reply, sent: Sequence[NewRequest]) -> None:
        """Discount the duplicates among *sent*. End the crawl if nobody can tell any more when a unit is done."""
        tracking = self._barrier.tracking
        if tracking is None or self._ended:
            return
        if reply.lost:  # its duplicates may be wrong, too: a lost exchange may have stored some of them
            error = StoreError(
                f"this worker was away for more than STATE_REDIS_LEASE_TIMEOUT ({self._settings.lease_seconds:g} s), and "
                'another took its requests, so nobody knows when units of state (meta["state"]) are done',
                remedy="start the crawl again, with one worker: it continues from the state",
            )
            self._fail("state_frontier_failed", error)
            return
        for new, is_duplicate in zip(sent, reply.duplicates, strict=True):
            if is_duplicate and new.unit is not None:
                tracking.dropped(new.unit)
        self.unsure = bool(reply.others) and time.monotonic() < self._opening.sure_at
        if reply.others and self._task is None:
            self._task = asyncio.create_task(self._look_for_others())

    async def _look_for_others(self) -> None:
        with suppress(StoreError):  # Redis is away: the worker logs it
            if not await self._opening.is_alone():
                error = StateConflict(
                    'requests belong to units of state (meta["state"]), which only one worker can count, but another worker '
                    f"uses the frontier {self._settings.prefix}, too",
                    remedy="run one worker, or yield requests without units",
                )
                self._fail("state_conflict", error)
                return
        await asyncio.sleep(min(_LOOK_SECONDS, self._settings.heartbeat_seconds))
        self._task = None

    def _fail(self, reason: str, error: StateError) -> None:
        if not self._ended:
            self._ended = True
            logger.error("the crawl ends: %s", error, extra={"spider": self._crawler.spider})
            self._end(reason, error)
