"""Runs the commands of the README and of the tutorial as a reader would: the pages' own text, in bash.

Also a program, which needs nothing but the standard library here, and a ``scrapy`` beside the Python that it is given:
``python tests/support/shell_pages.py path/to/bin`` runs the quick start of the README and of the tutorial with it.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from doc_pages import block, blocks

DEADLINE_SECONDS = 200
TUTORIAL = "docs/tutorial.md"


class Shell:
    """One bash after another in *folder*, which remember where they are. *bin_folder* comes first on PATH."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._where = str(folder)
        self._where_file = folder / ".where"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))},
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, command: str) -> tuple[int, str, str]:
        """Run *command*, with our port in the place of 8000; return its exit code, stdout and stderr.

        ``timeout -s SIGNAL 7 …`` sends the signal after three checkpoints, however fast the machine is.
        """
        command = command.replace("8000", str(self.port))
        timed = re.match(r"timeout (?:--foreground )?-s (\w+) \d+ (.*)", command)
        script = f"exec {timed[2]}" if timed else f"{command}\ncode=$?\npwd > {self._where_file}\nexit $code"
        with (self.folder / ".out").open("w+") as out, (self.folder / ".err").open("w+") as err:
            process = subprocess.Popen(["bash", "-c", script], cwd=self._where, env=self._environment, stdout=out, stderr=err)
            try:
                if timed:
                    self._wait_for_checkpoints(process, 3)
                    process.send_signal(getattr(signal, f"SIG{timed[1]}"))
                code = process.wait(DEADLINE_SECONDS)
            finally:
                process.kill()
                process.wait()
        if not timed:
            self._where = self._where_file.read_text().strip()
        return code, (self.folder / ".out").read_text(), (self.folder / ".err").read_text()

    def _wait_for_checkpoints(self, process: subprocess.Popen[bytes], number: int) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (log := (self.folder / ".err").read_text()).count(" stored: STATE ") < number:
            _check(process.poll() is None and time.monotonic() < deadline, f"no {number} checkpoints:\n{log}")
            time.sleep(0.05)

    def run_block(self, text: str) -> None:
        """Run the commands of a block; what the page shows below a command that prints to stdout must be what it prints."""
        for command, shown in _commands(text):
            code, out, err = self.run(command)
            expected = [line for line in shown if not line.startswith(("INFO: ", "...", "Killed"))]
            # How many pages were fetched twice, or came before SIGTERM, is not the same each time.
            if "--cat |" in command or "verify" in command:
                got = [re.sub(r"\s+", "", line) if line.strip().isdecimal() else line for line in out.splitlines()]
                _check(_about(expected) == _about(got), f"$ {command}\nshown {expected}, printed {got}\n{err}")
            _check(code == (-signal.SIGKILL if "timeout -s KILL" in command else 0), f"$ {command}\nended with {code}\n{err}")
            for line in shown:
                if line.startswith("INFO: checkpoint 1 stored") or line.endswith(", finished"):
                    word = re.sub(r"(items|files|seconds): [\d.]+|checkpoint \d+ ", "", line.removeprefix("INFO: "))
                    _check(word.rpartition(", ")[2] in err, f"$ {command}\n{line}: not in the log\n{err}")


def quick_start(folder: Path, bin_folder: Path) -> None:
    """Make the site and the project as the tutorial says, then do what the README says."""
    shell = Shell(folder, bin_folder)
    server = _site_and_project(shell)
    try:
        readme = block("README.md", "FEEDS = {")
        _check(
            _settings(readme).items() <= _settings(block(TUTORIAL, "DOWNLOAD_DELAY = 0.05")).items(),
            "other settings than the tutorial",
        )
        for each in blocks("README.md"):
            if each.commands and "startproject" not in each.text:
                shell.run_block(each.text)
    finally:
        server.terminate()
        server.wait()


def tutorial(folder: Path, bin_folder: Path) -> Shell:
    """Do what the tutorial says, up to its demo."""
    shell = Shell(folder, bin_folder)
    server = _site_and_project(shell)
    try:
        for each in blocks(TUTORIAL):
            if each.commands and "startproject" not in each.text and "http.server" not in each.text:
                if "pages.py" in each.text:
                    shell.run(f"mkdir {folder}/alone; cd {folder}/alone")
                    (folder / "alone" / "pages.py").write_text(block(TUTORIAL, "class PagesSpider"))
                shell.run_block(each.text)
            elif "settings import *" in each.text:
                (folder / "shop" / "shop" / "settings_dev.py").write_text(each.text)
    finally:
        server.terminate()
        server.wait()
    return shell


def _site_and_project(shell: Shell) -> subprocess.Popen[bytes]:
    for command, _ in _commands(block(TUTORIAL, "http.server")):
        if "http.server" not in command:
            shell.run(command)
    line = block(TUTORIAL, "http.server").splitlines()[-1].replace("8000", str(shell.port))
    program, _, log = line.removeprefix("$ python ").removesuffix(" &").partition(" 2> ")
    with (shell.folder / log).open("wb") as file:
        command = [sys.executable, *program.split()]
        server = subprocess.Popen(command, cwd=shell.folder, stdout=subprocess.DEVNULL, stderr=file)
    shell.run_block(block(TUTORIAL, "startproject"))
    package = shell.folder / "shop" / "shop"
    (package / "spiders" / "books.py").write_text(block(TUTORIAL, "class BooksSpider").replace("8000", str(shell.port)))
    settings = (package / "settings.py").read_text()
    for line in ("ADDONS = {}\n", "DOWNLOAD_DELAY = 1\n"):
        _check(line in settings, f"the project that Scrapy makes has no {line!r}")
        settings = settings.replace(line, "")
    (package / "settings.py").write_text(settings + block(TUTORIAL, "DOWNLOAD_DELAY = 0.05"))
    return server


def _commands(text: str) -> Iterable[tuple[str, list[str]]]:
    """Yield each command of a block, and the lines that the page shows below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        yield command, shown


def _about(lines: list[str]) -> list[str]:
    """Numbers that differ from run to run, such as those of the checkpoints, stay out."""
    return [re.sub(r"^\d+ checkpoints, \d+ files \([^)]*\)|(?<=counted in )\d+", "…", line) for line in lines]


def _settings(source: str) -> dict[str, object]:
    found: dict[str, object] = {}
    exec(source, found)
    return {name: value for name, value in found.items() if name.isupper()}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _check(right: bool, message: str) -> None:
    if not right:
        raise AssertionError(message)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        quick_start(Path(name).resolve(), Path(sys.argv[1]).resolve())
    print("the README's quick start works")
