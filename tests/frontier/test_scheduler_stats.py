"""What the stats say of the requests, as they do with Scrapy's scheduler."""

from __future__ import annotations

from pathlib import Path

from crawls import crawl

SPIDER = """
import scrapy

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        yield scrapy.Request("data:,0")
        yield scrapy.Request("data:,1", meta={"a function": lambda: None})
        yield scrapy.Request("data:,2", meta={"state_every_run": True})

    def parse(self, response):
        if response.text == "0":
            yield scrapy.Request("data:,3", dont_filter=True)
            yield scrapy.Request("data:,4", meta={"a function": lambda: None})
"""


def test_every_request_counts(tmp_path: Path) -> None:
    """Requests that can't be stored, and those of every run, are among the requests that the scheduler took and gave."""
    crawled = crawl(tmp_path, SPIDER)
    assert crawled.code == 0
    for stat in ("enqueued", "enqueued/memory", "dequeued", "dequeued/memory"):
        assert crawled.lines(f"'scheduler/{stat}': 5"), stat
