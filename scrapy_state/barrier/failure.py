"""The one way from an error to a finish reason and an exit code."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider
from scrapy.statscollectors import StatsCollector

from ..exceptions import StateConflict, StateError, StoreError, StoreSilent, StoreUnreachable
from ..resume.refusal import set_refusal
from ..scrapy_internals import fail_when_closed
from .backpressure import Backpressure
from .log import SpiderLog

#: Exit codes: somebody must look; a store or Redis was away, so try again later; another run writes in the same place
ATTENTION, AWAY, CONFLICT = 1, 75, 76


class CrawlFailure:
    """Whether one crawl has failed, and why. Whoever notices a failure reports it here, once.

    The first failure decides the finish reason. Later ones only add to what can't be stored any more.
    """

    def __init__(self, crawler: Crawler, backpressure: Backpressure) -> None:
        self._crawler = crawler
        self._log = SpiderLog(crawler)
        self._backpressure = backpressure
        self._finish_reason = ""
        self._exit_code = 0
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
        self.close_spider(finish_reason, error)

    def close_spider(self, finish_reason: str, error: StateError | None) -> None:
        """Close the spider because of *error*, which somebody else logs, with *finish_reason*."""
        self.mark(finish_reason, error)
        self._backpressure.end()
        engine = self._crawler.engine
        if engine is not None and engine.spider is not None:
            self._closing = asyncio.create_task(engine.close_spider_async(reason=finish_reason))

    def mark(self, finish_reason: str = "", error: StateError | None = None) -> None:
        """Let the crawl run to its end, but with *finish_reason* and the exit code of *error*. The first ones count."""
        self._finish_reason = self._finish_reason or finish_reason
        if not self._exit_code:
            self._exit_code = exit_code_of(error)
            fail_when_closed(self._crawler, self._exit_code)

    def refuse(self, error: StateError) -> NoReturn:
        """Close the spider before its first request, with one line that says why.

        :raises CloseSpider: always
        """
        self._log.error("the crawl does not start: %s", error)
        set_refusal(self._crawler, error)
        self.mark(error=error)
        raise CloseSpider("state_refused") from error

    def conclude(self, reason: str) -> str:
        """Set and return the finish reason: that of the failure; without one *reason*, which the spider was closed with."""
        reason = self._finish_reason or reason
        self._crawler.stats.set_value("finish_reason", reason)  # CoreStats has set *reason*
        return reason


def exit_code_of(error: BaseException | None) -> int:
    """Return the exit code of a crawl that failed because of *error*, or of what caused it: whether to try again."""
    while error is not None:
        if isinstance(error, StateConflict):
            return CONFLICT
        if isinstance(error, (StoreUnreachable, StoreSilent)):
            return AWAY
        error = error.__cause__
    return ATTENTION


def all_requests_failed(stats: StatsCollector) -> bool:
    """Return whether a crawl has sent requests and every one failed: in the download, by its HTTP status, or in its callback.

    Only Scrapy's own stats know. Requests for robots.txt don't count.
    """

    def count(name: str) -> int:
        return int(stats.get_value(name, 0))

    sent = count("downloader/request_count") - count("robotstxt/request_count")
    answered = count("response_received_count") - count("robotstxt/response_count")
    failed = count("httperror/response_ignored_count") + count("spider_exceptions/count")
    return sent > 0 and answered <= failed and not count("item_scraped_count")
