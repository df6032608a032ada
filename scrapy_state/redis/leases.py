"""What one worker has: by what lease, in which order, how much of each download slot; and when leases are given up."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from queuelib.queue import FifoMemoryQueue, LifoMemoryQueue

from ..scrapy_internals import slot_limits
from .frontier import NO_LIMIT, slot_name

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.core.downloader import Downloader

    from ..barrier.barrier import Listener
    from .worker import Worker

#: A worker has no more of a download slot than this can use in so many seconds.
_AHEAD_SECONDS = 4.0
_OFTEN_SECONDS = 0.1
#: A worker that has had nothing to do for so long makes a cut due. A page now and then must not make a file each.
_IDLE_SECONDS = 5.0


class Leases:
    """The requests that are here: leased ahead (*waiting*), and given to the engine (*running*).

    A lease id of 0 stands for a request that is in this process's memory only. It keeps the lease of the page that sent it.
    """

    def __init__(self) -> None:
        self.waiting: dict[Request, int] = {}
        self.running: dict[Request, int] = {}
        #: leases that Redis has taken, and whose requests are at work or done here all the same
        self.taken: set[int] = set()
        self.unstored = Unstored()

    def __bool__(self) -> bool:
        return bool(self.waiting or self.running)

    def begin(self, request: Request) -> int | None:
        """The engine may have *request*. Return its lease id; None if the lease was lost meanwhile."""
        id = self.waiting.pop(request, None)
        if id is not None:
            self.running[request] = id
        return id

    def keep(self, request: Request, page: Request | None) -> None:
        """*request*, which can't be stored, waits here. *page* has sent it, if any has."""
        self.unstored.add(request, page, self.running.get(page, 0) if page is not None else 0)
        self.waiting[request] = 0

    def end(self, request: Request) -> int:
        """The engine is done with *request*. Return the lease that is done with it, 0 if none is."""
        return self.unstored.end(request, self.running.pop(request, 0))

    def lose(self, done: Iterable[int]) -> None:
        """Redis has taken all leases. What waits here is for others; what runs, or is *done*, may still be acknowledged."""
        self.waiting = {request: id for request, id in self.waiting.items() if not id}
        self.taken = {*self.ids, *done}

    def has_again(self, id: int) -> bool:
        """Whether lease *id*, which comes now, was taken from this worker, whose request is at work or done all the same."""
        if id not in self.taken:
            return False
        self.taken.discard(id)
        return True

    @property
    def ids(self) -> list[int]:
        """The leases that are not done."""
        return [*(id for requests in (self.waiting, self.running) for id in requests.values() if id), *self.unstored.kept]

    @property
    def own(self) -> int:
        """How many requests Redis does not know of."""
        return sum(not id for requests in (self.waiting, self.running) for id in requests.values())


class Unstored:
    """Keeps the lease of a page until the requests that it sent and that only memory has, and theirs, are done.

    So a worker that dies has them sent again: by the page, which is crawled again. A lease id of 0 stands for none.
    """

    def __init__(self) -> None:
        #: how many there were
        self.count = 0
        self._lease_of: dict[Request, int] = {}
        self._out: Counter[int] = Counter()
        self._done: set[int] = set()

    def add(self, request: Request, page: Request | None, lease: int) -> None:
        """*request* stays in memory; it comes of *page*, whose own lease is *lease* if it has one."""
        self.count += 1
        lease = lease or (self._lease_of.get(page, 0) if page is not None else 0)
        if lease:
            self._lease_of[request] = lease
            self._out[lease] += 1

    def end(self, request: Request, lease: int) -> int:
        """*request*, which had *lease*, is done. Return the lease that nothing keeps any more, 0 if there is none."""
        if lease and lease in self._out:
            self._done.add(lease)
            return 0
        kept = self._lease_of.pop(request, 0)
        if not kept:
            return lease
        self._out[kept] -= 1
        if self._out[kept]:
            return 0
        del self._out[kept]
        if kept not in self._done:  # the page itself is not done
            return 0
        self._done.remove(kept)
        return kept

    @property
    def kept(self) -> list[int]:
        """The leases of pages that are done, but for requests that only memory has."""
        return list(self._done)


