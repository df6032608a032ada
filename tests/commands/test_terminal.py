"""How the command prints, asks and stops on a terminal and in a pipe."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import DEADLINE_SECONDS, read_terminal, start
from histories import History, state

from scrapy_state.commands.terminal import out_json, out_json_list, table

pytestmark = pytest.mark.long


class TestTerminal:
    def test_table(self, history: History, tmp_path: Path) -> None:
        """A table has headings and colour on a terminal, and neither elsewhere."""
        history.run(2)
        process, terminal = start(tmp_path, "log", history.uri, terminal=True)
        shown = read_terminal(terminal)
        assert process.wait(DEADLINE_SECONDS) == 0
        os.close(terminal)
        assert "\x1b[1m" in shown
        assert "began (UTC)" in shown
        assert "finished" in shown
        assert "\x1b" not in state(history, "log").out

    def test_narrow_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On 80 columns a table keeps whole what must be whole, leaves out what is empty or spare, and cuts the last column."""

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        shown = Terminal()
        monkeypatch.setattr("sys.stdout", shown)
        monkeypatch.setenv("COLUMNS", "80")
        ids = [f"20261101T00000{number}-abc00{number}" for number in range(3)]
        columns = ("=ids", "began", "=run", "job", ">items", "ended", "state")
        rows = [("10-12 (after 9)", "2026-11-21 20:13:46", id, "", "1,410 (+2)", "running or killed", "x" * 500) for id in ids]
        table(columns, rows, spare="began")
        text = shown.getvalue()
        assert all(id in text for id in ids)
        assert text.count("10-12 (after 9)") == 3
        assert "began" not in text
        assert "job" not in text
        assert "…" in text
        assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())) <= 80

    @pytest.mark.parametrize("on_terminal", [False, True])
    @pytest.mark.parametrize("values", [[], [{}], [{"a": "é\n", "b": [1, 2]}, 3, ["x"]]])
    def test_json_list(self, values: list[Any], on_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """A list that is printed piece by piece looks like one that is printed at once."""
        shown = []
        for print_it in (out_json, out_json_list):
            stream = io.StringIO()
            stream.isatty = lambda: on_terminal  # type: ignore[method-assign]
            monkeypatch.setattr("sys.stdout", stream)
            print_it(values)
            shown.append(stream.getvalue())
        assert shown[0] == shown[1]

    def test_asks(self, history: History, tmp_path: Path) -> None:
        """On a terminal the command asks before it deletes, and an empty answer means no."""
        killed = history.run(2, reason=None)
        history.run(1)
        history.file(f"{killed}-00009.jsonl", b"{}\n", 1)
        for answer, code in ((b"\n", 1), (b"y\n", 0)):
            process, terminal = start(tmp_path, "orphans", "--delete", history.uri, terminal=True)
            assert "Delete 1 file?" in read_terminal(terminal, "[y/N]")
            assert len(history.item_keys()) == 4
            os.write(terminal, answer)
            read_terminal(terminal)
            assert process.wait(DEADLINE_SECONDS) == code
            os.close(terminal)
        assert len(history.item_keys()) == 3

    def test_interrupted(self, history: History, tmp_path: Path) -> None:
        """Ctrl-C ends it with one line and exit code 130, without a trace."""
        history.run(1)
        process, terminal = start(tmp_path, "watch", history.uri, terminal=True)
        assert "checkpoint" in read_terminal(terminal, "checkpoint")
        process.send_signal(signal.SIGINT)
        shown = read_terminal(terminal)
        assert process.wait(DEADLINE_SECONDS) == 130
        os.close(terminal)
        assert "stopped" in shown
        assert "Traceback" not in shown

    def test_head(self, history: History, tmp_path: Path) -> None:
        """If the reader of the output goes away (``| head``), the command prints no error."""
        history.named(*[history.file("1.jsonl", b'{"n": 0}\n' * 1000, 1000)] * 200)
        process, _ = start(tmp_path, "items", "--cat", history.uri, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'{"n": 0}\n'
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(DEADLINE_SECONDS) == 141
