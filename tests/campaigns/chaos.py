"""Runs real crawls of a local source, ends them at seeded moments, and checks everything stored each time: ``make chaos``.

``--kills 500 --seed 1`` makes up a scenario for each seed from 1 on, until it has killed 500 runs;
tests/promises/test_p1_never_ahead.py runs chosen scenarios.
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopback import Handler, Server
from oracle import Feed, Files, Report, S3Files, Unchanged, check, csv_gz_keys, jsonlines_keys, local_files

SUPPORT = Path(__file__).parents[1] / "support"
DEADLINE_SECONDS = 90
#: how a run can be ended early, see Run.end()
ENDS = ("kill", "opening", "closing", "sigterm", "sigterm twice")


class Source(Server):
    """A local site: pages of items, all made from a seed."""

    def __init__(self, seed: int, pages: int) -> None:
        super().__init__(_Handler)
        self.pages = [self._page(random.Random(f"{seed} {page}"), page) for page in range(1, pages + 1)]
        self.served: Callable[[], None] = lambda: None

    def _page(self, rng: random.Random, page: int) -> list[dict[str, Any]]:
        count = rng.randint(20, 50) if rng.random() < 0.1 else rng.randint(0, 12)
        return [
            {
                "key": f"{page}-{number}",
                "kind": rng.choice(("thing", "thing", "note")),
                "n": number,
                "drop": rng.random() < 0.15,
                "delay": round(rng.uniform(0, 0.02), 4),
            }
            for number in range(count)
        ]

    def answer(self, path: str) -> dict[str, Any]:
        what, page = path.strip("/").split("/")
        end = int(page) > len(self.pages)
        return {"end": end, "items": [] if end or what != "page" else self.pages[int(page) - 1]}


class _Handler(Handler):
    def do_GET(self) -> None:
        self.reply(200, json.dumps(self.server.answer(self.path)), {"Content-Type": "application/json"})
        self.server.served()


@dataclass(frozen=True)
class Scenario:
    """One crawl, and how its runs end.

    :param callback: where the state item comes from, see kill_spider.KillSpider
    :param pipelines: "none", "sync", or "async", which keeps each item for 0 to 20 ms
    :param drop: whether a pipeline drops some items; *replace*: whether one returns new objects
    :param batch: batch_item_count, 0 for none
    :param second: the filter of a second item feed, "class" or "filter", "" for none
    :param ends: how its runs end, see ENDS; after them one more run may finish
    """

    seed: int
    callback: str = "same"
    pipelines: str = "none"
    drop: bool = False
    replace: bool = False
    batch: int = 0
    second: str = ""
    interval: float = 0
    concurrent_items: int = 100
    s3: bool = False
    pages: int = 30
    ends: tuple[str, ...] = ("kill",) * 4

    @classmethod
    def random(cls, seed: int) -> "Scenario":
        rng = random.Random(seed)
        return cls(
            seed,
            callback=rng.choice(("same", "confirm", "early")),
            pipelines=rng.choice(("none", "sync", "async", "async")),
            drop=rng.random() < 0.5,
            replace=rng.random() < 0.5,
            batch=rng.choice((0, 1, 3, 10)),
            second=rng.choice(("", "class", "filter")),
            interval=rng.choice((0, 0.05)),
            concurrent_items=rng.choice((100, 4)),
            s3=rng.random() < 0.4,
            pages=rng.randint(20, 80),
            ends=tuple(rng.choices(ENDS, (70, 8, 8, 7, 7), k=rng.randint(3, 8))),
        )

    def expected(self, source: Source, state: dict[str, Any]) -> dict[str, list[str]]:
        """Return the keys of the items before *state*, for each feed."""
        items = [item for page in source.pages[: state.get("page", 1) - 1] for item in page if not (self.drop and item["drop"])]
        found = {"all": [item["key"] for item in items]}
        if self.second:
            odd = self.second == "filter"
            found["second"] = [item["key"] for item in items if (item["n"] % 2 == 1 if odd else item["kind"] == "note")]
        return found

    def settings(self, source: Source, root: str, place: dict[str, Any]) -> dict[str, Any]:
        """Return the project's settings. *root*: where its data go; *place*: the settings that S3 needs."""
        batch = {"batch_item_count": self.batch} if self.batch else {}
        feeds: dict[str, dict[str, Any]] = {
            f"{root}/all/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines", **batch},
            f"{root}/state/%(batch_id)010d.json": {"format": "json", "item_classes": ["scrapy_state.StateItem"]},
        }
        if self.second:
            template = f"{root}/second/%(batch_time)s-%(batch_id)d.csv.gz"
            feeds[template if self.s3 else f"file://{template}"] = {
                "format": "csv",
                "postprocessing": ["scrapy.extensions.postprocessing.GzipPlugin"],
                **({"item_filter": "kill_spider.Odd"} if self.second == "filter" else {"item_classes": ["kill_spider.Note"]}),
                **batch,
            }
        pipelines = ["Wait"] * (self.pipelines == "async") + ["Drop"] * self.drop + ["Replace"] * self.replace
        return {
            "ADDONS": {"scrapy_state.Addon": 500},
            "FEEDS": feeds,
            "STATE_INTERVAL": self.interval,
            "CONCURRENT_ITEMS": self.concurrent_items,
            "ITEM_PIPELINES": {f"kill_spider.{name}": order for order, name in enumerate(pipelines)},
            "TELNETCONSOLE_ENABLED": False,
            "LOG_LEVEL": "INFO",
            **place,
        }


