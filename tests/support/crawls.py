"""Real crawls in subprocesses: a spider's source, its settings, and what it stored and logged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ITEMS = "data/%(name)s/items/%(run_id)s-%(batch_id)05d.jsonl"
STATES = "data/%(name)s/state/%(batch_id)010d.json"
STATE_OPTIONS = {"format": "json", "item_classes": ["scrapy_state.StateItem"]}
FEEDS: dict[str, dict[str, Any]] = {ITEMS: {"format": "jsonlines"}, STATES: STATE_OPTIONS}
DEADLINE_SECONDS = 60


def s3_feeds(bucket: str) -> dict[str, dict[str, Any]]:
    """Return the same feeds, in a bucket."""
    return {f"s3://{bucket}/{uri}": options for uri, options in FEEDS.items()}


#: Its start() yields `pages` pages of two items and a state item each.
SPIDER = """
import scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"
    pages = 3

    async def start(self):
        first = self.state.get("page", 0)
        self.logger.info("begins at %s %s", first, self.settings["STATE"])
        for page in range(first, first + int(self.pages)):
            yield {"page": page, "n": 0}
            yield {"page": page, "n": 1}
            yield StateItem({"page": page + 1})
"""

#: The same, but waits until each page has its checkpoint. Needs STATE_INTERVAL = 0.
STORING_SPIDER = SPIDER.replace("import scrapy", "import asyncio, scrapy", 1).replace(
    """            yield StateItem({"page": page + 1})
""",
    """            while self.crawler.stats.get_value("state/checkpoints") < page - first + 2:
                yield StateItem({"page": page + 1})
                await asyncio.sleep(0.01)
""",
)


@dataclass
class Crawl:
    """The outcome of a crawl."""

    code: int
    log: str
    folder: Path

    def lines(self, text: str) -> list[str]:
        return [line for line in self.log.splitlines() if text in line]


RUNSPIDER = ("runspider", "spider.py")


def crawl(
    folder: Path,
    source: str = SPIDER,
    *arguments: str,
    settings: dict[str, Any] | None = None,
    command: tuple[str, ...] = RUNSPIDER,
) -> Crawl:
    """Run the spider in *source* with scrapy_state's add-on in *folder*, by ``scrapy runspider``, until it ends."""
    process = start(folder, source, *arguments, settings=settings, command=command)
    try:
        _, log = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
    return Crawl(process.returncode, log, folder)


def start(
    folder: Path,
    source: str = SPIDER,
    *arguments: str,
    settings: dict[str, Any] | None = None,
    command: tuple[str, ...] = RUNSPIDER,
) -> subprocess.Popen[str]:
    """Start such a crawl only; its log comes on stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spider.py").write_text(source)
    chosen = {"ADDONS": {"scrapy_state.Addon": 500}, "FEEDS": FEEDS, "TELNETCONSOLE_ENABLED": False, **(settings or {})}
    # As a settings module, at the project's priority: -s would put all of them at the command line's.
    (folder / "project_settings.py").write_text("\n".join(f"{name} = {value!r}" for name, value in chosen.items()))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "SCRAPY_SETTINGS_MODULE": "project_settings", "PYTHONPATH": path, "PYTHONWARNINGS": ""}
    line = [sys.executable, "-m", "scrapy", *command, *arguments]
    return subprocess.Popen(line, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def run_until(process: subprocess.Popen[str], seen: str) -> str:
    """Read the log until *seen* is in it; return that part of the log."""
    assert process.stderr is not None
    log = ""
    for line in process.stderr:
        log += line
        if seen in line:
            return log
    raise AssertionError(f"{seen!r} never came:\n{log}")


def crawl_until(
    folder: Path,
    seen: str,
    source: str = SPIDER,
    *arguments: str,
    settings: dict[str, Any] | None = None,
    end: Callable[[subprocess.Popen[str]], object] = subprocess.Popen.kill,
) -> Crawl:
    """Crawl until *seen* is in the log, then *end* the process, by SIGKILL if nothing else is given, and wait for it."""
    process = start(folder, source, *arguments, settings=settings)
    try:
        log = run_until(process, seen)
        end(process)
        log += process.communicate(timeout=DEADLINE_SECONDS)[1]
    finally:
        process.kill()
        process.wait()
    return Crawl(process.returncode, log, folder)


def unnamed_files(folder: Path, spider: str = "numbers") -> set[str]:
    """Return the URIs of the item files that no checkpoint names."""
    named = {file["uri"] for each in checkpoints(folder, spider) for file in each["files"]}
    return {path.as_uri() for path in (folder / "data" / spider / "items").glob("*")} - named


def kill_beside_unnamed_files(process: subprocess.Popen[str], folder: Path) -> None:
    """Kill *process*, of the newest run, at a moment when it has stored item files that no checkpoint names yet."""

    def unnamed() -> list[str]:
        run = checkpoints(folder)[-1]["run"]
        return [uri for uri in unnamed_files(folder) if run in uri]

    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        process.send_signal(signal.SIGSTOP)
        if unnamed():
            break
        process.send_signal(signal.SIGCONT)
        time.sleep(0.02)
    assert unnamed(), "no moment with an unnamed file came"
    process.kill()


def checkpoints(folder: Path, spider: str = "numbers") -> list[dict[str, Any]]:
    """Return the stored checkpoints, oldest first."""
    return [json.loads(path.read_text())[0] for path in sorted((folder / "data" / spider / "state").glob("*.json"))]


def named_items(folder: Path, spider: str = "numbers") -> list[dict[str, Any]]:
    """Return the items that the lineage of the newest checkpoint names, in order."""
    found = {each["id"]: each for each in checkpoints(folder, spider)}
    lineage, id = [], max(found)
    while id is not None:
        lineage.append(found[id])
        id = found[id]["parent"]
    items = []
    for checkpoint in reversed(lineage):
        for file in checkpoint["files"]:
            lines = Path(file["uri"].removeprefix("file://")).read_text().splitlines()
            skipped = {position for begin, end in file.get("skip", ()) for position in range(begin, end)}
            items += [json.loads(line) for position, line in enumerate(lines) if position not in skipped]
    return items


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Make *folder* read-only; check that it then has the same files with the same content and the same times."""

    def look() -> dict[str, tuple[bytes, int]]:
        return {
            str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns) for path in folder.rglob("*")
        }

    def chmod(mode: int) -> None:
        for inside, _, _ in os.walk(folder):
            os.chmod(inside, mode)

    before = look()
    chmod(0o555)
    try:
        yield
    finally:
        chmod(0o755)
    assert look() == before
