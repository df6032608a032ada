"""Kills crawls of spiders that know nothing of scrapy_state, and checks all that is stored: ``make chaos-requests``.

``--minutes 10 --seed 7 --shapes crawl,listings --stores s3,rgw`` makes up a scenario for each seed from 7 on, with one of
these shapes (any_spiders.py) in one of these stores, until 10 minutes are over. tests/promises/test_p8_any_spider.py runs
chosen scenarios.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import crawls
from any_shape import HEAD, Shape, page_of
from any_site import Site
from any_spiders import SHAPES
from chaos import S3Server
from oracle import Feed, Files, S3Files, Unchanged, csv_gz_keys, jsonlines_keys, local_files
from real_server import RealServer
from requests_oracle import Expected, Report, check
from rgw_server import rgw
from swift_server import swift

RUN_SECONDS = 90
#: How much later than its cut a checkpoint may say that it was made; more if commits take longer, as the log says.
COMMIT_SECONDS = 0.5
#: After so many runs it is clear that a crawl makes no progress.
MOST_RUNS = 40
#: How a run can be ended early, see Process.end(). Five deaths of a process make a page fail, so there must be fewer.
ENDS = ("late", "kill", "early", "sigterm", "sigterm twice", "closing", "hang", "hang and kill")
GZIP = {"postprocessing": ["scrapy.extensions.postprocessing.GzipPlugin"]}
#: name -> (the end of its URI, its options)
FEEDS: dict[str, tuple[str, dict[str, Any]]] = {
    "all": (".jsonl", {"format": "jsonlines"}),
    "csv": (".csv.gz", {"format": "csv", "batch_item_count": 7, **GZIP}),
    "packed": (".jsonl.gz", {"format": "jsonlines", **GZIP}),
}


def jsonlines_gz_keys(content: bytes) -> list[str]:
    return jsonlines_keys(gzip.decompress(content))


#: real S3 servers
SERVERS = {"swift": swift, "rgw": rgw}
READERS = {"all": jsonlines_keys, "csv": csv_gz_keys, "packed": jsonlines_gz_keys}


@dataclass(frozen=True)
class Scenario:
    """One crawl, and how its runs end.

    :param size: how many pages it has
    :param delay: how long an answer takes on average, in seconds
    :param concurrency: CONCURRENT_REQUESTS
    :param interval: STATE_INTERVAL
    :param store: "local", "s3", or one of SERVERS
    :param apart: whether the requests have a folder of their own; *on_disk*: STATE_REQUESTS_ON_DISK;
        *delta*: STATE_DELTA
    :param ends: how its runs end, see ENDS; further runs may end by themselves
    """

    seed: int
    shape: str
    size: int
    delay: float = 0.01
    concurrency: int = 8
    interval: float = 0.05
    store: str = "local"
    apart: bool = False
    on_disk: bool = False
    delta: bool = False
    ends: tuple[str, ...] = ("late",) * 3

    @classmethod
    def random(cls, seed: int, shapes: list[str], stores: list[str]) -> Scenario:
        rng = random.Random(seed)
        shape = SHAPES[rng.choice(shapes)]
        return cls(
            seed,
            shape.name,
            size=max(20, int(shape.size * rng.choice((0.3, 1, 2)))),
            delay=rng.choice((0, 0.01, 0.05, 0.1)),
            concurrency=rng.choice((2, 8, 16)),
            interval=rng.choice((0, 0.05, 0.05, 0.5, 0.5, 5)),
            store=rng.choice(stores),
            apart=rng.random() < 0.2,
            on_disk=rng.random() < 0.3,
            ends=tuple(rng.choices(ENDS, (40, 20, 10, 8, 8, 6, 4, 4), k=rng.randint(1, 4))),
            delta=rng.random() < 0.4,
        )

    def settings(self, root: str, place: dict[str, Any]) -> dict[str, Any]:
        """Return the project's settings. *root*: where its data go; *place*: the settings that S3 needs."""
        shape = SHAPES[self.shape]
        feeds = {f"{root}/{each}/%(run_id)s-%(batch_id)05d{FEEDS[each][0]}": FEEDS[each][1] for each in shape.feeds}
        feeds[f"{root}/state/%(batch_id)010d.json"] = {"format": "json", "item_classes": ["scrapy_state.StateItem"]}
        return {
            "FEEDS": feeds,
            "STATE_INTERVAL": self.interval,
            "CONCURRENT_REQUESTS": self.concurrency,
            "CONCURRENT_REQUESTS_PER_DOMAIN": self.concurrency,
            "LOG_LEVEL": "INFO",
            "LOG_FILE_APPEND": False,
            **({"STATE_REQUESTS_URI": f"{root}/requests/"} if self.apart else {}),
            **({"STATE_REQUESTS_ON_DISK": True} if self.on_disk else {}),
            **({"STATE_DELTA": True} if self.delta else {}),
            **shape.settings,
            **place,
        }


