"""The exit codes of ``scrapy crawl`` and ``runspider``, and STATE_ON_CRAWL_ERROR: real crawls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from crawls import SPIDER, checkpoints, crawl
from scrapy.statscollectors import StatsCollector
from scrapy.utils.test import get_crawler

from scrapy_state.barrier.failure import all_requests_failed

AWAY = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
STATES = "s3://bucket/state/%(batch_id)010d.json"

REQUESTS = """
import scrapy

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        for n in range(3):
            yield scrapy.Request(f"{self.site}/{n}")

    def parse(self, response):
        yield {"page": response.url}
"""
RAISING = SPIDER.replace(
    "            yield StateItem", "            assert page == first, 'on purpose'\n            yield StateItem"
)
SCRIPT = """
import sys
from scrapy.crawler import CrawlerProcess
from scrapy.utils.project import get_project_settings
from spider import TestSpider

process = CrawlerProcess(get_project_settings())
process.crawl(TestSpider)
process.start()
sys.exit(process.bootstrap_failed)
"""


def test_store_away(tmp_path: Path) -> None:
    """If the store is away at the start, ``scrapy crawl`` exits with 75; a script sees that the crawl failed."""
    feeds = {STATES: {"format": "json", "item_classes": ["scrapy_state.StateItem"]}}
    run = crawl(tmp_path, settings={**AWAY, "FEEDS": feeds})
    assert run.code == 75, run.log
    assert "Traceback" not in run.log
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "SCRAPY_SETTINGS_MODULE": "project_settings"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr


CHOICES = pytest.mark.parametrize(("choice", "code"), [pytest.param("ignore", 0, marks=pytest.mark.long), ("fail", 1)])


@CHOICES
def test_every_request_failed(tmp_path: Path, choice: str, code: int) -> None:
    """If every request failed, STATE_ON_CRAWL_ERROR decides whether the crawl has failed. The next run begins a new crawl."""
    site = ("-a", "site=http://127.0.0.1:9")
    settings = {"STATE_ON_CRAWL_ERROR": choice, "RETRY_ENABLED": False}
    run = crawl(tmp_path, REQUESTS, *site, settings=settings)
    assert run.code == code, run.log
    last = checkpoints(tmp_path)[-1]
    assert last["reason"] == ("finished" if code == 0 else "state_requests_failed")
    assert last["ended"]
    again = crawl(tmp_path, REQUESTS, *site, settings=settings)
    assert again.lines("'downloader/request_count': 3")


@CHOICES
def test_start_raised(tmp_path: Path, choice: str, code: int) -> None:
    """If start() raised, STATE_ON_CRAWL_ERROR decides whether the crawl has failed. The next run continues."""
    run = crawl(tmp_path, RAISING, settings={"STATE_ON_CRAWL_ERROR": choice, "STATE_INTERVAL": 0})
    assert run.code == code, run.log
    last = checkpoints(tmp_path)[-1]
    assert (last["reason"], last["state"]) == ("start_error", {"page": 1})
    assert crawl(tmp_path).lines("begins at 1 ")


#: Short names for the stats
STATS = {
    "sent": "downloader/request_count", "answers": "response_received_count", "ignored": "httperror/response_ignored_count",
    "raised": "spider_exceptions/count", "items": "item_scraped_count",
    "robots_sent": "robotstxt/request_count", "robots_answers": "robotstxt/response_count",
}  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "failed"),
    [
        ({}, False),
        ({"sent": 3}, True),
        ({"sent": 3, "answers": 1}, False),
        ({"sent": 3, "answers": 3, "ignored": 3}, True),
        ({"sent": 3, "answers": 3, "ignored": 2}, False),
        ({"sent": 3, "answers": 3, "raised": 3}, True),
        ({"sent": 3, "answers": 3, "raised": 3, "items": 1}, False),
        ({"sent": 1, "robots_sent": 1, "answers": 1, "robots_answers": 1}, False),
        ({"sent": 2, "robots_sent": 1, "answers": 1, "robots_answers": 1}, True),
    ],
)
def test_what_counts_as_failed(counts: dict[str, int], failed: bool) -> None:
    """A request that failed has no answer, a status that is left out, or a callback that raised; robots.txt does not count."""
    stats = StatsCollector(get_crawler())
    for name, value in counts.items():
        stats.set_value(STATS[name], value)
    assert all_requests_failed(stats) is failed
