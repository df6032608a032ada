"""The one way from an error to a finish reason and exit code 1."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider

from ..exceptions import StateError, StoreError
from ..resume.refusal import set_refusal
from ..scrapy_internals import fail_when_closed
from .backpressure import Backpressure
from .log import SpiderLog


class CrawlFailure:
    """Whether one crawl has failed, and why. Whoever notices a failure reports it here, once.

    The first failure decides the finish reason. Later ones only add to what can't be stored any more.
    """

    def __init__(self, crawler: Crawler, backpressure: Backpressure) -> None:
        self._crawler = crawler
        self._log = SpiderLog(crawler)
        self._backpressure = backpressure
        self._finish_reason = ""
        #: the first failure
        self.error: StateError | None = None
        #: whether not even the newest state may be stored
        self.blocks_newest = False
        #: whether a store has failed, so that more uploads are of no use
        self.store_failed = False

    def fail(self, finish_reason: str, error: StateError, blocks_newest: bool = True) -> None:
        """Close the spider because of *error*. No checkpoint may pass what failed.

        :param blocks_newest: whether the failed item comes before the newest state, so that this state can't be stored either
        """
        self.blocks_newest = self.blocks_newest or blocks_newest
        self.store_failed = self.store_failed or isinstance(error, StoreError)
        if self.error is not None:
            return
        self.error = error
        self._log.warning("the crawl is closed (%s): %s", finish_reason, error)
        self.close_spider(finish_reason)

    def close_spider(self, finish_reason: str) -> None:
        """Close the spider, with *finish_reason* and exit code 1."""
        self.mark(finish_reason)
        self._backpressure.end()
        engine = self._crawler.engine
        if engine is not None and engine.spider is not None:
            self._closing = asyncio.create_task(engine.close_spider_async(reason=finish_reason))

    def mark(self, finish_reason: str = "") -> None:
        """Let the crawl run to its end, but with exit code 1, and with *finish_reason* unless an earlier failure gave one."""
        self._finish_reason = self._finish_reason or finish_reason
        fail_when_closed(self._crawler)

    def refuse(self, error: StateError) -> NoReturn:
        """Close the spider before its first request, with one line that says why, and exit code 1.

        :raises CloseSpider: always
        """
        self._log.error("the crawl does not start: %s", error)
        set_refusal(self._crawler, error)
        self.mark()
        raise CloseSpider("state_refused") from error

    def conclude(self, reason: str) -> str:
        """Set and return the finish reason: that of the failure; without one *reason*, which the spider was closed with."""
        reason = self._finish_reason or reason
        self._crawler.stats.set_value("finish_reason", reason)  # CoreStats has set *reason*
        return reason