class Process:
    """One run of the spider, in a subprocess."""

    def __init__(self, scenario: Scenario, site: Site, folder: Path, settings: dict[str, Any]) -> None:
        shape = SHAPES[scenario.shape]
        site.run += 1
        self._site = site
        self._run = site.run
        self._log = folder / f"{site.run}.log"
        given = {"site": site.url, "pages": str(scenario.size), **shape.arguments}
        arguments = [part for name, value in given.items() for part in ("-a", f"{name}={value}")]
        self._process = crawls.start(folder, HEAD + shape.source, *arguments, settings={**settings, "LOG_FILE": str(self._log)})

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._site.release()
        self._process.kill()
        self._process.communicate()

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def end(self, how: str, rng: random.Random, requests: int) -> bool:
        """End the run in one of the ways in ENDS, and wait for it; return whether it was still running.

        :param requests: end it after this many requests at most
        """
        after = rng.randint(1, requests)
        if how == "early":
            text, most_seconds = rng.choice((("INFO: Spider opened", 0.1), ("INFO: Enabled", 0.3)))
            self._until(lambda: text in self.log)
            return self._send(signal.SIGKILL, rng.uniform(0, most_seconds))
        if how == "late":  # the first checkpoint with requests comes some time after the first request
            self._until(lambda: ", requests: " in self.log)
            asked = self._site.asked(self._run)
            self._until(lambda: self._site.asked(self._run) >= asked + after)
        else:
            self._until(lambda: self._site.asked(self._run) >= after)
        if how in ("kill", "late"):
            return self._send(signal.SIGKILL, rng.uniform(0, 0.015))
        if how.startswith("hang"):
            self._site.hang = True
            self._until(lambda: self._site.is_hanging)
        was_running = self._send(signal.SIGTERM, rng.uniform(0, 0.015))
        self._until(lambda: "shutting down gracefully" in self.log)
        if how == "sigterm twice":
            self._send(signal.SIGTERM, rng.uniform(0, 0.015))
        elif how in ("closing", "hang and kill"):
            self._send(signal.SIGKILL, rng.uniform(0, 0.05 if how == "closing" else 1))
        elif how == "hang":
            time.sleep(rng.uniform(0, 0.5))  # the seeded part of the moment
            self._site.release()
        return was_running

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        return self._process.wait(RUN_SECONDS)

    def _send(self, number: int, delay: float) -> bool:
        time.sleep(delay)  # the seeded part of the moment
        running = not self.is_over
        self._process.send_signal(number)
        return running

    def _until(self, condition: Callable[[], bool]) -> None:
        if not self._site.wait_until(lambda: self.is_over or condition(), RUN_SECONDS):
            raise TimeoutError(f"nothing for {RUN_SECONDS} s; the log so far:\n{self.log}")


@dataclass
class Outcome:
    """The outcome of a scenario.

    :param kills: how many runs were ended while they worked
    :param again: how many requests the site got beyond those that a crawl without kills sends
    :param allowed: how many the kills explain; None: any number
    """

    kills: int = 0
    runs: int = 0
    fetches: int = 0
    again: int = 0
    allowed: int | None = 0
    report: Report = field(default_factory=Report)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        report = self.report
        found = (
            f"{self.kills} kills, {self.runs} runs, lost {len(report.lost)}, twice {len(report.twice)}, "
            f"fetched again {self.again} (allowed {self.allowed}) of {self.fetches}, "
            f"{len(report.checkpoints)} checkpoints, {report.with_requests} with requests, {report.orphans} orphans"
        )
        return "\n  ".join([found, *self.wrong])


