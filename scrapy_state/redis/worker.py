"""One worker's exchanges with the frontier: what is sent when, and what is done when Redis is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from ..exceptions import StoreError, StoreUnreachable
from .frontier import Frontier, NewRequest, Reply
from .options import RedisSettings

logger = logging.getLogger("scrapy_state.state")

#: How long something waits for company before it is sent.
_LINGER_SECONDS = 0.01
#: When there was nothing to lease: how soon to look again, at first and at most.
_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.02, 1.0
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.1, 5.0
#: One exchange's share, so that none takes Redis long.
_MOST_REQUESTS, _MOST_BYTES, _MOST_ACKNOWLEDGED = 300, 1 << 20, 2000
#: Above that many requests wait here, start() waits.
ROOM = 5000


class Host(Protocol):
    """The scheduler, as its worker sees it."""

    @property
    def wanted(self) -> int:
        """How many more requests there is room for."""

    @property
    def low(self) -> bool:
        """Whether it is time to lease some more."""

    @property
    def starving(self) -> bool:
        """Whether the crawl could do with a request now."""

    @property
    def hidden(self) -> int:
        """How many requests are at work that Redis does not know of."""

    @property
    def held(self) -> Sequence[int]:
        """The leases that are not done."""

    def received(self, reply: Reply, sent: Sequence[NewRequest]) -> None:
        """Something has come."""

    def failed(self, error: StoreError) -> None:
        """There will be no more exchanges."""


class Worker:
    """Sends and gets what *host* has and wants, in exchanges of many requests, one at a time.

    Only touched from the event loop's thread.
    """

    def __init__(self, frontier: Frontier, settings: RedisSettings, host: Host) -> None:
        self.frontier = frontier
        self._settings = settings
        self._host = host
        self.outbox: deque[NewRequest] = deque()
        #: leases to give up, with how many requests must have been sent before: the children of theirs
        self._acknowledged: deque[tuple[int, int]] = deque()
        self._put = self._sent = 0
        #: leases whose requests are done only
        self.done: list[int] = []
        #: leases with which this worker can do nothing
        self.unreadable: list[int] = []
        self.exchanges = 0
        self.outages = 0
        #: whether the last exchange leased less than was wanted
        self._dry = False
        self._poll_seconds = _FIRST_POLL_SECONDS
        self._last = time.monotonic()
        self._closing = asyncio.Event()
        self._something = asyncio.Event()
        self._hurry = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._task: asyncio.Task[None] | None = None
        self._failed: StoreError | None = None

    def start(self) -> None:
        """Begin with the exchanges, after the opening one."""
        self._task = asyncio.create_task(self._run())

    def put(self, request: NewRequest) -> None:
        """Send *request* with the next exchange."""
        self.outbox.append(request)
        self._put += 1
        if len(self.outbox) >= ROOM:
            self._room.clear()
        self.wake(len(self.outbox) >= _MOST_REQUESTS or self._host.starving)

    @property
    def idle(self) -> bool:
        """Whether nothing is at work here, and there is nothing to lease."""
        return self._host.starving and not (self._host.held or self._host.hidden or self.outbox)

    def acknowledge(self, ids: Iterable[int]) -> None:
        """Give up the leases *ids*: their requests are done, and their items durable."""
        self._acknowledged.extend((self._put, id) for id in ids)
        self.wake()

    def wake(self, hurry: bool = False) -> None:
        """There is something to send or to want."""
        self._something.set()
        if hurry:
            self._hurry.set()

    async def room(self) -> None:
        """Wait while there is too much to send."""
        await self._room.wait()

    async def close(self) -> None:
        """Send what there is, give back what is leased, say goodbye.

        :raises StoreError: if Redis does not answer within STATE_CLOSE_TIMEOUT, or refuses; the leases come back by themselves
        """
        self._closing.set()
        self.wake(hurry=True)
        if self._task is not None:
            await self._task
        if self._failed is not None:
            raise self._failed
        while self.outbox or self._acknowledged:
            await self._exchange(wanted=0)
        await self._exchange("close", wanted=0)

    async def _run(self) -> None:
        try:
            while not self._closing.is_set():
                await self._until_due()
                if not self._closing.is_set():
                    await self._exchange()
        except StoreError as error:
            self._failed = error
            self._room.set()
            self._host.failed(error)
        except Exception as error:
            logger.warning("Error in the exchange with Redis", exc_info=True)
            self._failed = StoreError(f"STATE_REDIS_URL: {type(error).__name__}: {error}")
            self._room.set()
            self._host.failed(self._failed)

    async def _until_due(self) -> None:
        """Return when an exchange is due: soon if there is something, at once if the crawl waits for it."""
        beat = self._last + self._settings.heartbeat_seconds - time.monotonic()
        if not (self.outbox or self._acknowledged or (self._host.low and not self._dry)):
            await _either(self._something, min(beat, self._poll_seconds) if self._host.low else beat)
        self._something.clear()
        if not (self._host.starving and (self.outbox or not self._dry)):
            await _either(self._hurry, _LINGER_SECONDS)
        self._hurry.clear()

    async def _exchange(self, mode: str = "go on", wanted: int | None = None) -> None:
        new: list[NewRequest] = []
        size = 0
        while self.outbox and len(new) < _MOST_REQUESTS and size < _MOST_BYTES:
            new.append(self.outbox.popleft())
            size += len(new[-1].data)
        self._sent += len(new)
        acknowledged: list[int] = []
        while self._acknowledged and self._acknowledged[0][0] <= self._sent and len(acknowledged) < _MOST_ACKNOWLEDGED:
            acknowledged.append(self._acknowledged.popleft()[1])
        wanted = self._host.wanted if wanted is None else wanted
        # What has not gone yet counts as at work here, so that nobody ends.
        hidden = self._host.hidden + len(self.outbox)
        done = len(self.done) + len(self.unreadable) + len(self._acknowledged)
        reply = await self._insist(mode, new, acknowledged, wanted, hidden, done)
        self._last = time.monotonic()
        self.exchanges += 1
        self._dry = len(reply.leased) < wanted
        if reply.leased or new:
            self._poll_seconds = _FIRST_POLL_SECONDS
        elif self._dry:
            self._poll_seconds = min(self._poll_seconds * 2, _LAST_POLL_SECONDS)
        if reply.lost:
            self.done = []  # another list: who waits for these to be durable sees that it is not theirs any more
            self.unreadable.clear()
            self._acknowledged.clear()
        if len(self.outbox) < ROOM:
            self._room.set()
        self._host.received(reply, new)
        if self.unreadable:
            await self._set_aside()

    async def _set_aside(self) -> None:
        ids = list(self.unreadable)
        with suppress(StoreUnreachable):  # the next exchange says it, and they are tried again after that
            await self.frontier.set_aside(ids)
            del self.unreadable[: len(ids)]

    async def _insist(
        self, mode: str, new: list[NewRequest], acknowledged: list[int], wanted: int, hidden: int, done: int
    ) -> Reply:
        """Try again while Redis is away; what is sent stays the same."""
        began, pause, again = 0.0, _FIRST_PAUSE_SECONDS, False
        while True:
            known = (*self._host.held, *self.done, *self.unreadable, *(id for _, id in self._acknowledged)) if again else ()
            try:
                reply = await self.frontier.exchange(
                    "again" if again and mode == "go on" else mode, new=new, acknowledged=acknowledged,
                    wanted=wanted, hidden=hidden, done=done, known=known,
                )  # fmt: skip
            except StoreUnreachable as error:
                now = time.monotonic()
                if not began:
                    began = now
                    self.outages += 1
                    logger.warning("the frontier can't be reached: %s. The crawl waits, and tries again", error)
                limit = self._settings.close_seconds if self._closing.is_set() else self._settings.retry_seconds
                if now - began >= limit:
                    raise
                again = True
                await _either(self._closing, pause) if not self._closing.is_set() else await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE_SECONDS if not self._closing.is_set() else 1.0)
            else:
                if again:
                    logger.info("the frontier can be reached again, after %.1f s", time.monotonic() - began)
                    # What the lost reply would have said of acknowledgements nobody knows.
                    return Reply(**{**vars(reply), "refused": 0})
                return reply


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Wait for *event*, that long at most."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), max(0.0, seconds))
