"""Several crawls in one process, for tests: what to run is the JSON object in the first argument.

``{"settings": {…}, "spiders": [{"name": "a", "custom_settings": {…}, "arguments": {…}}, …], "sequential": true}``
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import scrapy
from scrapy.crawler import CrawlerProcess, CrawlerRunner
from scrapy.utils.log import configure_logging
from scrapy.utils.reactor import install_reactor
from twisted.internet.defer import inlineCallbacks

from scrapy_state import StateItem


class ManySpider(scrapy.Spider):
    """Yields *pages* pages of two items and a state item each, from its state on."""

    pages = 1_000_000

    async def start(self) -> AsyncIterator[Any]:
        first = self.state.get("page", 0)  # type: ignore[attr-defined]
        self.logger.info("begins at %s", first)
        for page in range(first, first + self.pages):
            yield {"spider": self.name, "page": page, "n": 0}
            yield {"spider": self.name, "page": page, "n": 1}
            yield StateItem({"page": page + 1})
            await asyncio.sleep(0.05)


def main() -> None:
    plan = json.loads(sys.argv[1])
    classes = [
        (type("Spider", (ManySpider,), {"custom_settings": each.get("custom_settings")}), each) for each in plan["spiders"]
    ]
    if not plan.get("sequential"):
        process = CrawlerProcess(plan["settings"])
        for cls, each in classes:
            process.crawl(cls, name=each["name"], **each.get("arguments", {}))
        process.start()
        return

    install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")
    from twisted.internet import reactor

    configure_logging(plan["settings"])
    runner = CrawlerRunner(plan["settings"])

    @inlineCallbacks
    def crawl() -> Any:
        for cls, each in classes:
            yield runner.crawl(cls, name=each["name"], **each.get("arguments", {}))
        reactor.stop()  # type: ignore[attr-defined]

    reactor.callWhenRunning(crawl)  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