@dataclass(frozen=True)
class Place:
    """A store. *files*: returns all that is stored, by location."""

    root: str
    files: Callable[[], Files]
    settings: dict[str, Any] = field(default_factory=dict)


def run(scenario: Scenario, folder: Path, place: Place | None = None, most_runs: int = MOST_RUNS) -> Outcome:
    """Run *scenario* until its crawl is over, or until something is wrong.

    :param folder: for settings and logs, and for the data unless there is a *place*
    """
    shape = SHAPES[scenario.shape]
    place = place or Place(str(folder / "data"), lambda: local_files(folder / "data"))
    settings = scenario.settings(place.root, place.settings)
    outcome = Outcome()
    unchanged = Unchanged()
    rng = random.Random(scenario.seed)
    ends = list(scenario.ends)
    # So that most kills happen before the crawl ends.
    requests = max(2, len(list(shape.keys(scenario.size))) // (2 * (len(ends) or 1)))
    explained = 0
    with Site(scenario.size, scenario.delay, scenario.seed) as site:
        while not outcome.wrong:
            how = ends.pop(0) if ends else ""
            with Process(scenario, site, folder, settings) as process:
                was_running = bool(how) and process.end(how, rng, requests)
                code = process.wait()
                log = process.log
            outcome.kills += was_running
            outcome.runs += 1
            stored = place.files()
            reason, continues = _end(stored, place.root)
            over = reason in shape.over and not (continues and (ends or reason == "finished"))
            outcome.report = _check(scenario, stored, place.root, over)
            explained += _explained(site, outcome.report, scenario.concurrency, log) if was_running else 0
            wrong = outcome.report.wrong + unchanged.wrong(stored)
            if not was_running or how in ("sigterm", "hang"):
                wrong += _wrong_end(shape, code, log, reason, was_running)
            if over:
                wrong += _wrong_fetches(scenario, site, explained, outcome)
            elif outcome.runs == most_runs:
                wrong.append(f"the crawl is not over after {most_runs} runs")
            outcome.wrong = [f"run {outcome.runs} ({how or 'left to finish'}): {each}" for each in wrong]
            if over:
                break
    return outcome


def _check(scenario: Scenario, stored: Files, root: str, over: bool) -> Report:
    shape = SHAPES[scenario.shape]
    feeds = {name: Feed(f"{root}/{name}/", READERS[name]) for name in shape.feeds}
    expected = Expected(shape.keys(scenario.size), page_of, shape.optional(scenario.size))
    return check(stored, f"{root}/state/", feeds, expected, folder=f"{root}/requests/" if scenario.apart else "", over=over)


def _end(stored: Files, root: str) -> tuple[str | None, bool]:
    """Return why the newest checkpoint's run ended, None if it did not; and whether the next run continues its crawl."""
    newest = max((each for each in stored if each.startswith(f"{root}/state/") and each.endswith(".json")), default=None)
    if newest is None:
        return None, False
    checkpoint = json.loads(stored[newest])[0]
    return checkpoint["reason"], "requests" in checkpoint


def _explained(site: Site, report: Report, concurrency: int, log: str) -> int:
    """Return how many pages of the last run may have to be fetched again: those since its last cut, and those open then."""
    fetched = [fetch.time for fetch in site.log if fetch.run == site.run]
    if not fetched or not report.checkpoints:
        return len(fetched)
    made = datetime.fromisoformat(report.checkpoints[-1]["time"].replace("Z", "+00:00")).timestamp()
    cut = made - max(COMMIT_SECONDS, *map(float, re.findall(r" stored: STATE .*, seconds: ([\d.]+)", log)))
    return min(len(fetched), sum(moment > cut for moment in fetched) + 2 * concurrency)


def _wrong_fetches(scenario: Scenario, site: Site, explained: int, outcome: Outcome) -> list[str]:
    shape = SHAPES[scenario.shape]
    asked = Counter(fetch.path for fetch in site.log)
    outcome.fetches = len(site.log)
    tries = shape.tries or (lambda path, size: asked[path])
    again = {path: count - tries(path, scenario.size) for path, count in asked.items()}
    outcome.again = sum(max(0, count) for count in again.values())
    outcome.allowed = None if shape.tries is None else explained
    if outcome.allowed is None:
        return []
    wrong = [] if outcome.again <= explained else [f"{outcome.again} pages were fetched again; the kills explain {explained}"]
    often = {path: count for path, count in again.items() if count > outcome.kills * tries(path, scenario.size)}
    return wrong + ([f"fetched again more often than there were kills: {often}"] if often else [])


def _wrong_end(shape: Shape, code: int, log: str, reason: str | None, was_ended: bool) -> list[str]:
    """Say what is wrong with how a run came to its end that nobody ended, or that was asked once to end."""
    wrong = []
    if reason not in (*shape.over, *shape.failed, *(["shutdown"] if was_ended else [])):
        wrong.append(f"it ended with {reason}")
    if code != (1 if str(reason).startswith("state_") else 0):
        wrong.append(f"its exit code is {code}, its reason {reason}")
    if not shape.errors and (errors := [line for line in log.splitlines() if "] ERROR" in line or "] CRITICAL" in line]):
        wrong.append(f"its log has errors: {errors[:5]}")
    return wrong


@contextmanager
def _places(wanted: list[str]) -> Iterator[dict[str, Callable[[str], Place]]]:
    """Start the stores; each entry makes a new place in one of them."""
    with ExitStack() as stack:
        s3 = stack.enter_context(S3Server())

        def in_s3(name: str) -> Place:
            bucket, client, settings = s3.bucket(name)
            return Place(f"s3://{bucket}", S3Files(client, bucket), settings)

        places = {"s3": in_s3}
        for each, server in SERVERS.items():
            if each in wanted:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"chaos-{each}-", ignore_cleanup_errors=True))
                places[each] = partial(_in_server, stack.enter_context(server(Path(folder))))
        yield places


