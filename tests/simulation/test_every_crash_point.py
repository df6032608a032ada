"""Whole crawls in virtual time, killed at every call of a store and at every step of the event loop."""

from __future__ import annotations

import re

import pytest
from any_spiders import SHAPES
from simulating import simulate

#: for each test some shapes, so that they take about the same time
_SHAPES = ("state_items,orphans,units,two_runs",)
#: What takes longer
_LONG = (
    "slow_parents,same,redirects,two_runs_requests",
    "second_crash,second_crash_requests",
    "stopped,stopped_requests,stopped_units",
    "redis_two_workers,redis_unreachable",
    "second_crash_units,redis",
    "batches,unreachable,unreachable_requests,unreachable_units,read_only",
)


def _counts(output: str) -> tuple[int, int, int]:
    match = re.search(r"^(\d+) crash points, (\d+) of them different, (\d+) bad$", output, re.MULTILINE)
    assert match, output
    points, tried, bad = map(int, match.groups())
    return points, tried, bad


@pytest.mark.parametrize("shapes", [*_SHAPES, *(pytest.param(each, marks=pytest.mark.campaign) for each in _LONG)])
def test_nothing_is_lost_whenever_the_process_dies(shapes: str) -> None:
    """P1 to P4: whenever the process dies, all that is stored is right, and further runs bring the crawl to its end."""
    code, output = simulate("--shapes", shapes)
    points, tried, bad = _counts(output)
    assert (code, bad) == (0, 0), output
    assert points > 1000, output
    assert tried > 30, output


def test_a_seed_repeats_exactly() -> None:
    """The same seed gives the same worlds, in another process, too: so the command that a failure prints repeats it."""
    outputs = [simulate("--shapes", "slow_parents", "--seed", "3", "--crash", crash)[1] for crash in ("0", "200", "200")]
    traces = [re.findall(r"trace (\w+)", output) for output in outputs]
    assert traces[0] == traces[1] == traces[2] != [], outputs
    assert all(", 1 different" in output for output in outputs[1:]), outputs


@pytest.mark.campaign
def test_any_spider() -> None:
    """The same for spiders of all shapes."""
    code, output = simulate("--shapes", ",".join(SHAPES), seconds=1200)
    assert (code, _counts(output)[2]) == (0, 0), output


@pytest.mark.campaign
def test_a_virtual_week() -> None:
    """In a crawl of a week, memory, open files and tasks stay as they are, and nothing is lost."""
    code, output = simulate("--soak", "168", seconds=1500)
    assert code == 0, output
    assert "168 virtual hours, 12096 pages" in output, output
