"""Incremental crawls with the frontier in Redis."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from crawls import DEADLINE_SECONDS, ITEMS, STATE_OPTIONS, crawl, start
from loopback import Handler, Server
from redis_server import RedisServer

pytestmark = pytest.mark.long

PAGES = 90
SPIDER = """
import scrapy

class Shop(scrapy.Spider):
    name = "numbers"
    pages = site = ""
    async def start(self):
        yield scrapy.Request(f"{self.site}/list", self.links)

    async def links(self, response):
        for page in range(int(self.pages)):
            yield scrapy.Request(f"{self.site}/to/{page}")

    async def parse(self, response):
        yield {"key": response.url.rpartition("/")[2]}
"""
FEEDS: dict[str, Any] = {
    ITEMS: {"format": "jsonlines"},
    "data/%(name)s/state/%(run_id)s/%(batch_id)010d.json": STATE_OPTIONS,
}
SETTINGS = {
    "SCHEDULER": "scrapy_state.redis.Scheduler",
    "STATE_REDIS_CLEAR": "finished",
    "STATE_REDIS_PREFETCH": 2,
    "STATE_REDIS_LEASE_TIMEOUT": 3,
    "STATE_INTERVAL": 0.2,
    "STATE_DELTA": True,
    "DOWNLOAD_DELAY": 0.05,
    "FEEDS": FEEDS,
}


class Site(Handler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.reply(302, headers={"Location": "/" + self.path.removeprefix("/to/")})
        else:
            self.reply(200, self.path)


def test_several_workers(tmp_path: Path, server: RedisServer) -> None:
    """Three workers crawl; one is killed. The next crawl, with two other workers, sends only what is new, wherever a page was
    processed; and so does the third."""
    settings = {**SETTINGS, "STATE_REDIS_URL": server.url}
    with Server(Site, asked=[]) as site:

        def work(pages: int) -> Any:
            return start(tmp_path, SPIDER, "-a", f"site={site.url}", "-a", f"pages={pages}", settings=settings)

        workers = [work(PAGES) for _ in range(3)]
        while not all_have_stored(tmp_path, 3):
            assert workers[0].poll() is None
            time.sleep(0.05)
        workers[0].kill()
        logs = [worker.communicate(timeout=DEADLINE_SECONDS)[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [-9, 0, 0], logs
        assert set(processed(tmp_path)) == {str(page) for page in range(PAGES)}
        for pages in (PAGES + 1, PAGES + 2):
            site.asked.clear()
            workers = [work(pages) for _ in range(2)]
            logs = [worker.communicate(timeout=DEADLINE_SECONDS)[1] for worker in workers]
            assert set(site.asked) == {"/list", f"/to/{pages - 1}", f"/{pages - 1}"}, logs
        site.asked.clear()
        only = crawl(tmp_path, SPIDER, "-a", f"site={site.url}", "-a", f"pages={PAGES + 2}", settings=settings)
        assert only.lines(f"{PAGES + 2} pages of earlier crawls are known"), only.log
        assert set(site.asked) == {"/list"}


def all_have_stored(folder: Path, workers: int) -> bool:
    """Whether each worker has made several checkpoints with pages: those of the first ones are acknowledged by now."""
    runs = [path for path in (folder / "data/numbers/state").glob("2*") if path.is_dir()]
    newest = [max(run.glob("*.json"), default=None) for run in runs]
    memories = [json.loads(path.read_text())[0].get("memories", {}) for path in newest if path is not None]
    return len(memories) == workers and all(len(memory.get("delta", {}).get("stored", ())) > 2 for memory in memories)


def processed(folder: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for path in (folder / "data/numbers/items").glob("*"):
        found.update(json.loads(line)["key"] for line in path.read_text().splitlines())
    return found
