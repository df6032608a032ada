"""P5, read-only means read-only: a read-only run resumes from production's checkpoint and changes nothing there.

It sends no request that could change anything under the state prefix.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from crawls import SPIDER, STATE_OPTIONS, STATES, checkpoints, crawl, s3_feeds, untouched
from faulty import Proxy

OWN_ITEMS = {"dev.jsonl": {"format": "jsonlines"}}


@pytest.mark.parametrize("readonly", [False, True])
def test_production_is_untouched(production: Path, tmp_path: Path, readonly: bool) -> None:
    """A run with STATE_FROM and no state feed, or with STATE_READONLY, changes nothing in production's folder.

    The crawl stores its own items in its own folder, and no checkpoint anywhere.
    """
    state_uri = f"{production}/data/%(name)s/state/%(batch_id)010d.json"
    if readonly:
        settings = {"FEEDS": {**OWN_ITEMS, state_uri: STATE_OPTIONS}, "STATE_READONLY": True}
    else:
        settings = {"FEEDS": OWN_ITEMS, "STATE_FROM": state_uri}
    with untouched(production):
        run = crawl(tmp_path, settings=settings)
    assert run.code == 0, run.log
    assert run.lines("begins at 6 {'page': 6}")
    assert run.lines('spider closed (finished): last state yielded {"page": 9}, last stored none in this run') or not readonly
    assert not run.lines("WARNING")
    assert not run.lines("ERROR")
    assert len((tmp_path / "dev.jsonl").read_text().splitlines()) == 6
    assert {path.name for path in tmp_path.iterdir()} <= {"dev.jsonl", "spider.py", "project_settings.py", "__pycache__"}


def test_moving_away(production: Path, tmp_path: Path) -> None:
    """With STATE_FROM and a state feed of its own a crawl starts from production's state once, then resumes from its own."""
    with untouched(production):
        run = crawl(tmp_path, settings={"STATE_FROM": f"{production}/data/numbers/state/%(batch_id)010d.json"})
    assert run.code == 0, run.log
    assert run.lines("begins at 6 {'page': 6}")
    assert checkpoints(tmp_path)[0]["parent"] is None
    assert crawl(tmp_path).lines("begins at 9 {'page': 9}")


def test_requests_on_s3(tmp_path: Path, bucket: str, s3_settings: dict[str, str]) -> None:
    """On S3 a read-only run resumes from production's checkpoint, with its files, and sends nothing but GET requests."""
    (tmp_path / "notes").write_text("production's")
    with Proxy(s3_settings["AWS_ENDPOINT_URL"]) as proxy:
        settings = {**s3_settings, "AWS_ENDPOINT_URL": proxy.url, "STATE_FILES": ["notes"], "STATE_FILES_INTERVAL": 0}
        first = crawl(tmp_path, settings={**settings, "FEEDS": s3_feeds(bucket)})
        assert first.code == 0, first.log
        assert proxy.seen("^PUT .*/state/")
        assert proxy.seen("^PUT .*/state/files/")
        (tmp_path / "notes").write_text("of development")
        proxy.log.clear()
        states = {f"s3://{bucket}/{STATES}": STATE_OPTIONS}
        run = crawl(tmp_path, SPIDER, "-O", "dev.jsonl", settings={**settings, "FEEDS": states, "STATE_READONLY": True})
    assert run.code == 0, run.log
    assert run.lines("begins at 3 {'page': 3}")
    assert (tmp_path / "notes").read_text() == "production's"
    assert len((tmp_path / "dev.jsonl").read_text().splitlines()) == 6
    assert {seen.request.partition(" ")[0] for seen in proxy.log} == {"GET"}


LINKS = """
import scrapy

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        for page in range(120):
            yield scrapy.Request(f"data:,{page}", cb_kwargs={"page": page})

    def parse(self, response, page):
        yield {"page": page}
"""


def test_pending_requests_on_s3(tmp_path: Path, bucket: str, s3_settings: dict[str, str]) -> None:
    """With STATE_REQUESTS on the command line a read-only run processes 50 of production's pending requests, and still sends
    nothing but GET requests to S3."""
    with Proxy(s3_settings["AWS_ENDPOINT_URL"]) as proxy:
        settings = {**s3_settings, "AWS_ENDPOINT_URL": proxy.url, "CONCURRENT_REQUESTS": 4}
        first = crawl(tmp_path, LINKS, "-s", "CLOSESPIDER_PAGECOUNT=20", settings={**settings, "FEEDS": s3_feeds(bucket)})
        assert first.code == 0, first.log
        assert proxy.seen("^PUT .*/state/requests/")
        proxy.log.clear()
        development = {**settings, "FEEDS": {f"s3://{bucket}/{STATES}": STATE_OPTIONS}, "STATE_READONLY": True}
        options = ("-O", "dev.jsonl", "-s", "STATE_REQUESTS=True", "-s", "CLOSESPIDER_PAGECOUNT=50")
        run = crawl(tmp_path, LINKS, *options, settings=development)
    assert run.code == 0, run.log
    assert run.lines("pending requests")
    pages = [json.loads(line)["page"] for line in (tmp_path / "dev.jsonl").read_text().splitlines()]
    assert 50 <= len(pages) == len(set(pages)) < 60
    assert {seen.request.partition(" ")[0] for seen in proxy.log} == {"GET"}
