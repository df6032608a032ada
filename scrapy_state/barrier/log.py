"""The log of one crawl."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from scrapy.crawler import Crawler


class SpiderLog(logging.LoggerAdapter):  # type: ignore[type-arg]  # only newer Pythons take an argument here
    """The package's logger, with the crawl's spider in every record, as Scrapy's own records have it."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(logging.getLogger("scrapy_state.state"), {})
        self._crawler = crawler  # under `scrapy shell` it has no spider yet

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the spider to a record."""
        kwargs["extra"] = {"spider": self._crawler.spider}
        return msg, kwargs
