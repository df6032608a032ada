"""Requests of units (docs/units.md) in a frontier: filtered among this run's, left out when they are an earlier run's.

With units the state says where to go on, and the frontier is no more than the queue of one run, and of one worker.
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
from ..exceptions import StoreError
from ..units.tracker import UNIT

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler

    from .frontier import NewRequest, Reply
    from .opening import Opening
    from .settings import RedisSettings

logger = logging.getLogger("scrapy_state.state")
#: How long between two looks whether another worker is alive. One that was killed a moment ago is none.
_LOOK_SECONDS = 0.5


class UnitRequests:
    """What a worker's scheduler asks and tells of requests that may be of units.

    :param end: ends the crawl, as failed, with a finish reason
    """

    def __init__(self, crawler: Crawler, end: Callable[[str], None]) -> None:
        self._crawler = crawler
        self._barrier = get_barrier(crawler)
        self._end = end
        self._told = self._ended = False
        #: whether there may be another worker, so that the crawl must not end well yet
        self.unsure = False
        self._task: asyncio.Task[None] | None = None

    def opened(self, opening: Opening, settings: RedisSettings) -> None:
        """The frontier is open."""
        self._opening, self._settings = opening, settings

    def close(self) -> None:
        """Look no more for other workers."""
        if self._task is not None:
            self._task.cancel()

    def fingerprint(self, request: Request) -> bytes:
        """Return what *request* is known by as seen: in a unit another for each run, as each run begins its units anew."""
        found: bytes = self._crawler.request_fingerprinter.fingerprint(request)
        mark = request.meta.get(UNIT)
        if mark is None or not found:
            return found
        size = min(len(found), hashlib.blake2b.MAX_DIGEST_SIZE)
        return hashlib.blake2b(found, digest_size=size, key=str(mark[0]).encode()).digest()

    def unit_of(self, request: Request) -> str | None:
        """Return the unit that *request* counts for once it is taken."""
        tracking = self._barrier.tracking
        return None if tracking is None else tracking.unit_of(request)

    def is_left_over(self, meta: Any) -> bool:
        """Whether a request with that *meta* is of another run's unit. Nobody waits for it: it is not to be crawled."""
        mark = meta.get(UNIT) if isinstance(meta, dict) else None
        tracker = self._barrier.tracker
        if mark is None or (tracker is not None and isinstance(mark, list) and mark[:1] == [tracker.run]):
            return False
        self._crawler.stats.inc_value("state/redis/left_over")
        if not self._told:
            self._told = True
            logger.warning(
                "the frontier has requests of an earlier run's units; they are left out, as a run begins these units anew",
                extra={"spider": self._crawler.spider},
            )
        return True

    def received(self, reply: Reply, sent: Sequence[NewRequest]) -> None:
        """Count out which of *sent* were duplicates. End the crawl where nobody can say any more when a unit is done."""
        tracking = self._barrier.tracking
        if tracking is None or self._ended:
            return
        if reply.lost:  # and what it says of duplicates may not be so: some may be here since a lost reply
            self._fail(
                "state_frontier_failed",
                f"this worker was away for more than STATE_REDIS_LEASE_TIMEOUT ({self._settings.lease_seconds:g} s), and "
                'another took its requests, so that nobody knows when units of state (meta["state"]) are done. Start the crawl '
                "again, with one worker: it goes on from the state",
            )
            return
        for new, is_duplicate in zip(sent, reply.duplicates, strict=True):
            if is_duplicate and new.unit is not None:
                tracking.dropped(new.unit)
        self.unsure = bool(reply.others) and time.monotonic() < self._opening.sure_at
        if reply.others and self._task is None:
            self._task = asyncio.create_task(self._look_for_others())

    async def _look_for_others(self) -> None:
        with suppress(StoreError):  # Redis is away: the worker says so
            if not await self._opening.is_alone():
                self._fail(
                    "state_conflict",
                    'requests carry units of state (meta["state"]), which count within one worker, but another one is at work '
                    f"on the frontier {self._settings.prefix} too. Run one worker, or yield requests without units",
                )
                return
        await asyncio.sleep(min(_LOOK_SECONDS, self._settings.heartbeat_seconds))
        self._task = None

    def _fail(self, reason: str, why: str) -> None:
        if not self._ended:
            self._ended = True
            logger.error("the crawl ends: %s", why, extra={"spider": self._crawler.spider})
            self._end(reason)