class Run:
    """One run of the spider, in a subprocess."""

    def __init__(self, scenario: Scenario, source: Source, folder: Path) -> None:
        self._changed = threading.Condition()
        self._served = 0
        self._lines: list[str] = []
        self._ended = False
        source.served = self._request_served
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        paths = [str(folder), str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]
        changed = {"PYTHONPATH": os.pathsep.join(paths), "SCRAPY_SETTINGS_MODULE": "kill_settings", "TMPDIR": str(temporary)}
        arguments = ["-a", f"source={source.url}", "-a", f"callback={scenario.callback}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scrapy", "runspider", str(SUPPORT / "kill_spider.py"), *arguments],
            cwd=folder, env={**os.environ, "PYTHONWARNINGS": "", **changed}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def end(self, how: str, rng: random.Random, requests: int) -> bool:
        """End the run in one of the ways in ENDS, and wait for it; return whether it was still running.

        :param requests: end it after this many requests at most
        """
        after = rng.randint(1, requests)
        if how == "opening":
            self._until(lambda: self._logged("INFO: STATE {"))
            return self._send(signal.SIGKILL, rng.uniform(0, 0.3))  # about when the first request is sent
        self._until(lambda: self._served >= after)
        if how == "kill":
            return self._send(signal.SIGKILL, rng.uniform(0, 0.015))
        was_running = self._send(signal.SIGTERM, rng.uniform(0, 0.015), wait=False)
        if how == "sigterm twice":
            self._until(lambda: self._logged("shutting down gracefully"))
            self._send(signal.SIGTERM, rng.uniform(0, 0.015))
        elif how == "closing":
            self._until(lambda: self._logged("Closing spider"))
            self._send(signal.SIGKILL, rng.uniform(0, 0.03))
        self.wait()
        return was_running

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        self._until(lambda: False)
        return self._process.wait(DEADLINE_SECONDS)

    def _send(self, number: int, delay: float, wait: bool = True) -> bool:
        time.sleep(delay)  # the seeded part of the moment
        running = self._process.poll() is None
        self._process.send_signal(number)
        if wait:
            self.wait()
        return running

    def _until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended or condition(), DEADLINE_SECONDS):
                raise TimeoutError(f"nothing for {DEADLINE_SECONDS} s; the log so far:\n{self.log}")

    def _logged(self, text: str) -> bool:
        return any(text in line for line in self._lines)

    def _request_served(self) -> None:
        with self._changed:
            self._served += 1
            self._changed.notify_all()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@dataclass
class Outcome:
    """The outcome of a scenario. *kills*: how many runs were ended while they worked."""

    kills: int = 0
    report: Report = field(default_factory=Report)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = f"{self.kills} kills, {len(self.report.checkpoints)} checkpoints, {len(self.report.orphans)} orphans"
        return "\n  ".join([found, *self.wrong])


