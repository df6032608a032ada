"""The verbs watch and check."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest
from commands import DEADLINE_SECONDS, read_terminal, start
from histories import History, state

from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.requests import Requests
from scrapy_state.model.times import format_time
from scrapy_state.model.totals import Totals

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

    def test_units_and_totals(self, history: History) -> None:
        """A line says how many units are done and missing, and what the lineage has cost."""
        history.chain(Checkpoint({}, crawl=1, ahead=("x",) * 56, missing_units=28, totals=Totals(5210, 12_000, 1_200_000)))
        said = state(history, "watch", "-n", "1").out
        assert "56 units done beyond the state, 28 missing" in said
        assert "5,210 responses and 1.2 MB of items in 3 h 20 min" in said

    def test_no_checkpoint_yet(self, history: History, tmp_path: Path) -> None:
        """Before the first checkpoint a line says that there is none, once."""
        process, _ = start(tmp_path, "watch", history.uri, "--every", "0.05", "-n", "1", stderr=subprocess.PIPE)
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith(b"no checkpoint yet at file:///")
            history.run(1)
            assert process.wait(DEADLINE_SECONDS) == 0
            assert process.stderr.read() == b""
            process.stderr.close()
        finally:
            process.kill()
            process.wait()

    def test_silence(self, history: History, tmp_path: Path) -> None:
        """On a terminal it shows for how long a crawl has been silent, instead of its old rates."""
        before = [f"2026-11-20T10:0{minute}:00.000Z" for minute in range(3)]
        history.chain(*(Checkpoint({"page": n}, time=time) for n, time in enumerate(before)))
        process, handle = start(tmp_path, "watch", history.uri, terminal=True)
        try:
            said = read_terminal(handle, "killed or stuck")
        finally:
            process.kill()
            process.wait()
            os.close(handle)
        assert "Nothing for" in said
        assert "a minute" not in said


class TestCheck:
    def test_recent(self, history: History) -> None:
        """If the newest checkpoint is recent, one line says so, and the exit code is 0."""
        history.run(2)
        ran = state(history, "check", "--max-age", "10m", "--max-failed", "0")
        assert (ran.code, ran.err) == (0, "")
        assert re.fullmatch(r"ok: checkpoint 3 \(\d+ s ago\), 2 items, 0 failed, finished\n", ran.out), ran.out

    def test_old(self, history: History) -> None:
        """If it is too old, or its age is unknown, the exit code is 1."""
        history.chain(Checkpoint({}, time="2026-11-20T10:00:00.000Z"))
        ran = state(history, "check", "--max-age", "10m", "--json")
        assert ran.code == 1
        assert not ran.json["ok"]
        assert ran.json["age_seconds"] > 600
        assert "--max-age is 10 min" in ran.json["problems"][0]
        history.chain(Checkpoint({}))
        assert state(history, "check", "--max-age", "10m").out.startswith("not ok: its age is unknown: ")

    def test_nothing(self, history: History) -> None:
        """If there is no checkpoint, one line says so, and the exit code is 1."""
        ran = state(history, "check", "--max-age", "10m")
        assert (ran.code, ran.out.startswith("not ok: no checkpoint at file:///")) == (1, True)

    def test_failed(self, history: History) -> None:
        """Failed pages, items and units count, also after the crawl is over; and so does a run that failed."""
        now = format_time(datetime.now(timezone.utc))
        requests = Requests(start={"state": {}, "ended": True}, failed=2, held=1)
        missing = ({"state": {}, "reason": "HTTP 500"}, {"state": {}, "reason": None})
        history.chain(
            Checkpoint({}, time=now, crawl=1, requests=requests),
            Checkpoint({}, time=now, crawl=1, errors=4, reason="finished", ended=True, missing=missing),
        )
        assert state(history, "check", "--max-age", "10m", "--max-failed", "8").code == 0
        ran = state(history, "check", "--max-age", "10m", "--max-failed", "7")
        assert (ran.code, ran.out.startswith("not ok: 8 failed, and --max-failed is 7: ")) == (1, True), ran.out
        assert state(history, "check", "--max-age", "10m").code == 0
        history.chain(Checkpoint({}, time=now, reason="state_store_failed"))
        ran = state(history, "check", "--max-age", "10m")
        assert (ran.code, ran.out.startswith("not ok: the last run failed (state_store_failed): ")) == (1, True)
