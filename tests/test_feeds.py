"""What a user learns about a feed that can't be used, or that takes no part in checkpoints, in real crawls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from crawls import FEEDS, ITEMS, SPIDER, STATE_OPTIONS, STATES, crawl, named_items


def test_command_line_feed_is_left_out(tmp_path: Path) -> None:
    """A feed that -o adds takes no part in checkpoints, and one line says so; the other feeds do."""
    run = crawl(tmp_path, SPIDER, "-o", "out.jsonl")
    assert run.code == 0, run.log
    assert len(run.lines("the feed out.jsonl takes no part in checkpoints")) == 1
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 6
    assert len(named_items(tmp_path)) == 6


@pytest.mark.long
def test_state_feed_template(tmp_path: Path) -> None:
    """If a state feed's URI can't be written to, the error shows the right template."""
    for template in (
        "state/%(time)s.json",
        "state/%(batch_id)d.json",
        "state/%(run_id)s/%(batch_id)05d.json",
        "state/one.json",
    ):
        run = crawl(tmp_path, settings={"FEEDS": {ITEMS: {"format": "jsonlines"}, template: STATE_OPTIONS}})
        assert run.code == 1
        assert run.lines("%(batch_id)010d.json"), run.log


def test_custom_settings_state_feed_and_o(tmp_path: Path) -> None:
    """-o hides a state feed in custom_settings: the run says so."""
    source = SPIDER + f"\n    custom_settings = {{'FEEDS': {json.dumps(FEEDS)}}}\n"
    run = crawl(tmp_path, source, "-o", "out.jsonl", settings={"FEEDS": {}})
    assert run.code == 0, run.log
    assert run.lines("the state feed in the spider's custom_settings is not there")


def test_credentials_never_appear(tmp_path: Path, bucket: str, s3_settings: dict[str, str]) -> None:
    """Credentials in a feed's URI reach neither the log nor a checkpoint."""
    at = f"s3://access-in-uri:secret-in-uri@{bucket}"
    feeds = {f"{at}/{ITEMS}": {"format": "jsonlines"}, f"{at}/{STATES}": STATE_OPTIONS}
    settings = {name: value for name, value in s3_settings.items() if "KEY" not in name}
    # Scrapy itself logs the overridden settings, not FEEDS: nothing else may say them.
    runs = [crawl(tmp_path, settings={**settings, "FEEDS": feeds}) for _ in range(2)]
    assert [run.code for run in runs] == [0, 0], runs[0].log
    assert runs[1].lines("begins at 3")
    for run in runs:
        lines = [line for line in run.log.splitlines() if "secret-in-uri" in line and "Overridden" not in line]
        assert not [line for line in lines if "scrapy_state" in line]
        assert not lines
