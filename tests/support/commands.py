"""``scrapy state …`` for tests: each command line runs in its own process, but does not spend a second importing Scrapy.

A process that has imported Scrapy forks for each command line (:func:`run`). :func:`start` starts a real one, on a terminal
if that is asked for.
"""

from __future__ import annotations

import atexit
import json
import os
import pty
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 60


@dataclass
class Ran:
    """The outcome of a command line."""

    code: int
    out: str
    err: str
    #: the most memory it had, in bytes
    peak: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Ran:
    """Run ``scrapy state`` with *arguments* in *folder* until it ends; its stdin is empty."""
    fork = _server()
    assert fork.stdin is not None
    assert fork.stdout is not None
    with tempfile.TemporaryDirectory() as outputs:
        asked = {"arguments": arguments, "folder": str(folder), "outputs": outputs, "environment": dict(environment or {})}
        fork.stdin.write(json.dumps(asked) + "\n")
        fork.stdin.flush()
        code, peak = json.loads(fork.stdout.readline())
        out, err = ((Path(outputs) / name).read_text() for name in ("out", "err"))
    return Ran(code, out, err, peak)


def refused(ran: Ran, code: int, *texts: str) -> None:
    """Assert that a command line ended with *code*, and with one line on stderr that has all of *texts*."""
    assert ran.code == code, ran
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1, ran.err
    assert "Traceback" not in ran.err
    for text in texts:
        assert text in ran.err


def start(folder: Path, *arguments: str, terminal: bool = False, **options: Any) -> tuple[subprocess.Popen[bytes], int]:
    """Start a real ``python -m scrapy state``; with *terminal*, all of its output comes from the handle returned beside it."""
    command = [sys.executable, "-m", "scrapy", "state", *arguments]
    environment = {**os.environ, "PYTHONWARNINGS": "", "PYTHONPATH": _python_path(folder), "TERM": "xterm", "COLUMNS": "200"}
    if not terminal:
        return subprocess.Popen(command, cwd=folder, env=environment, **options), -1
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, **options
    )
    os.close(theirs)
    return process, ours


def read_terminal(handle: int, until: str = "") -> str:
    """Read what a terminal shows, up to *until* or to the end."""
    shown = b""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not until or until.encode() not in shown:
        ready, _, _ = select.select([handle], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"after {DEADLINE_SECONDS} s the terminal still shows only {shown!r}"
        try:
            more = os.read(handle, 4096)
        except OSError:  # the other side is closed
            break
        if not more:
            break
        shown += more
    return shown.decode()


def _python_path(folder: Path | str) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


@cache
def _server() -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONWARNINGS": ""}
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdin is not None
    atexit.register(process.wait)
    atexit.register(process.stdin.close)
    return process


def _serve() -> None:
    # What the commands would import
    import boto3.session  # noqa: F401
    import botocore.client  # noqa: F401
    import scrapy.cmdline
    from scrapy.settings import Settings
    from scrapy.utils.misc import load_object, walk_modules_iter

    import scrapy_state.feedexport  # noqa: F401

    list(walk_modules_iter("scrapy_state.commands"))
    scrapy.cmdline._get_commands_dict(Settings(), inproject=True)
    for path in Settings()["EXTENSIONS_BASE"]:
        load_object(path)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            _be_the_command(asked, scrapy.cmdline.execute)
        _, status, usage = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        sys.stdout.write(json.dumps([code, usage.ru_maxrss * 1024]) + "\n")
        sys.stdout.flush()


def _be_the_command(asked: Any, execute: Any) -> None:
    os.chdir(asked["folder"])
    os.environ.update(asked["environment"])
    sys.path.insert(0, asked["folder"])
    for number, name in enumerate(("/dev/null", "out", "err")):
        os.dup2(os.open(os.path.join(asked["outputs"], name), os.O_RDWR | os.O_CREAT, 0o600), number)
    code = 1
    try:
        execute(["scrapy", "state", *asked["arguments"]])
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
