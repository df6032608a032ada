"""One worker's exchanges with the frontier: when to send what, and what to do while Redis is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from ..exceptions import StoreError, StoreUnreachable
from .frontier import MOST_BYTES
from .settings import redacted

if TYPE_CHECKING:
    from .connection import Heartbeat
    from .frontier import FrontierClient, NewRequest, Reply
    from .settings import RedisSettings

logger = logging.getLogger("scrapy_state.state")

#: How long the worker collects requests before it sends them
_LINGER_SECONDS = 0.01
#: When there was nothing to lease: how soon to try again, at first and at most.
_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.02, 1.0
#: How often wait_for_space() checks whether it may return.
_LOOK_SECONDS = 0.25
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.1, 5.0
#: The limits of one exchange, so that it blocks Redis only briefly.
_MOST_REQUESTS, _MOST_ACKNOWLEDGED = 300, 2000
#: While this many requests are unsent, start() and callbacks wait.
MOST_UNSENT = 5000


class Host(Protocol):
    """The scheduler, as its worker sees it."""

    @property
    def wanted(self) -> int:
        """How many more requests to lease."""

    @property
    def capacities(self) -> tuple[Mapping[str, int], int]:
        """How many of them to lease of each download slot, and of any other slot."""

    @property
    def low(self) -> bool:
        """Whether it is time to lease some more."""

    @property
    def starving(self) -> bool:
        """Whether the engine has asked for a request and got none."""

    @property
    def hidden(self) -> int:
        """How many requests it has that Redis does not know of."""

    @property
    def unfinished(self) -> Sequence[int]:
        """The leases whose requests are not done."""

    def received(self, reply: Reply, sent: Sequence[NewRequest]) -> None:
        """Process the reply to an exchange that sent *sent*."""

    def failed(self, error: StoreError) -> None:
        """Note that no more exchanges follow."""


class Worker:
    """Sends requests and leases others for *host*, many in each exchange, one exchange at a time.

    Use it only in the event loop's thread.
    """

    def __init__(self, frontier: FrontierClient, settings: RedisSettings, host: Host) -> None:
        self.frontier = frontier
        self._settings = settings
        self._host = host
        self.outbox: deque[NewRequest] = deque()
        #: leases to acknowledge, each with how many requests must be sent before: its page's children are among these
        self._acknowledged: deque[tuple[int, int]] = deque()
        self._put = self._sent = 0
        #: leases whose requests are done, but their items are not durable yet
        self.done: list[int] = []
        #: those of them that the next exchange reports
        self._newly_done: list[int] = []
        #: leases that can't be read, and that the next exchange reports
        self.unreadable: list[int] = []
        self.exchanges = 0
        self.outages = 0
        #: since when no exchange has succeeded at the first attempt; 0: the last one did
        self._trouble_since = 0.0
        self._most_bytes = MOST_BYTES
        #: whether the last exchange leased less than was wanted
        self._dry = False
        self._poll_seconds = _FIRST_POLL_SECONDS
        #: when the last exchange had its reply, by time.monotonic()
        self.last = time.monotonic()
        self._closing = asyncio.Event()
        self._has_work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._has_space = asyncio.Event()
        self._has_space.set()
        self._task: asyncio.Task[None] | None = None
        self._heartbeat: Heartbeat | None = None
        self._failed: StoreError | None = None

    def start(self, heartbeat: Heartbeat | None = None) -> None:
        """Start the exchanges, and *heartbeat*, which renews the leases while the event loop is blocked."""
        self._task = asyncio.create_task(self._run())
        self._heartbeat = heartbeat
        if heartbeat is not None:
            heartbeat.start()

    def stop_heartbeat(self) -> None:
        """Stop renewing the leases: from now on, a silent worker is a dead one."""
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def put(self, request: NewRequest) -> None:
        """Send *request* with the next exchange."""
        self.outbox.append(request)
        self._put += 1
        if len(self.outbox) >= MOST_UNSENT:
            self._has_space.clear()
        self.wake(len(self.outbox) >= _MOST_REQUESTS or self._host.starving)

    @property
    def idle(self) -> bool:
        """Whether this worker has no request, and there is none to lease."""
        return self._host.starving and not (self._host.unfinished or self._host.hidden or self.outbox)

    def finish(self, id: int) -> None:
        """Note that the request of lease *id* is done; its items are not durable yet."""
        self.done.append(id)
        self._newly_done.append(id)

    def finish_again(self, id: int) -> None:
        """Note that this worker got lease *id* again, which it had lost. Its request may be done already."""
        if id in self.done:
            self._newly_done.append(id)

    def set_aside(self, id: int) -> None:
        """Set lease *id* aside: it can't be read as a request."""
        self.unreadable.append(id)
        self.wake(hurry=True)

    def acknowledge(self, ids: Iterable[int]) -> None:
        """Acknowledge the leases *ids*: their requests are done, and their items are durable."""
        self._acknowledged.extend((self._put, id) for id in ids)
        self.wake()

    def acknowledge_done(self, count: int) -> None:
        """Acknowledge the *count* leases whose requests were done first: their items are durable."""
        ids = self.done[:count]
        del self.done[:count]
        self.acknowledge(ids)

    def wake(self, hurry: bool = False) -> None:
        """Note that there is something to send or to lease; with *hurry*, don't wait for more."""
        self._has_work.set()
        if hurry:
            self._hurry.set()

    async def wait_for_space(self, unless: Callable[[], bool]) -> None:
        """Wait while too many requests are unsent, *unless* that function, called several times a second, returns True."""
        while not (self._has_space.is_set() or unless()):
            await _wait(self._has_space, _LOOK_SECONDS)

    async def close(self) -> None:
        """Send what is left, return all leases, and leave the frontier.

        :raises StoreError: if Redis does not answer within STATE_CLOSE_TIMEOUT, or refuses; the leases expire by themselves
        """
        self._closing.set()
        self.wake(hurry=True)
        if self._task is not None:
            await self._task
        if self._failed is not None:
            raise self._failed
        while self.outbox or self._acknowledged or self.unreadable:
            await self._exchange(wanted=0)
        await self._exchange("close", wanted=0)

    async def _run(self) -> None:
        try:
            while not self._closing.is_set():
                await self._until_due()
                if not self._closing.is_set():
                    await self._exchange()
        except StoreError as error:
            self._fail(error)
        except Exception as error:
            logger.warning("Error in the exchange with Redis", exc_info=True)
            self._fail(StoreError(f"{type(error).__name__}: {error}", uri=redacted(self._settings.url)))

    def _fail(self, error: StoreError) -> None:
        self._failed = error
        self._has_space.set()
        self.stop_heartbeat()
        self._host.failed(error)

    async def _until_due(self) -> None:
        """Wait until an exchange is due: soon if there is something to send, at once if the crawl waits for a request."""
        beat = self.last + self._settings.heartbeat_seconds - time.monotonic()
        if not (self.outbox or self._acknowledged or self.unreadable or (self._host.low and not self._dry)):
            await _wait(self._has_work, min(beat, self._poll_seconds) if self._host.low else beat)
        self._has_work.clear()
        if not (self._host.starving and (self.outbox or not self._dry)):
            await _wait(self._hurry, _LINGER_SECONDS)
        self._hurry.clear()

    async def _exchange(self, mode: str = "go on", wanted: int | None = None) -> None:
        new: list[NewRequest] = []
        size = 0
        while self.outbox and len(new) < _MOST_REQUESTS and size < self._most_bytes:
            new.append(self.outbox.popleft())
            size += len(new[-1].data)
        self._sent += len(new)
        acknowledged: list[int] = []
        while self._acknowledged and self._acknowledged[0][0] <= self._sent and len(acknowledged) < _MOST_ACKNOWLEDGED:
            acknowledged.append(self._acknowledged.popleft()[1])
        wanted = self._host.wanted if wanted is None else wanted
        capacities, other_capacity = self._host.capacities
        done, self._newly_done = self._newly_done, []
        unreadable, self.unreadable = self.unreadable, []
        reply = await self._exchange_until_answered(
            mode, new=new, acknowledged=acknowledged, done=done, unreadable=unreadable, wanted=wanted,
            capacities=capacities, other_capacity=other_capacity,
            # Unsent requests count as this worker's, so that no worker ends before they are sent.
            hidden=self._host.hidden + len(self.outbox),
        )  # fmt: skip
        self.last = time.monotonic()
        self.exchanges += 1
        self._dry = len(reply.leased) < wanted
        if reply.leased or new:
            self._poll_seconds = _FIRST_POLL_SECONDS
        elif self._dry:
            self._poll_seconds = min(self._poll_seconds * 2, _LAST_POLL_SECONDS)
        if len(self.outbox) < MOST_UNSENT:
            self._has_space.set()
        self._host.received(reply, new)

    async def _exchange_until_answered(self, mode: str, **what: Any) -> Reply:
        """Repeat the same exchange while Redis is away. Return the first reply."""
        pause, again = _FIRST_PAUSE_SECONDS, False
        while True:
            try:
                reply = await self.frontier.exchange(
                    "again" if again and mode == "go on" else mode, most_bytes=self._most_bytes, **what
                )
            except StoreUnreachable as error:
                now = time.monotonic()
                if not self._trouble_since:
                    self._trouble_since = now
                    self.outages += 1
                    logger.warning("the frontier can't be reached: %s. The crawl waits and tries again", error)
                limit = self._settings.close_seconds if self._closing.is_set() else self._settings.retry_seconds
                if now - self._trouble_since >= limit:
                    raise
                again = True
                self._most_bytes = max(self._most_bytes // 4, 1)  # the line may be too slow for more
                await _wait(self._closing, pause) if not self._closing.is_set() else await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE_SECONDS if not self._closing.is_set() else 1.0)
            else:
                if not again:
                    self._all_is_well()
                return reply

    def _all_is_well(self) -> None:
        # A repeated exchange leases nothing. So only the next one shows whether leases get through.
        if self._trouble_since:
            logger.info("the frontier can be reached again, after %.1f s", time.monotonic() - self._trouble_since)
            self._trouble_since = 0.0
        self._most_bytes = min(self._most_bytes * 2, MOST_BYTES)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for *event*, for at most *seconds*."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), max(0.0, seconds))
