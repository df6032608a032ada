"""P4, exactly once, by lineage: the files that the newest checkpoint and its ancestors name contain every item exactly once.

Going back on purpose (an explicit STATE, STATE_LAG) is marked as an overlap. tests/export/test_model.py tries many more
histories of runs, without a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crawls import ITEMS, SPIDER, STATE_OPTIONS, STATES, checkpoints, crawl, crawl_until, kill_beside_unnamed_files, named_items
from oracle import Feed, Report, check, csv_gz_keys, jsonlines_keys, local_files

GZIP = ["scrapy.extensions.postprocessing.GzipPlugin"]


SPIDER_OF_KEYS = """
import asyncio, scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        for page in range(self.state.get("page", 0), int(self.pages)):
            for number in range(3):
                yield {"key": f"{page}-{number}"}
            yield StateItem({"page": page + 1})
            await asyncio.sleep(0.01)
"""
KILLS, LAST_PAGES = 3, 10


def test_killed_and_resumed(tmp_path: Path) -> None:
    """Each run is killed when it has stored item files that no checkpoint names yet. In the end no item is missing or double.

    The unnamed files stay where they are; what they hold is also in files that are named.
    """
    csv = {"data/%(name)s/csv/%(run_id)s-%(batch_id)05d.csv.gz": {"format": "csv", "postprocessing": GZIP}}
    feeds = {ITEMS: {"format": "jsonlines", "batch_item_count": 2}, STATES: STATE_OPTIONS, **csv}
    settings = {"FEEDS": feeds, "STATE_INTERVAL": 0.2, "LOG_LEVEL": "INFO"}
    places = {
        "items": Feed(f"{tmp_path}/data/numbers/items/", jsonlines_keys),
        "csv": Feed(f"{tmp_path}/data/numbers/csv/", csv_gz_keys),
    }

    def expected(state: dict[str, Any]) -> dict[str, list[str]]:
        keys = [f"{page}-{number}" for page in range(state.get("page", 0)) for number in range(3)]
        return {"items": keys, "csv": keys}

    def report() -> Report:
        found = check(local_files(tmp_path / "data"), f"{tmp_path}/data/numbers/state/", places, expected)
        assert found.wrong == []
        return found

    newest = 0
    for _ in range(KILLS):
        crawl_until(
            tmp_path, f"checkpoint {newest + 3} stored", SPIDER_OF_KEYS, "-a", "pages=100000", settings=settings,
            end=lambda process: kill_beside_unnamed_files(process, tmp_path),
        )  # fmt: skip
        newest = checkpoints(tmp_path)[-1]["id"]
    pages = report().state["page"] + LAST_PAGES
    orphans = report().orphans
    run = crawl(tmp_path, SPIDER_OF_KEYS, "-a", f"pages={pages}", settings=settings)
    assert run.code == 0, run.log
    assert report().state == {"page": pages}
    assert report().orphans == orphans
    assert len(orphans) >= KILLS
    again = {key for each in orphans if each.endswith(".jsonl") for key in jsonlines_keys(Path(each).read_bytes())}
    assert again <= set(expected({"page": pages})["items"])


@pytest.mark.long
def test_branches(tmp_path: Path) -> None:
    """STATE_AT starts from an older checkpoint: each branch then names every item exactly once, and the other stays as it is.

    The log says which checkpoint was chosen, how old it is, and how many newer ones were skipped and why.
    """
    crawl(tmp_path, SPIDER, "-a", "pages=2")
    crawl(tmp_path, SPIDER, "-a", "pages=1")
    before = {each["id"]: each for each in checkpoints(tmp_path)}
    chosen = next(id for id, each in before.items() if each["state"] == {"page": 2} and each["reason"] == "finished")
    run = crawl(tmp_path, SPIDER, "-s", f"STATE_AT={chosen}")
    assert run.lines("begins at 2 {'page': 2}")
    [line] = run.lines('STATE {"page": 2} from checkpoint')
    assert f"from checkpoint {chosen} (file://" in line
    assert f" s old); {max(before) - chosen} newer skipped (STATE_AT is {chosen})" in line
    after = {each["id"]: each for each in checkpoints(tmp_path)}
    assert after.items() >= before.items()
    assert (after[max(before) + 1]["parent"], after[max(before) + 1]["overlap"]) == (chosen, False)
    assert named_items(tmp_path) == [{"page": page, "n": n} for page in range(5) for n in (0, 1)]

    fresh = crawl(tmp_path, SPIDER, "-s", "STATE_AT=none")
    assert fresh.lines("begins at 0 {}")
    assert fresh.lines(f"STATE {{}} from the settings (priority default); {max(after)} newer skipped (STATE_AT is none)")
    assert named_items(tmp_path) == [{"page": page, "n": n} for page in range(3) for n in (0, 1)]

    beyond = crawl(tmp_path, SPIDER, "-s", "STATE_AT=-99")
    assert beyond.code == 1
    assert beyond.lines("ERROR: the crawl does not start: STATE_AT: no checkpoint under file://")


@pytest.mark.long
def test_state_lag_is_an_overlap(tmp_path: Path) -> None:
    """STATE_LAG starts a bit before the checkpoint, which is marked as an overlap; without a checkpoint it does nothing."""
    settings = {"STATE_LAG": {"page": 1}}
    first, second = crawl(tmp_path, settings=settings), crawl(tmp_path, settings=settings)
    assert first.lines("begins at 0 {}")
    assert second.lines("begins at 2 {'page': 2}")
    assert second.lines(' s old); less STATE_LAG {"page": 1}')
    assert any(each["overlap"] and each["state"] == {"page": 2} for each in checkpoints(tmp_path))
    wrong = crawl(tmp_path, settings={"STATE_LAG": {"t": 1}})
    assert wrong.code == 1
    assert wrong.lines("ERROR: the crawl does not start: STATE_LAG names 't', but the state has no such field")
