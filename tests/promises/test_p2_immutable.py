"""Promises that a deliberately broken copy could break without another real-crawl test noticing."""

from __future__ import annotations

import json
from pathlib import Path

from crawls import SPIDER, checkpoints, crawl, named_items


def test_errback_of_a_failed_download(tmp_path: Path) -> None:
    """What the errback of a failed download yields is filed like a callback's: the state item ends at the middleware."""
    source = (
        SPIDER
        + """
    async def start(self):
        yield scrapy.Request("http://127.0.0.1:9/", errback=self.errback)

    def errback(self, failure):
        yield {"page": 0, "n": 0}
        yield StateItem({"page": 1})
        yield {"page": 1, "n": 0}

class Slow:
    async def process_item(self, item):
        print("piped", type(item).__name__, file=__import__("sys").stderr)
        await __import__("asyncio").sleep(0.3 if item["page"] == 0 else 0)
        return item
"""
    )
    settings = {"ITEM_PIPELINES": {"spider.Slow": 1}, "RETRY_ENABLED": False, "STATE_INTERVAL": 0}
    run = crawl(tmp_path, source, settings=settings)
    assert run.code == 0, run.log
    assert not run.lines("piped StateItem")
    assert checkpoints(tmp_path)[-1]["state"] == {"page": 1}
    assert named_items(tmp_path) == [{"page": 0, "n": 0}]


def test_parent_that_was_exchanged(tmp_path: Path) -> None:
    """A checkpoint whose parent is not the one it names is passed over: part of its lineage is not what it was."""
    crawl(tmp_path)
    newest = checkpoints(tmp_path)[-1]
    path = tmp_path / f"data/numbers/state/{newest['parent']:010d}.json"
    # Whole and valid, but another one: what a second writer on a store that overwrites would leave.
    path.write_text(json.dumps([{"state": {"page": 1}}]))
    run = crawl(tmp_path)
    assert run.lines(f"{newest['id']:010d}.json is skipped")
    assert run.lines("begins at 1 {'page': 1}")
