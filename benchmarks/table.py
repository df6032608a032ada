"""One crawl in this package, and in what a user would choose instead: ``make bench`` prints one table.

``python benchmarks/table.py --pairs 5 --listings 100``: a site, an S3 server (moto) and redis-server run on this machine in
their own processes. In each round every way (ways.py) crawls the site twice: once to its end, measured, and once with a SIGKILL
when half of the pages are served, then again, as its user would, to the end. The table has medians of the rounds; ratios are to
Scrapy alone in the same round.

- *memory*: the peak of the crawl's process; *disk*: of its working and temporary folder, looked at every 50 ms.
- *lost*: the pages that the site had to serve again after the kill, in seconds of the killed run.
- *items lost*, *items twice*: in what a user would read afterwards: the lineage with this package, otherwise all item files.

``--write docs`` puts the table into docs/benchmarks.md and draws docs/benchmarks.svg. What isn't installed here (awscli,
scrapy-deltafetch, scrapy-redis) comes from PyPI into the virtual environment .bench, or is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import table_page
from servers import project, server
from ways import ALONE, WAYS, Way

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from process_use import use_of
from redis_server import redis_server

ROOT = Path(__file__).parent.parent
OTHERS = ROOT / ".bench"
LOOK_SECONDS = 0.05
RUN_SECONDS = 600


@dataclass
class Took:
    """What a run took. *memory*, *disk*: the peaks in bytes."""

    seconds: float
    cpu_seconds: float
    memory: int
    disk: int
    requests: int


@dataclass
class Result:
    """A way in one round: a whole crawl, and one with a kill."""

    took: Took
    lost_seconds: float
    items_lost: int
    items_twice: int


@dataclass
class World:
    """The servers, and the folder for the crawls."""

    folder: Path
    site: str
    s3: str
    redis: Any
    listings: int
    client: Any
    crawls: int = 0
    left_out: dict[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION_NAME": "us-east-1"}
        common = {"LOG_LEVEL": "WARNING", "TELNETCONSOLE_ENABLED": False, "CONCURRENT_REQUESTS_PER_DOMAIN": 16}
        redis = {"REDIS_URL": self.redis.url} if self.redis else {}
        return {**keys, "AWS_ENDPOINT_URL": self.s3, **common, **redis, "DOWNLOAD_DELAY": 0}

    def item_keys(self) -> list[str]:
        """Return the keys of the items that the site has."""
        return [f"{n}-{page}-{item}" for n in range(self.listings) for page in range(10) for item in range(3)]

    def ask(self, url: str) -> Any:
        with urlopen(url, timeout=RUN_SECONDS) as answer:
            return json.loads(answer.read() or b"null")

    def requests(self) -> int:
        return int(self.ask(f"{self.s3}/-/requests"))


class Crawl:
    """A crawl in one of the ways: its runs, and what is left of it."""

    def __init__(self, world: World, way: Way) -> None:
        world.crawls += 1
        self.world, self.way = world, way
        self.place = f"s3://bench/{world.crawls}/"
        self._number = 0
        self.folder = self._new_folder()
        if way.redis:
            world.redis.client().flushall()
        world.ask(f"{world.site}/-/forget")

    def run(self, kill_at: int = 0) -> Took:
        """Run once, to the end, or until the site has served *kill_at* pages."""
        if self._number and not self.way.keeps_folder:
            self.folder = self._new_folder()
        self._number += 1
        settings = {**self.world.settings(), **self.way.settings(self.place)}
        given = project(self.folder, self.way.spider, settings, site=self.world.site, listings=self.world.listings)
        given["env"] |= {"TMPDIR": str(self.folder / "tmp"), "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}
        if self.way.packages:
            given["args"][0] = str(OTHERS / "bin" / "python")
        before, began = self.world.requests(), time.monotonic()
        cpu = self._sync(f"{self.place}kept", "kept")
        took = self._measured(given, kill_at)
        cpu += 0 if kill_at else self._sync("kept", f"{self.place}kept")
        took.seconds, took.requests = time.monotonic() - began, self.world.requests() - before
        took.cpu_seconds += cpu
        return took

    def items(self) -> list[str]:
        """Return the keys of the items that the user reads."""
        lines: list[bytes] = []
        if self.way.reads == "lineage":
            given = [f"-s{name}={value}" for name, value in self.world.settings().items() if name.startswith("AWS")]
            command = [sys.executable, "-m", "scrapy", "state", "items", "--cat", *given, f"{self.place}state/"]
            lines = subprocess.run(command, check=True, capture_output=True, cwd=self.folder).stdout.splitlines()
        elif self.way.reads == "folder":
            lines = [line for path in (self.folder / "kept").glob("*.jsonl") for line in path.read_bytes().splitlines()]
        else:
            prefix = self.place.partition("//")[2].partition("/")[2] + "items/"
            for page in self.world.client.get_paginator("list_objects_v2").paginate(Bucket="bench", Prefix=prefix):
                for each in page.get("Contents", ()):
                    lines += self.world.client.get_object(Bucket="bench", Key=each["Key"])["Body"].read().splitlines()
        return list(_keys_of(lines))

    def _new_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.world.folder))
        (folder / "tmp").mkdir()
        return folder

    def _measured(self, given: dict[str, Any], kill_at: int) -> Took:
        uses = []
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(**given, stdout=log, stderr=log)
        if kill_at:
            threading.Thread(target=self._kill_at, args=(process, kill_at), daemon=True).start()
        deadline = time.monotonic() + RUN_SECONDS
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                process.kill()
            uses.append(use_of(process.pid, self.folder))
            time.sleep(LOOK_SECONDS)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != (-signal.SIGKILL if kill_at else 0):
            print(f"{self.way.name}: exit code {process.returncode}, see {self.folder}/log", file=sys.stderr)
        disk = max((use.disk for use in uses if use is not None), default=0)
        return Took(0, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, disk, 0)

    def _kill_at(self, process: subprocess.Popen[bytes], pages: int) -> None:
        self.world.ask(f"{self.world.site}/-/until/{pages}")
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)

    def _sync(self, source: str, to: str) -> float:
        """Run ``aws s3 sync`` if this way does; return its CPU seconds."""
        if not self.way.syncs:
            return 0
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        command = [str(OTHERS / "bin" / "aws"), "--endpoint-url", self.world.s3, "s3", "sync", "--quiet", source, to]
        process = subprocess.Popen(command, cwd=self.folder, env={**os.environ, **keys})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, command
        return usage.ru_utime + usage.ru_stime


def _keys_of(lines: list[bytes]) -> Iterator[str]:
    for line in lines:
        try:
            yield json.loads(line)["key"]
        except ValueError:  # torn by the kill
            continue


def measured(world: World, way: Way) -> Result:
    """Crawl to the end; then crawl again with a kill in the middle."""
    pages = world.listings * 11
    whole = Crawl(world, way)
    took = whole.run()
    found = whole.items()
    assert Counter(found) == Counter(world.item_keys()), (way.name, len(found), whole.folder)
    killed = Crawl(world, way)
    first = killed.run(kill_at=pages // 2)
    before = set(world.ask(f"{world.site}/-/paths"))
    served = len(world.ask(f"{world.site}/-/paths"))
    killed.run()
    again = [path for path in world.ask(f"{world.site}/-/paths")[served:] if path in before]
    items = Counter(killed.items())
    lost = sum(key not in items for key in world.item_keys())
    twice = sum(count - 1 for count in items.values())
    for crawl in (whole, killed):
        shutil.rmtree(crawl.folder)
    return Result(took, len(again) / served * first.seconds, lost, twice)


def install(ways: list[Way]) -> dict[str, str]:
    """Install what *ways* need into .bench; return package -> why it can't be."""
    wrong = {}
    packages = sorted({package for way in ways for package in way.packages})
    if packages and not OTHERS.exists():
        subprocess.run([sys.executable, "-m", "venv", OTHERS], check=True)
    for package in packages:
        fixed = [f"{name}=={version(name)}" for name in ("Scrapy", "boto3", "botocore")]
        command = [OTHERS / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
        done = subprocess.run([*command, *(fixed if package != "awscli" else fixed[:1])], capture_output=True, text=True)
        if done.returncode:
            wrong[package] = done.stderr.strip().splitlines()[-1]
    return wrong


@contextmanager
def world_of(listings: int, seconds: float, with_redis: bool) -> Iterator[World]:
    """Start the servers."""
    import boto3

    with ExitStack() as stack:
        site, s3 = stack.enter_context(server("listings", seconds)), stack.enter_context(server("s3"))
        redis = stack.enter_context(redis_server()) if with_redis else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        endpoint = f"http://127.0.0.1:{s3}"
        client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
        )
        client.create_bucket(Bucket="bench")
        yield World(folder, f"http://127.0.0.1:{site}", endpoint, redis, listings, client)


