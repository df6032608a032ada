"""Mistakes planted in the package: does the simulation notice them?"""

from __future__ import annotations

import pytest
from simulating import simulate


@pytest.mark.long
def test_notices_planted_mistakes() -> None:
    """Each mistake in tests/simulation/mistakes.py is noticed within a few crawls, without that anybody looks for it."""
    code, output = simulate("--mistakes", "all")
    assert code == 0, output
    assert ", 0 not noticed" in output, output


def test_says_how_to_repeat_a_failure() -> None:
    """A failure prints the one command that repeats it, and that command does."""
    arguments = ("--shapes", "state_items", "--seed", "1", "--mistake", "commit_before_upload")
    code, output = simulate(*arguments)
    assert code == 1, output
    again = next(line for line in output.splitlines() if "--crash" in line and "--crash 0" not in line)
    crash = again.partition("--crash ")[2].split()[0]
    assert f"again: make simulate ARGS='--shapes state_items --seed 1 --crash {crash} --mistake commit_before_upload" in again
    code, output = simulate(*arguments, "--crash", crash)
    assert code == 1, output
    assert "which is not there" in output
