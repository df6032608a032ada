"""P3, resume: a run starts from the newest valid checkpoint.

Torn, empty or foreign files are skipped with a warning. A store that is unreachable or forbidden never counts as empty: the
crawl refuses to start, with one clear error and a non-zero exit code. An explicit ``-s STATE=…`` always wins.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from crawls import ITEMS, SPIDER, STATE_OPTIONS, STATES, checkpoints, crawl, named_items
from numbered_site import SITE_SPIDER


def test_resumes(tmp_path: Path) -> None:
    """A second run starts from the first one's state, and the lineage names every item once."""
    first, second = crawl(tmp_path), crawl(tmp_path)
    assert (first.code, second.code) == (0, 0)
    assert first.lines("begins at 0 {}")
    assert second.lines("begins at 3 {'page': 3}")
    assert named_items(tmp_path) == [{"page": page, "n": n} for page in range(6) for n in range(2)]


def test_opening_checkpoint(tmp_path: Path) -> None:
    """Every writing run stores its opening checkpoint, with the state it starts from, and says how it ended."""
    crawl(tmp_path)
    crawl(tmp_path)
    reasons = [(each["reason"], each["state"]) for each in checkpoints(tmp_path) if each["reason"]]
    assert reasons == [("opened", {}), ("finished", {"page": 3}), ("opened", {"page": 3}), ("finished", {"page": 6})]


@pytest.mark.long
def test_explicit_state_wins(tmp_path: Path) -> None:
    """STATE on the command line beats the newest checkpoint; going back is marked as an overlap."""
    crawl(tmp_path)
    run = crawl(tmp_path, SPIDER, "-s", 'STATE={"page": 1}')
    assert run.lines("begins at 1 {'page': 1}")
    assert run.lines('STATE {"page": 1} from the settings (priority cmdline)')
    assert run.lines("(overlap)")
    opening = next(each for each in checkpoints(tmp_path) if each["overlap"])
    assert (opening["reason"], opening["state"]) == ("opened", {"page": 1})
    empty = crawl(tmp_path, SPIDER, "-s", "STATE=")
    assert empty.lines("begins at 4 {'page': 4}")


def test_state_setting_is_the_first_start(tmp_path: Path) -> None:
    """STATE in the project's settings is where to start while there is no checkpoint."""
    settings = {"STATE": {"page": 7}}
    first, second = crawl(tmp_path, settings=settings), crawl(tmp_path, settings=settings)
    assert first.lines('STATE {"page": 7} from the settings (priority project)')
    assert second.lines("begins at 10 {'page': 10}")


def test_refuses_to_start_when_unreachable(tmp_path: Path, numbered_site: Any) -> None:
    """A store that does not answer never counts as empty: no page is requested, the exit code is 1, one error says why."""
    feeds = {f"s3://bucket/{ITEMS}": {"format": "jsonlines"}, f"s3://bucket/{STATES}": STATE_OPTIONS}
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "the-secret", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    run = crawl(
        tmp_path,
        SITE_SPIDER,
        "-a",
        f"site={numbered_site.url}/",
        settings={**keys, "AWS_REGION_NAME": "us-east-1", "FEEDS": feeds},
    )
    assert run.code == 75
    assert run.lines("check AWS_ENDPOINT_URL")
    # Scrapy itself logs the settings, with this one in clear text
    assert [line for line in run.lines("the-secret") if "'AWS_SECRET_ACCESS_KEY': 'the-secret'" not in line] == []
    assert "Traceback" not in run.log
    assert not numbered_site.asked


def test_refuses_to_start_when_forbidden(tmp_path: Path, s3_settings: dict[str, str], numbered_site: Any) -> None:
    """If the bucket does not exist, or may not be read, the crawl refuses to start, before the first request."""
    feeds = {"s3://no-such-bucket/i/%(batch_time)s.jsonl": {}, f"s3://no-such-bucket/{STATES}": STATE_OPTIONS}
    feeds["s3://no-such-bucket/i/%(batch_time)s.jsonl"] = {"format": "jsonlines"}
    run = crawl(tmp_path, SITE_SPIDER, "-a", f"site={numbered_site.url}/", settings={**s3_settings, "FEEDS": feeds})
    assert run.code == 1
    assert run.lines("NoSuchBucket; check the bucket's name in the URI")
    assert not numbered_site.asked


def test_refuses_to_start_where_it_cannot_write(tmp_path: Path, numbered_site: Any) -> None:
    """If the opening checkpoint can't be stored, there is no first request."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/numbers").write_text("a file where the folder should be")
    run = crawl(tmp_path, SITE_SPIDER, "-a", f"site={numbered_site.url}/")
    assert run.code == 1
    assert run.lines("check the path in FEEDS")
    assert not numbered_site.asked


def test_torn_and_foreign_files_are_skipped(tmp_path: Path) -> None:
    """Torn, empty and foreign files are skipped with a warning for each; new ids come after theirs."""
    crawl(tmp_path)
    folder = tmp_path / "data/numbers/state"
    newest = sorted(folder.glob("*.json"))[-1]
    number = int(newest.stem)
    (folder / f"{number + 1:010d}.json").write_bytes(newest.read_bytes()[:100])
    (folder / f"{number + 2:010d}.json").write_bytes(b"")
    (folder / f"{number + 3:010d}.json").write_text('{"not": "ours"}')
    (folder / "README.txt").write_text("not a checkpoint's name at all")
    run = crawl(tmp_path)
    assert run.code == 0, run.log
    assert run.lines("begins at 3 {'page': 3}")
    assert [bool(run.lines(f"{number + more:010d}.json is skipped")) for more in (1, 2, 3)] == [True] * 3
    assert run.lines(f"checkpoint {number + 4} stored")


def test_checkpoint_with_another_parent_is_skipped(tmp_path: Path) -> None:
    """A checkpoint whose parent has been replaced is skipped: part of its lineage is not what it was."""
    crawl(tmp_path)
    newest = checkpoints(tmp_path)[-1]
    path = tmp_path / f"data/numbers/state/{newest['parent']:010d}.json"
    # Whole and valid, but another one, as a second writer would leave on a store that overwrites.
    path.write_text(json.dumps([{"state": {"page": 1}}]))
    run = crawl(tmp_path)
    assert run.lines(f"{newest['id']:010d}.json is skipped")
    assert run.lines("begins at 1 {'page': 1}")
