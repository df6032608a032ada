"""STATE_REDIS_KEEP_OPEN: a crawl that is fed from outside stays open while there is nothing to do."""

from __future__ import annotations

import time

from scrapy import signals
from scrapy.crawler import Crawler
from scrapy.exceptions import DontCloseSpider

from . import told
from .options import RedisSettings


class KeepOpen:
    """Keeps the spider open each time that it is idle, after its own handlers of ``spider_idle`` have been called.

    With STATE_REDIS_IDLE_TIMEOUT until there has been nothing for that long.
    """

    def __init__(self, crawler: Crawler, settings: RedisSettings) -> None:
        self._crawler = crawler
        self._settings = settings
        self._since: float | None = None
        if settings.keep_open:
            crawler.signals.connect(self.spider_idle, signals.spider_idle)

    def has_something(self, is_something: bool) -> None:
        """Whether there is anything to do, here or in another worker, as of now."""
        if is_something:
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()

    def spider_idle(self) -> None:
        """Decide whether the spider stays open.

        :raises DontCloseSpider: if it does
        """
        seconds = self._settings.idle_seconds
        if self._since is None or time.monotonic() - self._since < seconds:
            raise DontCloseSpider
        told.tell_idle(seconds, self._crawler.spider)