def run(scenario: Scenario, folder: Path, bucket: str = "", client: Any = None, place: dict[str, Any] | None = None) -> Outcome:
    """Run *scenario* until it ends, or until something is wrong.

    :param folder: for settings and logs, and for the data unless they go to *bucket*, which must be empty
    """
    outcome = Outcome()
    unchanged = Unchanged()
    rng = random.Random(scenario.seed)
    root = f"s3://{bucket}" if scenario.s3 else str(folder / "data")
    stored: Callable[[], Files] = S3Files(client, bucket) if scenario.s3 else lambda: local_files(folder / "data")
    feeds = {"all": Feed(f"{root}/all/", jsonlines_keys), "second": Feed(f"{root}/second/", csv_gz_keys)}
    # So that most kills happen before the crawl ends, whatever their place in the list.
    requests = max(2, scenario.pages * (1 if scenario.callback == "same" else 2) * 3 // (2 * len(scenario.ends) or 1))
    with Source(scenario.seed, scenario.pages) as source:
        lines = [f"{name} = {value!r}\n" for name, value in scenario.settings(source, root, place or {}).items()]
        (folder / "kill_settings.py").write_text("".join(lines))
        for number, how in enumerate([*scenario.ends, ""]):
            with Run(scenario, source, folder) as process:
                if how:
                    outcome.kills += process.end(how, rng, requests)
                code = process.wait()
            (folder / f"{number}.log").write_text(process.log)
            files = stored()
            outcome.report = check(files, f"{root}/state/", feeds, lambda state: scenario.expected(source, state))
            wrong = outcome.report.wrong + unchanged.wrong(files)
            wrong += [f"{name} is left over" for name, each in local_files(folder / "tmp").items() if len(each) > _PROBE_BYTES]
            wrong += _wrong_end(how, code, process.log, outcome.report, scenario.pages)
            outcome.wrong = [f"run {number} ({how or 'left to finish'}): {each}" for each in wrong]
            if wrong:
                break
    if outcome.wrong and scenario.s3:
        for location, content in files.items():
            copy = folder / "bucket" / location.removeprefix("s3://")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
    return outcome


#: Python's tempfile writes a few bytes to see whether it can write to a folder; a kill may leave them.
_PROBE_BYTES = 4


def _wrong_end(how: str, code: int, log: str, report: Report, pages: int) -> list[str]:
    """Say what is wrong with how a run ended."""
    wrong = []
    if how != "sigterm twice" and (errors := [line for line in log.splitlines() if "] ERROR" in line or "] CRITICAL" in line]):
        wrong.append(f"its log has errors: {errors}")
    if how in ("sigterm", "") and (code or report.checkpoints[-1]["reason"] not in ("shutdown", "finished")):
        wrong.append(f"it ended with {code}, its last checkpoint is {report.checkpoints[-1:]}")
    if how == "" and report.state != {"page": pages + 1}:
        wrong.append(f"the source has {pages} pages, the last state is {report.state}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="stop after this many")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9), help="of the first scenario")
    parser.add_argument("--minutes", type=float, default=30, help="begin no scenario after this time")
    arguments = parser.parse_args()
    scenarios = kills = lost = twice = failed = 0
    deadline = time.monotonic() + 60 * arguments.minutes
    with S3Server() as s3:
        while kills < arguments.kills and time.monotonic() < deadline:
            began = time.monotonic()
            scenario = Scenario.random(arguments.seed + scenarios)
            folder = Path(tempfile.mkdtemp(prefix="chaos-"))
            outcome = run(scenario, folder, *s3.bucket(f"bucket-{scenario.seed}"))
            scenarios, kills = scenarios + 1, kills + outcome.kills
            lost, twice = lost + outcome.report.lost, twice + outcome.report.twice
            print(f"{scenario}\n  {outcome}, {time.monotonic() - began:.1f} s", flush=True)
            if outcome.wrong:
                failed += 1
                print(f"  see {folder}; again: python {sys.argv[0]} --kills 1 --seed {scenario.seed}", flush=True)
            else:
                shutil.rmtree(folder)
    if failed:
        print(f"{failed} scenarios failed")
    print(f"scenarios {scenarios}, kills {kills}, lost {lost}, twice {twice}")
    return 1 if failed else 0


class S3Server:
    """An S3 server on this machine."""

    def __enter__(self) -> "S3Server":
        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self._place = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION_NAME": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }
        self._client = boto3.session.Session().client(
            "s3", endpoint_url=f"http://{host}:{port}", aws_access_key_id="key", aws_secret_access_key="secret"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._server.stop()

    def bucket(self, name: str) -> tuple[str, Any, dict[str, Any]]:
        """Return an empty bucket's name, the client, and Scrapy's settings."""
        self._client.create_bucket(Bucket=name)
        return name, self._client, self._place


if __name__ == "__main__":
    sys.exit(main())
