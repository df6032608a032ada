"""One worker's leases: their order, how many to take of each download slot, when to acknowledge them."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..frontier.backlog import is_first_out
from ..scrapy_internals import slot_limits
from .frontier import NO_LIMIT, slot_name

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.core.downloader import Downloader

    from ..barrier.parts import Listener
    from .worker import Worker

#: A worker leases no more requests of a download slot than the slot can send in this time.
_AHEAD_SECONDS = 4.0
_SHORTEST_INTERVAL_SECONDS = 0.1
#: A worker that has been idle for so long cuts. If it cut at once, a page now and then would make a file each time.
_IDLE_SECONDS = 5.0


class Leases:
    """The requests that this worker has: leased ahead (*waiting*), and given to the engine (*running*).

    Lease id 0 means that the request is only in this process's memory. It keeps the lease of the page that yielded it open.
    """

    def __init__(self) -> None:
        self.waiting: dict[Request, int] = {}
        self.running: dict[Request, int] = {}
        #: leases that Redis took from this worker, although it works on their requests or has done them
        self.taken: set[int] = set()
        self.unstored = Unstored()

    def __bool__(self) -> bool:
        return bool(self.waiting or self.running)

    def begin(self, request: Request) -> int | None:
        """Give *request* to the engine. Return its lease id; None if the lease was lost."""
        id = self.waiting.pop(request, None)
        if id is not None:
            self.running[request] = id
        return id

    def keep(self, request: Request, page: Request | None) -> None:
        """Keep *request*, which can't be stored, in memory. *page* has yielded it; None: ``start()`` has."""
        self.unstored.add(request, page, self.running.get(page, 0) if page is not None else 0)
        self.waiting[request] = 0

    def end(self, request: Request) -> int:
        """Note that the engine is done with *request*. Return the lease that is thereby done, 0 if none is."""
        return self.unstored.end(request, self.running.pop(request, 0))

    def lose(self, done: Iterable[int]) -> None:
        """Note that other workers have the leases. Drop what waits; what runs, or is *done*, may still be acknowledged."""
        self.waiting = {request: id for request, id in self.waiting.items() if not id}
        self.taken = {*self.ids, *done}

    def has_again(self, id: int) -> bool:
        """Whether lease *id*, which this worker gets now, is one that it lost while it worked on the request."""
        if id not in self.taken:
            return False
        self.taken.discard(id)
        return True

    @property
    def ids(self) -> list[int]:
        """The leases whose requests are not done."""
        return [*(id for requests in (self.waiting, self.running) for id in requests.values() if id), *self.unstored.kept]

    @property
    def only_in_memory(self) -> int:
        """How many requests Redis does not know of."""
        return sum(not id for requests in (self.waiting, self.running) for id in requests.values())


class Unstored:
    """Keeps the lease of a page until the requests from it that are only in memory, and those from them, are done.

    If the worker dies, the page is crawled again and yields them again. Lease id 0 means none.
    """

    def __init__(self) -> None:
        #: how many requests this crawl could not store
        self.count = 0
        self._lease_of: dict[Request, int] = {}
        self._out: Counter[int] = Counter()
        self._done: set[int] = set()

    def add(self, request: Request, page: Request | None, lease: int) -> None:
        """Add *request*, which *page* has yielded; *lease* is the page's own lease, if it has one."""
        self.count += 1
        lease = lease or (self._lease_of.get(page, 0) if page is not None else 0)
        if lease:
            self._lease_of[request] = lease
            self._out[lease] += 1

    def end(self, request: Request, lease: int) -> int:
        """Note that *request*, which had *lease*, is done. Return the lease that is thereby done, 0 if none is."""
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
        """The leases of pages that are done, but not all their requests in memory are."""
        return list(self._done)


