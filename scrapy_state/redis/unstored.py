"""Requests that can't be stored, and the leases that are kept until these are done."""

from __future__ import annotations

from collections import Counter

from scrapy import Request


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

    def lose(self) -> None:
        """All leases were lost: others crawl these pages."""
        self._lease_of.clear()
        self._out.clear()
        self._done.clear()

    @property
    def kept(self) -> list[int]:
        """The leases of pages that are done, but for requests that only memory has."""
        return list(self._done)
