"""P2, whole and immutable: no run ever overwrites a stored file, or deletes one that a checkpoint names.

On stores without atomic create-only writes a second writer is detected instead of prevented, and the log says so once.
"""

from __future__ import annotations

import signal
from math import inf
from pathlib import Path
from typing import Any

import pytest
from crawls import (
    STATE_OPTIONS,
    STATES,
    crawl,
    run_until,
    start,
)
from faulty import Fault
from faulty_crawls import World
from numbered_site import SITE_SPIDER


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
    assert first.returncode == 1
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
    assert process.returncode == 1, log
    assert "'finish_reason': 'state_conflict'" in log
    assert world.client.get_object(Bucket=world.bucket, Key=key)["Body"].read() == other
    assert world.newest() == id
