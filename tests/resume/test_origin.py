"""Where a run's state came from, in the words of the log."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from scrapy.settings import Settings

from scrapy_state.lineage.resolution import Resolution
from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.resume.origin import describe, differences
from scrapy_state.settings import StateSettings


def checkpoint(id: int | None, time: str | None = None) -> Checkpoint:
    return Checkpoint(state={"page": id}, id=id, run="r1", time=time)


@pytest.mark.parametrize("zone", [timezone.utc, timezone(timedelta(hours=2)), None])
def test_age(zone: timezone | None) -> None:
    """The age is right in any zone; a time without one is UTC."""
    made = (datetime.now(zone or timezone.utc) - timedelta(hours=3, minutes=20)).replace(tzinfo=zone)
    assert (
        describe(Resolution(checkpoint(5, made.isoformat()), "s3://b/5")) == "checkpoint 5 (s3://b/5, run r1, 3 h 20 min old)"
    )


@pytest.mark.parametrize("time", [None, "", "yesterday"])
def test_no_age(time: str | None) -> None:
    """A checkpoint without a readable time has no age; one without an id is called a state file."""
    assert describe(Resolution(checkpoint(5, time), "s3://b/5")) == "checkpoint 5 (s3://b/5, run r1)"
    assert describe(Resolution(checkpoint(None, time), "s3://b/5")) == "the state file s3://b/5"


@pytest.mark.parametrize(
    ("settings", "resolution", "expected"),
    [
        ({}, Resolution(checkpoint(5), "u", newest=checkpoint(5)), ""),
        ({}, Resolution(), ""),
        ({"STATE_AT": 5}, Resolution(checkpoint(5), "u", newest=checkpoint(8)), "; 3 newer skipped (STATE_AT is 5)"),
        ({"STATE_AT": "none"}, Resolution(newest=checkpoint(8)), "; 8 newer skipped (STATE_AT is none)"),
        (
            {"STATE_LAG": {"page": 1}},
            Resolution(checkpoint(5), "u", skipped=(("u9", "it is empty"),), newest=checkpoint(5), skipped_count=1200),
            '; 1,200 newer skipped (not valid); less STATE_LAG {"page": 1}',
        ),
    ],
)
def test_differences(settings: dict[str, Any], resolution: Resolution, expected: str) -> None:
    """The line names what the run does not start from, with the reason, and STATE_LAG."""
    assert differences(StateSettings.from_settings(Settings(settings)), resolution) == expected