class Order:
    """The order of requests with the same priority: that of Scrapy's memory queues.

    :param queue: SCHEDULER_MEMORY_QUEUE, loaded
    :param start_queue: SCHEDULER_START_MEMORY_QUEUE, loaded; None: start requests are treated like others
    """

    def __init__(self, queue: type, start_queue: type | None) -> None:
        self._has_start_queue = start_queue is not None
        self.first_out = is_first_out(queue)
        self.start_first_out = is_first_out(start_queue or queue)

    def is_start(self, request: Request) -> bool:
        """Whether *request* goes to the queue for start requests."""
        return self._has_start_queue and bool(request.meta.get("is_start_request"))

    def to_push(self, requests: list[Request]) -> list[Request]:
        """Return *requests*, listed first to leave first, in the order in which to push them to Scrapy's memory queues."""
        last_out = [each for each in reversed(requests) if not self._first_out(each)]
        return last_out + [each for each in requests if self._first_out(each)]

    def _first_out(self, request: Request) -> bool:
        return self.start_first_out if self.is_start(request) else self.first_out


class Pace:
    """How many requests this worker has of each download slot, and how fast it gets through them.

    :param by_slot: whether the frontier queues requests by download slot; if not, there is no limit
    """

    def __init__(self, downloader: Downloader, by_slot: bool) -> None:
        self._downloader = downloader
        self._by_slot = by_slot
        self._slots: dict[Request, str] = {}
        self._leased: Counter[str] = Counter()
        #: how many have ended, by slot: in this span of _AHEAD_SECONDS, and in the one before
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
        """Note that *request* was leased."""
        if self._by_slot:
            slot = self._slots[request] = self._downloader.get_slot_key(request)
            self._leased[slot] += 1

    def ended(self, request: Request) -> None:
        """Note that *request* is done."""
        slot = self._drop(request)
        if slot is not None:
            self._ended[slot] += 1

    def keep(self, requests: Iterable[Request]) -> None:
        """Forget all requests but these."""
        for request in self._slots.keys() - set(requests):
            self._drop(request)

    @property
    def capacities(self) -> tuple[Mapping[str, int], int]:
        """How many more requests this worker can use: of each slot that it has some of or that has settings; of any other."""
        if not self._by_slot:
            return {}, NO_LIMIT
        passed = time.monotonic() - self._span_began
        if passed >= _AHEAD_SECONDS:
            self._ended_before = self._ended if passed < 2 * _AHEAD_SECONDS else Counter()
            self._ended, self._span_began = Counter(), time.monotonic()
        slots = {*self._leased, *self._downloader.per_slot_settings}
        return {slot_name(slot): max(self._usable(slot) - self._leased[slot], 0) for slot in slots}, self._usable(None)

    def _usable(self, slot: str | None) -> int:
        concurrency, delay_seconds = slot_limits(self._downloader, slot)
        usable = NO_LIMIT if not concurrency else max(2 * concurrency, concurrency + self._recently(slot))
        return min(usable, 1 + math.ceil(_AHEAD_SECONDS / delay_seconds)) if delay_seconds else usable

    def _recently(self, slot: str | None) -> int:
        return 0 if slot is None else max(self._ended[slot], self._ended_before[slot])

    def _drop(self, request: Request) -> str | None:
        slot = self._slots.pop(request, None)
        if slot is not None:
            self._leased[slot] -= 1
            if not self._leased[slot]:
                del self._leased[slot]
        return slot


class Acknowledging:
    """Acknowledges leases whose requests are done, after a cut has made their items durable.

    :param listener: makes the items durable; None: acknowledge at once
    :param interval_seconds: STATE_INTERVAL, the shortest time between two cuts
    """

    def __init__(self, worker: Worker, listener: Listener | None, interval_seconds: float) -> None:
        self._worker = worker
        self._listener = listener
        self._interval_seconds = max(interval_seconds, _SHORTEST_INTERVAL_SECONDS)
        self._last_cut = time.monotonic()
        self._hurry = asyncio.Event()
        self._task = asyncio.create_task(self._cut_when_due()) if listener is not None else None

    def done(self, id: int) -> None:
        """Note that the callback of lease *id* has ended, and its items are through the pipelines."""
        if self._listener is None:
            self._worker.acknowledge([id])
        else:
            self._worker.finish(id)

    def hurry(self) -> None:
        """Cut now: nothing is left to crawl, and the other workers may be waiting for this one."""
        self._hurry.set()

    async def close(self) -> None:
        """Make a last cut. Leases whose items it can't make durable stay open."""
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
        # All items of these leases are exported by now. Leases that are done during the cut wait for the next one.
        ids = list(self._worker.done)
        self._last_cut = time.monotonic()
        if ids and await self._listener.make_durable(closing):
            self._worker.acknowledge_done(len(ids))
