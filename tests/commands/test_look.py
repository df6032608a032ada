"""The verbs that show: log, from-log."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from commands import DEADLINE_SECONDS, refused, run, start
from histories import History, state, zipped

from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.requests import Requests

pytestmark = pytest.mark.long

ENDED = {"state": {}, "ended": True}
REQUESTS = Requests(start=ENDED, pending=1240, in_flight=12, seen=5213)


class TestShow:
    """How the next run continues. Only the checkpoints are read, never the segments."""

    @pytest.mark.parametrize(
        ("checkpoint", "line", "how"),
        [
            (
                Checkpoint({"n": 1}, crawl=2, requests=REQUESTS),
                "the next run continues with 1,240 pending requests (12 of them were in flight), 5,213 seen; start() had ended",
                "requests",
            ),
            (
                Checkpoint({"n": 1}, crawl=1, requests=Requests(start={"state": {"n": 0}, "ended": False}), reason="shutdown"),
                'the next run continues with 0 pending requests, 0 seen; start() begins again from STATE {"n": 0}',
                "requests",
            ),
            (Checkpoint({"n": 1}, crawl=1), "the next run continues with start() from this state", "state"),
            (Checkpoint({"n": 1}, crawl=1, reason="shutdown"), "the next run continues with start() from this state", "state"),
            (Checkpoint({"n": 1}, crawl=1, reason="set"), "the next run continues with start() from this state", "state"),
            (
                Checkpoint({"n": 1}, crawl=1, reason="finished", ended=True),
                "crawl 1 is over (finished): the next run begins a new crawl, with start() from this state",
                "new crawl",
            ),
            (
                Checkpoint({"n": 1}, crawl=4, reason="nothing new", ended=True),
                "crawl 4 is over (nothing new): the next run begins a new crawl, with start() from this state",
                "new crawl",
            ),
        ],
        ids=["requests", "start", "state item", "shutdown", "set", "finished", "own reason"],
    )
    def test_how_the_next_run_continues(self, history: History, checkpoint: Checkpoint, line: str, how: str) -> None:
        """A line says whether the next run continues with requests or with start(), or begins a new crawl."""
        history.chain(checkpoint)
        state_line, *lines = state(history, "show").out.splitlines()
        page = 0 if "begins again" in line else 1
        assert state_line.startswith(f'STATE {{"n": {page}}} from checkpoint 1 (')
        assert lines == [line]
        found = state(history, "show", "--json").json["next_run"]
        assert found["continues_with"] == how
        assert found["crawl"] == (checkpoint.crawl or 0) + (how == "new crawl")
        assert found["start_state"] == (None if "had ended" in line else {"n": page})

    def test_failed_and_held(self, history: History) -> None:
        """If pages have failed, a line counts them and names the verb that lists them."""
        history.chain(Checkpoint({}, crawl=1, requests=replace(REQUESTS, failed=1, held=2)))
        assert state(history, "show").out.splitlines()[2] == (
            "1 page failed, 2 held for the next run: see scrapy state frontier --failed"
        )
        history.chain(Checkpoint({}, crawl=1, requests=replace(REQUESTS, held=2)))
        assert "2 pages held for the next run: see" in state(history, "show").out
        found = state(history, "show", "--at", "1", "--json").json["next_run"]
        assert (found["failed"], found["held"], found["pending"], found["in_flight"]) == (1, 2, 1240, 12)

    @pytest.mark.parametrize("given", [["--lag", '{"n": 1}'], ["-s", "STATE_REQUESTS=False"]], ids=["lag", "off"])
    def test_left_behind(self, history: History, given: list[str]) -> None:
        """A run that starts from another state, or takes no requests, leaves them behind, and a line says how many."""
        history.chain(Checkpoint({"n": 1}, crawl=1, requests=REQUESTS))
        assert state(history, "show", *given).out.splitlines()[1] == (
            "the next run continues with start() from this state; 1,240 pending requests of checkpoint 1 are left behind"
        )
        found = state(history, "show", "--json", *given).json["next_run"]
        assert (found["continues_with"], found["left_behind"], found["pending"]) == ("state", 1240, None)

    def test_before_crawls_were_counted(self, history: History) -> None:
        """Nothing is added to what is printed for a checkpoint from before crawls were counted: it can't be known."""
        history.chain(Checkpoint({"n": 1}, reason="finished"))
        assert len(state(history, "show").out.splitlines()) == 1


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

    def test_requests_long_ago(self, history: History) -> None:
        """What only an older checkpoint of a run has counted is not shown for the run: it is out of date."""
        history.chain(Checkpoint({}, crawl=1, requests=REQUESTS), *[Checkpoint({}, crawl=1)] * 2)
        assert len(state(history, "log").out.splitlines()[0].split("\t")) == 8
        assert state(history, "log", "--json").json[0]["seen"] is None

    def test_requests(self, history: History) -> None:
        """If any checkpoint has requests, columns show the crawl, and how many requests are pending, seen and failed."""
        history.chain(Checkpoint({}, crawl=1), Checkpoint({}, crawl=1, reason="finished", ended=True), run="r1")
        for rows in (state(history, "log"), state(history, "log", "--checkpoints")):
            assert len(rows.out.splitlines()[0].split("\t")) in (7, 8)
        history.chain(
            Checkpoint({}, crawl=2, requests=replace(REQUESTS, failed=3, held=1)),
            Checkpoint({}, crawl=2, reason="finished", ended=True),
            run="r2",
        )
        history.chain(Checkpoint({}, crawl=3, requests=REQUESTS), run="r3")
        rows = [line.split("\t")[6:-1] for line in state(history, "log").out.splitlines()]
        assert rows == [
            ["3", "1,240", "5,213", "0", "running or killed"],
            ["2", "", "5,213", "4", "finished"],
            ["1", "", "", "", "finished"],
        ]
        rows = [line.split("\t")[5:-1] for line in state(history, "log", "--checkpoints", "-n", "3").out.splitlines()]
        assert rows == [["3", "1,240", "5,213", "0", ""], ["2", "", "", "", "finished"], ["2", "1,240", "5,213", "4", ""]]
        runs = state(history, "log", "--json").json
        assert [(each["crawl"], each["pending"], each["seen"], each["failed"], each["held"]) for each in runs] == [
            (3, 1240, 5213, 0, 0), (2, None, 5213, 3, 1), (1, None, None, None, None),
        ]  # fmt: skip


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
