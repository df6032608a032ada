"""P8, any spider: one that knows nothing of this package loses no item, and yields none twice, however its runs end.

Crawls of spiders of many shapes (tests/support/any_spiders.py), each killed at seeded moments.
tests/campaigns/chaos_requests.py makes up more of them.
"""

from pathlib import Path
from typing import Any

import pytest
from any_spiders import SHAPES
from chaos_requests import Scenario, run

QUICK = [
    Scenario(1, "crawl", 200, delay=0.05),
    Scenario(2, "listings", 200, delay=0.05, interval=0),
    Scenario(3, "same", 200, delay=0.05, interval=0.1),
    Scenario(4, "slow_start", 200, delay=0.05),
]
#: One page after the other. All of these are slow enough for checkpoints with requests.
SEQUENTIAL = ("pagination", "closes", "api")
OTHER_ENDS = ("early", "sigterm", "sigterm twice", "kill")


def long_scenario(seed: int, shape: str, **chosen: Any) -> Scenario:
    return Scenario(seed, shape, SHAPES[shape].size, delay=0.02 if shape in SEQUENTIAL else 0.1, **chosen)


LONG = [
    *(long_scenario(100 + number, name) for number, name in enumerate(SHAPES) if not SHAPES[name].clean),
    *(
        pytest.param(long_scenario(200 + number, name, interval=0, ends=OTHER_ENDS), marks=pytest.mark.campaign)
        for number, name in enumerate(list(SHAPES)[::3])
    ),
]


def crawl_and_check(scenario: Scenario, folder: Path) -> None:
    outcome = run(scenario, folder)
    print(f"{scenario}\n{outcome}\nthe logs: {folder}/*.log")
    assert not outcome.wrong
    assert outcome.kills
    if "late" in scenario.ends:
        assert outcome.report.with_requests


@pytest.mark.parametrize("scenario", QUICK, ids=lambda each: each.shape)
def test_killed_crawls_name_each_item_once(scenario: Scenario, tmp_path: Path) -> None:
    """Killed three times and left to finish, the crawl names each item exactly once, and each checkpoint only whole pages."""
    crawl_and_check(scenario, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("scenario", LONG, ids=lambda each: f"{each.shape}-{each.ends[0]}")
def test_no_shape_loses_or_doubles_an_item(scenario: Scenario, tmp_path: Path) -> None:
    """The same for every shape, and for some in runs that end in other ways; `make chaos-requests` has the others."""
    crawl_and_check(scenario, tmp_path)


@pytest.mark.long
def test_state_items_that_are_clean_need_no_requests(tmp_path: Path) -> None:
    """A spider whose state items are all places to resume from gets the checkpoints that it has without requests."""
    outcome = run(Scenario(7, "api", 100, interval=0.2, ends=("kill",) * 3), tmp_path)
    assert not outcome.wrong
    later = [each for each in outcome.report.checkpoints if each["reason"] != "opened"]
    assert len(later) > 3
    assert not any("requests" in each for each in later)
