"""The verbs that show: log, from-log."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from commands import DEADLINE_SECONDS, refused, run, start
from histories import History, state, zipped

pytestmark = pytest.mark.long


class TestLog:
    def test_runs(self, place: History) -> None:
        """Each run has a line with ids, run, job, items, end and state; the newest comes first."""
        killed, finished = place.run(3, reason=None), place.run(2)
        rows = [line.split("\t") for line in state(place, "log").out.splitlines()]
        assert [[row[0], row[1], *row[3:]] for row in rows] == [
            ["*", "5-7", finished, "1/2/3", "5 (+2)", "finished", '{"page": 5}'],
            ["*", "1-4", killed, "1/2/3", "3", "killed", '{"page": 3}'],
        ]

    def test_branches(self, history: History) -> None:
        """A run that began at an older checkpoint is a branch, and the tree shows it."""
        first, other, newest = history.run(3), history.run(2), history.run(1, reason=None, at=2)
        found = state(history, "log").out.splitlines()
        assert [line.split("\t")[0] for line in found] == ["*", "| o", "|/", "*"]
        assert [line.split("\t")[1] for line in found] == ["8-9 (after 2)", "5-7", "", "1-4"]
        assert "running or killed" in found[0]
        runs = state(history, "log", "--json").json
        assert [(each["run"], each["parent_id"], each["parent_run"], each["in_lineage"]) for each in runs] == [
            (newest, 2, first, True), (other, 4, first, False), (first, None, None, True),
        ]  # fmt: skip
        assert [each["may_be_alive"] for each in runs] == [True, False, False]

    def test_newest_only(self, history: History) -> None:
        """``-n`` limits the number of lines; ``--checkpoints`` prints a line for each checkpoint."""
        for _ in range(3):
            history.run(2)
        assert len(state(history, "log", "-n", "2").out.splitlines()) == 2
        ids = [line.split("\t")[0] for line in state(history, "log", "--checkpoints", "-n", "4").out.splitlines()]
        assert ids == ["9", "8", "7", "6"]
        assert [each["id"] for each in state(history, "log", "--checkpoints", "--json").json] == [*range(9, 0, -1)]

    def test_damaged(self, history: History) -> None:
        """A line names each file that is not a checkpoint, with the reason; the others are shown."""
        history.run(3)
        history.replace(2, b"torn")
        ran = state(history, "log", "--checkpoints")
        assert [line[0] for line in ran.out.splitlines()] == ["4", "3", "1"]
        assert "0000000002.json is skipped: it is not whole JSON" in ran.err


class TestFromLog:
    LOG = b"""2026-11-20 23:00:00 [scrapy_state.state] INFO: STATE {"page": 1} from the settings (priority default)
2026-11-20 23:01:00 [scrapy_state.state] INFO: checkpoint 2 stored: STATE {"page": 7}, items: 6, files: 1, seconds: 0.003
2026-11-20 23:02:00 [scrapy_state.state] DEBUG: state item {"page": 9}
"""

    def test_last_state(self, tmp_path: Path) -> None:
        """The last state from which it is safe to resume, in the last log that has one; logs may be compressed."""
        (tmp_path / "1.log").write_bytes(self.LOG)
        (tmp_path / "2.log.gz").write_bytes(zipped(self.LOG.replace(b'"page": 7', b'"page": 8')))
        (tmp_path / "3.log").write_text("nothing here")
        assert run(tmp_path, "from-log", "1.log").out == '{"page": 7}\n'
        assert run(tmp_path, "from-log", "1.log", "2.log.gz", "3.log").out == '{"page": 8}\n'
        refused(run(tmp_path, "from-log", "3.log"), 1, "no state", "3.log")
        refused(run(tmp_path, "from-log", "4.log"), 2, "4.log")

    @pytest.mark.parametrize("content", [LOG, zipped(LOG)], ids=["plain", "gzip"])
    def test_stdin(self, tmp_path: Path, content: bytes) -> None:
        """``-`` is the standard input."""
        process, _ = start(tmp_path, "from-log", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out, _ = process.communicate(content, DEADLINE_SECONDS)
        assert (process.returncode, out) == (0, b'{"page": 7}\n')
