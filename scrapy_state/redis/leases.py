"""Which requests one worker has, by what lease, and whether they are at work."""

from __future__ import annotations

from collections.abc import Iterable

from queuelib.queue import FifoMemoryQueue, LifoMemoryQueue
from scrapy import Request


class Leases:
    """The requests that are here: leased ahead (*waiting*), and given to the engine (*running*).

    A lease id of 0 stands for a request that is in this process's memory only.
    """

    def __init__(self) -> None:
        self.waiting: dict[Request, int] = {}
        self.running: dict[Request, int] = {}
        #: leases that Redis has taken, and whose requests are at work or done here all the same
        self.taken: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self.waiting or self.running)

    def begin(self, request: Request) -> int | None:
        """The engine may have *request*. Return its lease id; None if the lease was lost meanwhile."""
        id = self.waiting.pop(request, None)
        if id is not None:
            self.running[request] = id
        return id

    def end(self, request: Request) -> int:
        """The engine is done with *request*. Return its lease id; 0 if it has none, or is not one of these."""
        return self.running.pop(request, 0)

    def lose(self, done: Iterable[int]) -> None:
        """Redis has taken all leases. What waits here is for others; what runs, or is *done*, may still be acknowledged."""
        self.waiting = {request: id for request, id in self.waiting.items() if not id}
        self.taken = {*self.ids, *done}

    @property
    def ids(self) -> list[int]:
        """The lease ids."""
        return [id for requests in (self.waiting, self.running) for id in requests.values() if id]

    @property
    def own(self) -> int:
        """How many requests Redis does not know of."""
        return sum(not id for requests in (self.waiting, self.running) for id in requests.values())


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
