"""The verb watch."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from commands import DEADLINE_SECONDS, start
from histories import History, state

from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.requests import Requests

pytestmark = pytest.mark.long


class TestWatch:
    def test_new_checkpoints(self, history: History, tmp_path: Path) -> None:
        """``watch`` prints a line with the rates for each new checkpoint, as soon as it is stored."""
        history.run(2)
        process, _ = start(tmp_path, "watch", history.uri, "--every", "0.05", "-n", "3", stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert b"checkpoint 3 (" in process.stdout.readline()
            history.run(1)
            seen = process.stdout.read().decode().splitlines()
            process.stdout.close()
            assert [line.split(" (")[0] for line in seen] == ["checkpoint 4", "checkpoint 5"]
            assert "items/min" in seen[0]
            assert process.wait(DEADLINE_SECONDS) == 0
        finally:
            process.kill()
            process.wait()

    def test_json(self, history: History) -> None:
        """``--json`` prints a line of JSON for each checkpoint."""
        history.run(2)
        found = state(history, "watch", "--json", "-n", "1").json
        assert (found["id"], found["state"]) == (3, {"page": 2})
        assert found["items_per_minute"] >= 0

    def test_requests(self, history: History) -> None:
        """A line says how many requests are pending, seen and failed, if the checkpoint has any."""
        requests = Requests(start={"state": {}, "ended": True}, pending=1240, seen=5213, failed=2, held=1)
        history.chain(Checkpoint({}, crawl=1, requests=requests))
        assert "checkpoints/min, 1,240 pending, 5,213 seen, 3 failed\n" in state(history, "watch", "-n", "1").out
        assert state(history, "watch", "--json", "-n", "1").json["requests"]["pending"] == 1240
