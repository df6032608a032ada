"""P2, whole and immutable: no run ever overwrites a stored file, or deletes one that a checkpoint names.

On stores without atomic create-only writes a second writer is detected instead of prevented, and the log says so once.
"""

from __future__ import annotations

import signal
import subprocess
from math import inf
from pathlib import Path
from typing import Any

import pytest
from crawls import (
    ITEMS,
    SPIDER,
    STATE_OPTIONS,
    STATES,
    checkpoints,
    crawl,
    crawl_until,
    kill_beside_unnamed_files,
    run_until,
    start,
    unnamed_files,
)
from faulty import Fault
from faulty_crawls import World
from numbered_site import SITE_SPIDER
from oracle import Unchanged, local_files

ENDLESS = """
import asyncio, scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        page = self.state.get("page", 0)
        while True:
            yield {"page": page, "n": 0}
            yield {"page": page, "n": 1}
            page += 1
            yield StateItem({"page": page})
            await asyncio.sleep(0.01)
"""


def test_nothing_stored_is_changed_or_deleted(tmp_path: Path) -> None:
    """A killed run, runs that follow, a branch, a second start from the beginning: every file stored stays as it is.

    With STATE_ORPHANS=delete a run deletes what the killed run stored and no checkpoint names, and nothing else.
    """
    unchanged = Unchanged()
    feeds = {ITEMS: {"format": "jsonlines", "batch_item_count": 2}, STATES: STATE_OPTIONS}
    settings = {"STATE_INTERVAL": 0.2, "FEEDS": feeds, "LOG_LEVEL": "INFO"}

    def kill(process: subprocess.Popen[str]) -> None:
        kill_beside_unnamed_files(process, tmp_path)

    def changes() -> list[str]:
        return unchanged.wrong(local_files(tmp_path / "data"))

    crawl_until(tmp_path, "checkpoint 3 stored", ENDLESS, settings=settings, end=kill)
    orphans = {uri.removeprefix("file://") for uri in unnamed_files(tmp_path)}
    assert changes() == []
    for arguments in ((), ("-s", "STATE_AT=2"), ("-s", "STATE={}")):
        assert crawl(tmp_path, SPIDER, *arguments, settings=settings).code == 0
        assert changes() == []
    third = f"checkpoint {checkpoints(tmp_path)[-1]['id'] + 3} stored"
    crawl_until(tmp_path, third, ENDLESS, settings=settings, end=kill)
    last_orphans = {uri.removeprefix("file://") for uri in unnamed_files(tmp_path)} - orphans
    assert last_orphans
    assert changes() == []
    assert crawl(tmp_path, settings={**settings, "STATE_ORPHANS": "delete"}).code == 0
    assert sorted(changes()) == sorted(f"{path} was removed" for path in last_orphans)


def test_second_writer(tmp_path: Path, numbered_site: Any) -> None:
    """If a second run writes to the same prefix, the first one notices at its next commit and stops. Nothing is overwritten."""
    endless = SITE_SPIDER.replace("page < 5", "True")
    settings = {"STATE_INTERVAL": 0.2, "DOWNLOAD_DELAY": 0.05}
    first = start(tmp_path, endless, "-a", f"site={numbered_site.url}/", settings=settings)
    log = run_until(first, "checkpoint 3 stored")
    first.send_signal(signal.SIGSTOP)
    second = crawl(tmp_path, SITE_SPIDER, "-a", f"site={numbered_site.url}/", settings=settings)
    assert second.code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "data/numbers/state").iterdir()}
    first.send_signal(signal.SIGCONT)
    log += first.communicate(timeout=60)[1]
    assert first.returncode == 76
    assert "'finish_reason': 'state_conflict'" in log
    assert {name: (tmp_path / "data/numbers/state" / name).read_bytes() for name in before} == before


def test_item_feed_that_would_overwrite(tmp_path: Path) -> None:
    """An item feed whose URI is the same in every run is an error at start, naming the feed and the fix."""
    run = crawl(tmp_path, settings={"FEEDS": {"items.jsonl": {"format": "jsonlines"}, STATES: STATE_OPTIONS}})
    assert run.code == 1
    assert run.lines("the item feed 'items.jsonl' has the same URI in every run")
    assert run.lines("items-%(run_id)s-%(batch_id)05d.jsonl")
    assert not (tmp_path / "data").exists()


# Stores without atomic create-only writes


def test_no_conditional_writes(world: World) -> None:
    """A crawl also writes to a store that answers 501 to create-only writes; one line of the log says what that means."""
    run = world.run(Fault("501", ".", count=inf))
    world.is_complete(run)
    assert {each.status for each in world.proxy.seen("^PUT ") if each.fault is None} == {200}
    refused = [each.request for each in world.proxy.seen("^PUT ") if each.fault == "501"]
    assert len(refused) >= 2, refused  # the opening; then the first batch
    assert len(run.lines("a second writer there is detected, not prevented")) == 1, run.log


@pytest.mark.parametrize("id", [3, 4], ids=["last checkpoint overwritten", "next id taken"])
def test_second_writer_without_conditional_writes(world: World, id: int) -> None:
    """There, a run notices another writer at its next commit, stops, and overwrites none of its files."""
    key, other = f"data/numbers/state/{id:010d}.json", b'[{"state": {"page": 7}}]'
    # Pages that take a second, so that the other writer comes between two commits.
    with world.start(Fault("501", ".", count=inf), page_seconds=1) as process:
        try:
            log = run_until(process, "checkpoint 3 stored")
            world.client.put_object(Bucket=world.bucket, Key=key, Body=other)
            log += process.communicate(timeout=40)[1]
        finally:
            process.kill()
    assert process.returncode == 76, log
    assert "'finish_reason': 'state_conflict'" in log
    assert world.client.get_object(Bucket=world.bucket, Key=key)["Body"].read() == other
    assert world.newest() == id