def _in_server(server: RealServer, name: str) -> Place:
    client = server.http.client()
    client.create_bucket(Bucket=name)
    return Place(f"s3://{name}", S3Files(client, name), server.http.settings)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="begin no scenario after this time")
    parser.add_argument("--scenarios", type=int, default=10**6, help="run at most this many")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the first scenario")
    parser.add_argument("--shapes", default=",".join(SHAPES), help=f"some of {', '.join(SHAPES)}")
    parser.add_argument("--stores", default="local,local,s3", help=f"some of local, s3, {', '.join(SERVERS)}")
    arguments = parser.parse_args()
    stores, shapes = arguments.stores.split(","), arguments.shapes.split(",")
    scenarios = kills = lost = twice = failed = 0
    deadline = time.monotonic() + 60 * arguments.minutes
    with _places(stores) as places:
        while scenarios < arguments.scenarios and time.monotonic() < deadline:
            began = time.monotonic()
            scenario = Scenario.random(arguments.seed + scenarios, shapes, stores)
            folder = Path(tempfile.mkdtemp(prefix="chaos-requests-"))
            place = places[scenario.store](f"bucket-{scenario.seed}") if scenario.store != "local" else None
            outcome = run(scenario, folder, place)
            scenarios, kills = scenarios + 1, kills + outcome.kills
            lost, twice = lost + len(outcome.report.lost), twice + len(outcome.report.twice)
            print(f"{scenario}\n  {outcome}\n  {time.monotonic() - began:.1f} s", flush=True)
            if outcome.wrong:
                failed += 1
                _keep(place, folder)
                again = " ".join(
                    f"--{name} {value}"
                    for name, value in {**vars(arguments), "scenarios": 1, "seed": scenario.seed}.items()
                    if value != parser.get_default(name)
                )
                print(f"  see {folder}; again: make chaos-requests ARGS='{again}'", flush=True)
            else:
                shutil.rmtree(folder)
    if failed:
        print(f"{failed} scenarios failed")
    print(f"scenarios {scenarios}, kills {kills}, lost {lost}, twice {twice}")
    return 1 if failed else 0


def _keep(place: Place | None, folder: Path) -> None:
    """Copy what is stored elsewhere to *folder*."""
    for location, content in (place.files() if place else {}).items():
        copy = folder / "bucket" / location.removeprefix("s3://")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
