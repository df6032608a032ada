"""How the command prints, asks and stops on a terminal and in a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from commands import DEADLINE_SECONDS, read_terminal, start
from histories import History, state

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
        assert "a minute" in read_terminal(terminal, "a minute")
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
