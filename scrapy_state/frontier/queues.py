"""Scrapy's queues, and behind them the backlog of stored requests that are not objects yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy import Request

from .books.page import Waiting

if TYPE_CHECKING:
    from scrapy.pqueues import ScrapyPriorityQueue

    from .opening import Opened

#: If fewer requests than this wait in Scrapy's queues, more are taken from the backlog.
_FEW_REQUESTS = 500
#: How many are taken at once: some 3 ms of work, since each is decoded
_REFILL_REQUESTS = 100
#: With STATE_REQUESTS_ON_DISK, no more than this many wait in Scrapy's queues.
_MANY_REQUESTS = 2000


class Queues:
    """The requests that wait: in Scrapy's queues, in the backlog, and those that come last.

    :param queue: Scrapy's, which decides the order
    """

    def __init__(self, queue: ScrapyPriorityQueue, opened: Opened) -> None:
        self._queue = queue
        self._opened = opened
        #: how many requests wait in Scrapy's queues, which would count them each time
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting + len(self._opened.backlog) + len(self._opened.suspects)

    def belongs_on_disk(self, request: Request) -> bool:
        """Whether Scrapy's queues have enough requests, and *request* need not come before those on the disk."""
        if self._waiting < _MANY_REQUESTS:
            return False
        top_priority = self._opened.backlog.top_priority
        return top_priority is None or request.priority <= top_priority

    def push(self, request: Request) -> None:
        """Put *request* into Scrapy's queues."""
        self._queue.push(request)
        self._waiting += 1

    def pop(self, also_stored: bool) -> Request | None:
        """Return the next request; None if there is none. *also_stored*: whether those of the last run may be sent."""
        while also_stored and self._waiting < _FEW_REQUESTS and len(self._opened.backlog):
            self._refill()
        request = self._pop()
        if request is None and also_stored and self._opened.suspects:
            self._push_suspects()
            request = self._pop()
        return request

    def _pop(self) -> Request | None:
        request: Request | None = self._queue.pop()
        self._waiting -= request is not None
        return request

    def _refill(self) -> None:
        """Take requests from the backlog into Scrapy's queues, which bring them into their order."""
        entries = self._opened.backlog.pop(_REFILL_REQUESTS)
        for entry in sorted(entries, key=lambda entry: entry.page):
            if entry.page in self._opened.fatal:
                self._opened.give_up(entry)
            elif entry.page in self._opened.late:
                self._opened.suspects.append(entry)
            else:
                self._push_stored(entry.page, entry.data)

    def _push_suspects(self) -> None:
        """The pages that were in flight when a process died come last."""
        suspects, self._opened.suspects = self._opened.suspects, []
        for entry in suspects:
            self._push_stored(entry.page, entry.data)

    def _push_stored(self, number: int, data: bytes) -> None:
        try:
            request = self._opened.codec.decode_text(data)
        except ValueError as error:
            self._opened.set_aside(number, error)
            return
        forms = self._opened.forms_of_held.pop(number, None)
        if forms is None:
            self._opened.pages.under_way.wait(request, Waiting(number))
        else:
            self._opened.pages.try_again(request, number, forms)
        self.push(request)
