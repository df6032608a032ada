"""The requests that can't be stored: counted, and warned of."""

from __future__ import annotations

import logging

from scrapy import Request
from scrapy.crawler import Crawler

from .books.page import Page

logger = logging.getLogger("scrapy_state.state")


class UnstorableRequests:
    """Counts the requests of one crawl that can't be stored."""

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler
        self._count = 0
        self._has_warned = self._has_warned_again = False

    def add(self, request: Request, error: ValueError, page: Page | None, accepted: int) -> None:
        """Count *request*, which *page* (None: an extension) has sent. Warn of the first, and once they are most.

        :param error: why it can't be stored
        :param accepted: how many requests have been stored
        """
        self._count += 1
        self._crawler.stats.inc_value("scheduler/unserializable")
        if not self._has_warned:
            self._has_warned = True
            effect = "if this run is killed now, it is lost" if page is None else (
                "the page that has sent it is not done before that is, and is fetched again if this run is killed before"
            )  # fmt: skip
            logger.warning(
                "%s can't be stored (%s): %s. Further ones are only counted (scheduler/unserializable)", request, error, effect,
                extra={"spider": self._crawler.spider},
            )  # fmt: skip
        elif not self._has_warned_again and self._count > max(100, accepted):
            self._has_warned_again = True
            logger.warning(
                "more than half of the requests can't be stored (%s of %s), so a kill costs much: give them callbacks that are "
                "methods of the spider, and values that JSON can hold", self._count, self._count + accepted,
                extra={"spider": self._crawler.spider},
            )  # fmt: skip