class Order:
    """In which order requests of one priority leave: as Scrapy's memory queues have it.

    :param queue: SCHEDULER_MEMORY_QUEUE, loaded
    :param start_queue: SCHEDULER_START_MEMORY_QUEUE, loaded; None: start requests are like the others
    """

    def __init__(self, queue: type, start_queue: type | None) -> None:
        self._has_start_queue = start_queue is not None
        self.first_out = _is_first_out(queue)
        self.start_first_out = _is_first_out(start_queue or queue)

    def is_start(self, request: Request) -> bool:
        """Whether *request* goes to the queue for start requests."""
        return self._has_start_queue and bool(request.meta.get("is_start_request"))

    def to_push(self, requests: list[Request]) -> list[Request]:
        """Return *requests*, which came first to leave first, as they are to be pushed to Scrapy's memory queues."""
        last_out = [each for each in reversed(requests) if not self._first_out(each)]
        return last_out + [each for each in requests if self._first_out(each)]

    def _first_out(self, request: Request) -> bool:
        return self.start_first_out if self.is_start(request) else self.first_out


def _is_first_out(queue: type) -> bool:
    return issubclass(queue, FifoMemoryQueue) and not issubclass(queue, LifoMemoryQueue)  # the one is a subclass of the other


class Pace:
    """What this worker has of each download slot, and how fast they go.

    :param by_slot: whether the frontier keeps requests by download slot; else there is no limit
    """

    def __init__(self, downloader: Downloader, by_slot: bool) -> None:
        self._downloader = downloader
        self._by_slot = by_slot
        self._slots: dict[Request, str] = {}
        self._held: Counter[str] = Counter()
        #: how many have ended by slot: in this span of _AHEAD_SECONDS, and in the one before
        self._ended: Counter[str] = Counter()
        self._ended_before: Counter[str] = Counter()
        self._span_began = time.monotonic()

    def slot_of(self, request: Request) -> str:
        """Return the name under which the frontier queues *request*: its download slot, or "" if it keeps none.

        :raises TypeError: if the download slot is not text; Scrapy's queue raises, too
        """
        slot: Any = self._downloader.get_slot_key(request) if self._by_slot else ""
        if not isinstance(slot, str):
            raise TypeError(f"{request}: its download slot is a {type(slot).__name__}; it must be text")
        return slot

    def took(self, request: Request) -> None:
        """*request* was leased."""
        if self._by_slot:
            slot = self._slots[request] = self._downloader.get_slot_key(request)
            self._held[slot] += 1

    def ended(self, request: Request) -> None:
        """*request* is done with."""
        slot = self._drop(request)
        if slot is not None:
            self._ended[slot] += 1

    def keep(self, requests: Iterable[Request]) -> None:
        """Of all that were leased only *requests* are left."""
        for request in self._slots.keys() - set(requests):
            self._drop(request)

    @property
    def rooms(self) -> tuple[Mapping[str, int], int]:
        """How many more this worker can use of each slot it has requests of, or that has settings; and of any other."""
        if not self._by_slot:
            return {}, NO_LIMIT
        passed = time.monotonic() - self._span_began
        if passed >= _AHEAD_SECONDS:
            self._ended_before = self._ended if passed < 2 * _AHEAD_SECONDS else Counter()
            self._ended, self._span_began = Counter(), time.monotonic()
        slots = {*self._held, *self._downloader.per_slot_settings}
        return {slot_name(slot): max(self._usable(slot) - self._held[slot], 0) for slot in slots}, self._usable(None)

    def _usable(self, slot: str | None) -> int:
        concurrency, delay_seconds = slot_limits(self._downloader, slot)
        usable = NO_LIMIT if not concurrency else max(2 * concurrency, concurrency + self._recently(slot))
        return min(usable, 1 + math.ceil(_AHEAD_SECONDS / delay_seconds)) if delay_seconds else usable

    def _recently(self, slot: str | None) -> int:
        return 0 if slot is None else max(self._ended[slot], self._ended_before[slot])

    def _drop(self, request: Request) -> str | None:
        slot = self._slots.pop(request, None)
        if slot is not None:
            self._held[slot] -= 1
            if not self._held[slot]:
                del self._held[slot]
        return slot


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
            self._worker.acknowledge_done(len(ids))
