"""P1, never ahead of the data: once a checkpoint can be read, everything before it is exported or dropped, and durable.

Crawls that are killed at seeded moments, in chosen scenarios; tests/campaigns/chaos.py makes up more of them.
"""

from pathlib import Path

import pytest
from chaos import Scenario, run

KILLS = ("kill",) * 4
#: Any two values of two fields occur together in some scenario, as far as they can.
SCENARIOS = [
    Scenario(11, "same", "none", False, False, 0, "", 0, 100, ends=KILLS),
    Scenario(12, "confirm", "sync", True, True, 3, "class", 0.05, 4, ends=("kill", "opening", "kill", "sigterm")),
    Scenario(13, "early", "async", True, False, 3, "filter", 0, 100, ends=("kill", "sigterm twice", "kill", "closing")),
    Scenario(14, "confirm", "async", False, True, 0, "class", 0, 4, ends=("kill", "kill", "sigterm twice", "kill")),
    Scenario(15, "early", "sync", True, True, 0, "", 0.05, 100, ends=("opening", "kill", "kill", "closing")),
    Scenario(16, "same", "async", True, True, 3, "", 0.05, 4, s3=True, pages=20, ends=("kill", "opening", "kill", "closing")),
    Scenario(17, "confirm", "none", False, False, 3, "filter", 0, 100, s3=True, pages=15, ends=KILLS),
    Scenario(18, "early", "sync", True, False, 0, "class", 0, 4, s3=True, pages=20, ends=("kill", "sigterm", "kill", "kill")),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: f"{each.seed}-{'s3' if each.s3 else 'local'}-{each.callback}")
def test_no_kill_loses_or_doubles_an_item(scenario: Scenario, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """However its runs end, every checkpoint names just the items before its state, and the last run completes them."""
    store = [request.getfixturevalue(name) for name in ("bucket", "s3_client", "s3_settings")] if scenario.s3 else []
    outcome = run(scenario, tmp_path, *store)
    print(f"{scenario}\n{outcome}\nthe logs: {tmp_path}/*.log")
    assert not outcome.wrong
    assert outcome.kills == len(scenario.ends)
