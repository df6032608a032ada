"""Which page each request belongs to, from the scheduler to the end of its callback. Pure: knows no Scrapy."""

from __future__ import annotations

import time
from collections.abc import Hashable

from .page import Page, Waiting


class UnderWay:
    """The requests that wait or are at work, and their pages."""

    def __init__(self) -> None:
        self._of: dict[Hashable, Page | Waiting] = {}
        #: the requests whose callbacks have ended
        self._idle: set[Hashable] = set()
        #: the pages that the engine has, in their order: the request it got first, and when (time.monotonic())
        self._taken: dict[Page, tuple[Hashable, float]] = {}

    def of(self, request: Hashable) -> Page | None:
        """Return the page that *request*, which the engine has, belongs to; None if there is none."""
        page = self._of.get(request)
        return page if isinstance(page, Page) else None

    def wait(self, request: Hashable, page: Page | Waiting) -> None:
        """*request*, one of *page*, waits in the scheduler."""
        self._of[request] = page

    def take(self, request: Hashable) -> Page | None:
        """The engine gets *request*: return its page. None if it is not in the books."""
        entry = self._of.get(request)
        if isinstance(entry, Waiting):
            entry = self._of[request] = Page(entry.number, parent=entry.parent, known=True, stored=True)
        if entry is not None:
            self._taken.setdefault(entry, (request, time.monotonic()))
        return entry

    def yielded_all(self, request: Hashable) -> None:
        """The callback of *request* has ended. Its items may still be in the pipelines."""
        page = self.of(request)
        if page is not None and request not in self._idle:
            self._idle.add(request)
            page.idle += 1

    def end(self, request: Hashable) -> Page | None:
        """The engine is done with *request*. Return its page, one of whose requests has ended."""
        page = self._of.pop(request, None)
        if not isinstance(page, Page):
            return None
        page.out -= 1
        if request in self._idle:
            self._idle.discard(request)
            page.idle -= 1
        return page

    def over(self, page: Page) -> None:
        """Nothing of *page* is under way any more."""
        self._taken.pop(page, None)

    def pages(self) -> list[Page]:
        """Return the pages that have more than a request which waits."""
        return [page for page in self._of.values() if isinstance(page, Page)]

    def idle_pages(self) -> set[Page]:
        """Return the pages with a callback that has ended."""
        return {page for request in self._idle if (page := self.of(request)) is not None}

    def in_flight(self) -> list[int]:
        """Return the numbers of the stored pages that the engine has."""
        return [page.number for page in self._taken if page.stored and not page.over]

    def oldest(self) -> tuple[Hashable, float] | None:
        """Return the request of the page that the engine has had longest, if that page holds something back, and since when."""
        page = next(iter(self._taken), None)
        if page is None or not (page.ticket or page.folded or page.children):
            return None
        return self._taken[page]
