"""Holding a crawl back while too much waits on the local disk."""

from __future__ import annotations

from collections.abc import Callable

from scrapy.crawler import Crawler

from ..scrapy_internals import hold
from .log import SpiderLog
from .parking_lot import ParkingLot


class Backpressure:
    """Holds one crawl back: the engine sends no requests, and ``start()`` and the items of the newest side wait.

    Items of the old side don't wait: a checkpoint needs them, and storing it makes room.
    """

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler
        self._log = SpiderLog(crawler)
        self._waiting = ParkingLot()
        self._let_engine_go: Callable[[], None] | None = None
        #: whether the crawl is being held back; checked for every item
        self.held = False
        #: whether the crawl is ending, so that nothing may hold it back any more
        self.ended = False

    def hold(self, why: str) -> None:
        """Hold the crawl back until :meth:`release`; *why* is for the log."""
        if self.held or self.ended:
            return
        self.held = True
        self._let_engine_go = hold(self._crawler.engine)
        self._crawler.stats.inc_value("state/pauses")
        self._log.info("the crawl waits: %s", why)

    def release(self) -> None:
        """Let the crawl continue, if it is being held back."""
        if self._let_engine_go is None:
            return
        self._let_engine_go()
        self._let_engine_go = None
        self.held = False
        self._waiting.unpark_all()
        self._log.info("the crawl goes on")

    def end(self) -> None:
        """Let the crawl continue, and never hold it back again: it is ending."""
        self.ended = True
        self.release()

    async def wait(self) -> None:
        """Wait while the crawl is being held back."""
        while self.held:
            await self._waiting.park()
