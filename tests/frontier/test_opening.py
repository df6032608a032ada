"""What a run needs before its first request."""

from __future__ import annotations

from pathlib import Path

from crawls import checkpoints, crawl

SPIDER = """
import scrapy

class Fingerprinter:
    def fingerprint(self, request):
        return request.meta["product"].encode()

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        for product in ("1", "2", "1", "product number 1", "product number 2"):
            yield scrapy.Request("data:,0", meta={"product": product})

    def parse(self, response):
        yield {"product": response.meta["product"]}
"""


def test_any_fingerprinter(tmp_path: Path) -> None:
    """A fingerprinter may need what the spider puts into meta, which made-up requests don't have, and return any bytes."""
    crawled = crawl(tmp_path, SPIDER, settings={"REQUEST_FINGERPRINTER_CLASS": "spider.Fingerprinter"})
    assert crawled.code == 0
    assert sum(file["items"] for each in checkpoints(tmp_path) for file in each["files"]) == 4
