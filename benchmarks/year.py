"""What a year of checkpoints costs: a start, then ``scrapy state`` log, report, verify and prune, and a start again.

``python benchmarks/year.py --checkpoints 500000``: one checkpoint a minute, in runs of a week, each with one item file; in a
local folder, and in an S3 server on this machine that keeps them in memory (year_store.py). Each row is one process: what it
asks the store for, its seconds of time and of CPU, and its peak memory. Beside it stands the same with a tenth of the
checkpoints: what is flat has the same memory there. With few checkpoints it is a test: ``--checkpoints 2000``.

A start is a whole crawl of a spider that yields one item and ends. What it reads to find where to begin is counted apart, by
``scrapy state get``. Goals: a memory that does not grow with the checkpoints, and after ``prune`` at most 3 requests to begin.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from servers import project, server
from year_store import ITEM_FILE, ITEMS, STATES, checkpoints

#: How much more memory than with a tenth of the checkpoints counts as flat: a share of it, and bytes
FLAT_SHARE, FLAT_BYTES = 1.1, 16e6
STORES = ("local", "s3")
#: ext4 allows 65,000 names for a file.
_MOST_LINKS = 60_000
SPIDER = """
import scrapy

class BenchSpider(scrapy.Spider):
    name = "bench"

    async def start(self):
        yield {"page": 1}
"""


@dataclass
class Place:
    """Where the checkpoints are. *port*: of the S3 server, if there."""

    folder: Path
    port: int | None

    @property
    def root(self) -> str:
        return f"{self.folder}/" if self.port is None else "s3://bench/"

    @property
    def settings(self) -> dict[str, Any]:
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION_NAME": "us-east-1"}
        return {} if self.port is None else {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def requests(self) -> Counter[str]:
        """Return how many requests the store has got, by kind."""
        if self.port is None:
            return Counter()
        with urlopen(f"http://127.0.0.1:{self.port}/requests") as answer:
            return Counter(json.load(answer))


@dataclass
class Row:
    """What one process took. *memory*: its peak, in bytes."""

    name: str
    requests: Counter[str]
    seconds: float
    cpu_seconds: float
    memory: float


def rows(place: Place, keep: int) -> list[Row]:
    """Measure each command, in the order in which they change the store. *keep*: how many files prune keeps."""
    feeds = {
        f"{place.root}{ITEMS}%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"},
        f"{place.root}{STATES}%(batch_id)010d.json": {"format": "json", "item_classes": ["scrapy_state.StateItem"]},
    }
    settings = {**place.settings, "ADDONS": {"scrapy_state.Addon": 500}, "FEEDS": feeds, "TELNETCONSOLE_ENABLED": False}
    given = project(place.folder, SPIDER, {**settings, "LOG_LEVEL": "WARNING"})

    def measured(name: str, *command: str) -> Row:
        before, began = place.requests(), time.monotonic()
        with tempfile.TemporaryFile() as said:
            arguments = [sys.executable, "-m", "scrapy", *command] if command else given["args"]
            process = subprocess.Popen(**{**given, "args": arguments}, stdout=subprocess.DEVNULL, stderr=said)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            said.seek(0)
            assert process.returncode == 0, (name, said.read().decode())
        seconds = time.monotonic() - began
        row = Row(name, place.requests() - before, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
        print(f"  {shown(row)}", file=sys.stderr, flush=True)
        return row

    def state(verb: str, *more: str) -> Row:
        return measured(" ".join([verb, *more]), "state", verb, "bench.py", *more)

    page = ("-o", "page.html")
    before = [state("get"), measured("start"), state("log")]
    before += [state("report", *page), state("report", "--no-orphans", *page), state("verify")]
    after = [state("prune", "--keep", str(keep)), state("get"), measured("start"), state("log"), state("verify")]
    for row in after[1:]:
        row.name += ", after prune"
    return before + after


def shown(row: Row) -> str:
    requests = ", ".join(f"{count:,} {kind}" for kind, count in sorted(row.requests.items())) or "-"
    return f"{row.name:34} {row.seconds:8.1f} s {row.cpu_seconds:8.1f} s CPU {row.memory / 1e6:6.0f} MB  {requests}"


def in_store(kind: str, number: int, keep: int) -> list[Row]:
    """Make *number* checkpoints in a store of this *kind*, and measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if kind == "local":
            _fill(folder, number)
            return rows(Place(folder, None), keep)
        program = str(Path(__file__).with_name("year_store.py"))
        with server(number, program=program) as port:
            return rows(Place(folder, port), keep)


def _fill(folder: Path, number: int) -> None:
    states, items = folder / STATES, folder / ITEMS
    states.mkdir()
    items.mkdir()
    linked = Path()
    links = _MOST_LINKS
    for name, data, item_file in checkpoints(number, items.as_uri() + "/"):
        (states / name).write_bytes(data)
        if item_file and links < _MOST_LINKS:
            os.link(linked, items / item_file)
            links += 1
        elif item_file:
            linked, links = items / item_file, 1
            linked.write_bytes(ITEM_FILE)


def wrong(found: dict[int, list[Row]], kind: str) -> list[str]:
    """Return which goals are not met. *found*: number of checkpoints -> rows."""
    few, many = (found[number] for number in sorted(found))
    grown = [
        f"{kind}, {row.name}: {row.memory / 1e6:.0f} MB, with a tenth of the checkpoints {base.memory / 1e6:.0f} MB"
        for base, row in zip(few, many, strict=True)
        if row.memory > base.memory * FLAT_SHARE + FLAT_BYTES
    ]
    starts = [row for row in many if re.fullmatch("get, after prune", row.name)]
    return grown + [f"{kind}, {row.name}: {row.requests.total()} requests" for row in starts if row.requests.total() > 3]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=500_000)
    parser.add_argument("--stores", default=",".join(STORES), help=f"some of {', '.join(STORES)}")
    parser.add_argument("--keep", type=int, default=1000, help="how many state files prune keeps")
    chosen = parser.parse_args()
    faults = []
    for kind in chosen.stores.split(","):
        found = {}
        for number in (chosen.checkpoints // 10, chosen.checkpoints):
            print(f"{kind}, {number:,} checkpoints", file=sys.stderr, flush=True)
            found[number] = in_store(kind, number, chosen.keep)
        for number, measured in found.items():
            print(f"\n{kind}, {number:,} checkpoints")
            print("\n".join(map(shown, measured)), flush=True)
        faults += wrong(found, kind)
    print("\n".join(["", *faults]) if faults else "\nflat, and few requests after prune")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
