"""Runs the simulation in a process of its own: its clocks are virtual."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_TESTS = Path(__file__).parent.parent


def simulate(*arguments: str, seconds: float = 300) -> tuple[int, str]:
    """Run ``make simulate`` with *arguments*, for *seconds* at most; return its exit code and what it prints."""
    path = os.pathsep.join(map(str, (_TESTS, _TESTS / "support", _TESTS / "campaigns")))
    line = [sys.executable, str(_TESTS / "campaigns" / "simulate.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    return done.returncode, done.stdout + done.stderr