def _ratio(results: dict[Way, list[Result]], way: Way, of: Callable[[Took], float]) -> float:
    pairs = zip(results[way], results[ALONE], strict=True)
    return statistics.median(of(one.took) / of(base.took) for one, base in pairs)


def row(results: dict[Way, list[Result]], way: Way) -> table_page.Row:
    """Return the medians of *way*."""

    def middle(of: Callable[[Result], float]) -> float:
        return statistics.median(map(of, results[way]))

    return table_page.Row(
        way.name,
        cpu=middle(lambda each: each.took.cpu_seconds),
        cpu_ratio=_ratio(results, way, lambda took: took.cpu_seconds),
        wall=middle(lambda each: each.took.seconds),
        wall_ratio=_ratio(results, way, lambda took: took.seconds),
        memory=middle(lambda each: each.took.memory),
        disk=middle(lambda each: each.took.disk),
        requests=middle(lambda each: each.took.requests),
        lost_seconds=middle(lambda each: each.lost_seconds),
        items_lost=middle(lambda each: each.items_lost),
        items_twice=middle(lambda each: each.items_twice),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="how many rounds")
    parser.add_argument("--listings", type=int, default=150, help="each has 10 pages with 3 items")
    parser.add_argument("--page-seconds", type=float, default=0.05, help="how long a page takes the site")
    parser.add_argument("--only", default="", help="only ways with this in their name, and Scrapy alone")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="put the table and a plot into this folder")
    chosen = parser.parse_args()
    ways = [way for way in WAYS if chosen.only in way.name or way is ALONE]
    missing = install(ways)
    if not shutil.which("redis-server"):
        missing["redis-server"] = "it is not installed"
    needs = {way: [*way.packages, *(["redis-server"] if way.redis else [])] for way in ways}
    left_out = {way.name: missing[name] for way in ways for name in needs[way] if name in missing}
    ways = [way for way in ways if way.name not in left_out]
    results: dict[Way, list[Result]] = {way: [] for way in ways}
    loads = [os.getloadavg()[0]]
    with world_of(chosen.listings, chosen.page_seconds, any(way.redis for way in ways)) as world:
        for number in range(chosen.pairs):
            turn = number % len(ways)
            for way in [*ways, *ways][turn : turn + len(ways)]:
                results[way].append(measured(world, way))
                print(f"round {number + 1} of {chosen.pairs}, {way.name}: {results[way][-1]}", file=sys.stderr, flush=True)
            loads.append(os.getloadavg()[0])
    rows = [row(results, way) for way in ways]
    rounds = "one round" if chosen.pairs == 1 else f"medians of {chosen.pairs} rounds"
    crawl = f"{chosen.listings * 11:,} pages, {chosen.listings * 30:,} items; {rounds}"
    print(table_page.as_text(rows), crawl, table_page.machine(loads), sep="\n")
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    if chosen.write:
        table_page.write(chosen.write, rows, [crawl, table_page.machine(loads)], left_out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
