"""On real S3 servers, OpenStack Swift and Ceph RGW.

They heed ``If-None-Match: *``, but may tell both of two simultaneous writers 200. real_server.py says in what they differ.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from chaos import Scenario, run
from crawls import STATE_OPTIONS, crawl, run_until, start
from oracle import Feed, Report, S3Files, check, jsonlines_keys
from real_server import Endpoint, RealServer

from scrapy_state.exceptions import KeyTaken, StateConflict, StoreError, StoreRefused
from scrapy_state.lineage.chain import lineage
from scrapy_state.lineage.resolve import Resolution, resolve
from scrapy_state.lineage.writer import CheckpointWriter
from scrapy_state.model.key_template import KeyTemplate
from scrapy_state.stores import s3
from scrapy_state.stores import s3_client as s3client

MIN_PART_BYTES = 5 * 1024 * 1024
DEADLINE_SECONDS = 60
ROUNDS = 8

#: Two items and a state item for each page. It waits for *gate*, a file, if there is one to wait for.
SPIDER = """
import asyncio, os, time
import scrapy
from scrapy_state import StateItem
from scrapy_state.stores import s3, s3_client as s3client

class TestSpider(scrapy.Spider):
    name = "numbers"
    pages = 3
    pause = 0
    size = 0
    delay = 0
    s3.PART_BYTES = 5 * 1024 * 1024  # MIN_PART_BYTES

    @classmethod
    def update_settings(cls, settings):
        super().update_settings(settings)
        while os.environ.get("GATE") and not os.path.exists(os.environ["GATE"]):
            time.sleep(0.001)

    async def start(self):
        first = self.state.get("page", 1)
        await asyncio.sleep(float(self.delay))
        for page in range(first, first + int(self.pages)):
            for number in range(2):
                yield {"key": f"{page}-{number}", "filler": "." * int(self.size)}
            yield StateItem({"page": page + 1})
            await asyncio.sleep(float(self.pause))
"""
ENDLESS = ("-a", "pages=1000", "-a", "pause=0.1")


class Bucket:
    """A bucket with nothing in it, at one of a server's endpoints."""

    _numbers = count(1)

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.client = endpoint.client()
        self.name = f"bucket-{os.getpid()}-{next(self._numbers)}"
        self.client.create_bucket(Bucket=self.name)
        self.files = S3Files(self.client, self.name)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a project whose data are there."""
        items, states = "items/%(run_id)s-%(batch_id)05d.jsonl", "state/%(batch_id)010d.json"
        feeds = {f"s3://{self.name}/{items}": {"format": "jsonlines"}, f"s3://{self.name}/{states}": STATE_OPTIONS}
        return {**self.endpoint.settings, "FEEDS": feeds, "STATE_INTERVAL": 0.2, "LOG_LEVEL": "INFO"}

    def etags(self) -> dict[str, str]:
        """Return which keys there are, and a digest of each content."""
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return {each["Key"]: each["ETag"] for each in found}

    def report(self) -> Report:
        """Check everything that is there: whole files, and one lineage with exactly the items before each state."""
        feeds = {"all": Feed(f"s3://{self.name}/items/", jsonlines_keys)}
        return check(self.files(), f"s3://{self.name}/state/", feeds, self._expected)

    def writer(self) -> s3.S3Writer:
        """Return the package's own writer for it."""
        return s3.S3Writer(self.name, s3.S3Options.from_settings(self.endpoint.settings, ""))

    @staticmethod
    def _expected(state: dict[str, Any]) -> dict[str, list[str]]:
        return {"all": [f"{page}-{number}" for page in range(1, state.get("page", 1)) for number in range(2)]}


@pytest.fixture(params=["swift", pytest.param("rgw", marks=pytest.mark.campaign)], scope="module")
def server(request: pytest.FixtureRequest) -> RealServer:
    found: RealServer = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def bucket_at(server: RealServer, reach: Callable[[Endpoint], Endpoint]) -> Iterator[Callable[[str], Bucket]]:
    """Makes a bucket, given "http" or "https". Only one of them at a time: they need other environment variables."""
    made: list[Bucket] = []

    def make(scheme: str) -> Bucket:
        made.append(Bucket(reach(getattr(server, scheme))))
        return made[-1]

    yield make
    for each in made:
        each.client.close()


schemes = pytest.mark.parametrize("scheme", ["http", "https"])


@schemes
def test_crawl_and_resume(tmp_path: Path, bucket_at: Callable[[str], Bucket], scheme: str) -> None:
    """A run starts where the last one ended; also over https, with AWS_CA_BUNDLE and boto's checksum trailers."""
    bucket = bucket_at(scheme)
    for number in (1, 2):
        outcome = crawl(tmp_path, SPIDER, settings=bucket.settings)
        assert outcome.code == 0, outcome.log
        report = bucket.report()
        assert report.wrong == []
        assert report.state == {"page": 3 * number + 1}
    assert outcome.lines("a second writer there is detected, not prevented")
    assert not outcome.lines("] WARNING")
    assert not outcome.lines("] ERROR")


def test_unknown_certificate(bucket_at: Callable[[str], Bucket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AWS_CA_BUNDLE a server with a self-made certificate is not trusted, and receives nothing."""
    bucket = bucket_at("https")
    monkeypatch.delenv("AWS_CA_BUNDLE")
    monkeypatch.setattr(s3client, "_clients", {})  # a client has read it when it was made
    with pytest.raises(StoreError, match="SSLError"):
        bucket.writer().create("key", io.BytesIO(b"content"))
    assert bucket.etags() == {}


KILLS = ("kill", "opening", "kill")


@pytest.mark.parametrize(
    ("scheme", "scenario"),
    [
        ("http", Scenario(31, "confirm", "async", True, True, 4, "", s3=True, pages=12, ends=KILLS)),
        ("https", Scenario(32, "early", "sync", True, False, 3, "class", 0.05, s3=True, pages=15, ends=KILLS)),
    ],
    ids=["http", "https"],
)
def test_no_kill_loses_or_doubles_an_item(
    tmp_path: Path, bucket_at: Callable[[str], Bucket], scheme: str, scenario: Scenario
) -> None:
    """However a run ends, every checkpoint names exactly the items before its state, and the last run completes them."""
    bucket = bucket_at(scheme)
    outcome = run(scenario, tmp_path, bucket.name, bucket.client, bucket.endpoint.settings)
    print(f"{scenario}\n{outcome}\nthe logs: {tmp_path}/*.log")
    assert not outcome.wrong
    assert outcome.kills == len(scenario.ends)


def test_second_writer(tmp_path: Path, bucket_at: Callable[[str], Bucket]) -> None:
    """If a second run writes to the same prefix, the first one notices at its next commit and stops; nothing is overwritten."""
    bucket = bucket_at("http")
    first = start(tmp_path / "first", SPIDER, *ENDLESS, settings=bucket.settings)
    log = run_until(first, "checkpoint 3 stored")
    first.send_signal(signal.SIGSTOP)
    second = crawl(tmp_path / "second", SPIDER, settings=bucket.settings)
    assert second.code == 0, second.log
    before = bucket.etags()
    first.send_signal(signal.SIGCONT)
    log += first.communicate(timeout=DEADLINE_SECONDS)[1]
    assert first.returncode == 76, log
    assert "'finish_reason': 'state_conflict'" in log
    assert {name: each for name, each in bucket.etags().items() if name in before} == before
    assert bucket.report().wrong == []


def test_two_runs_at_once(tmp_path: Path, bucket_at: Callable[[str], Bucket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two runs that start at the same instant, one notices and stops, and the other continues with a whole lineage. If Swift
    lets both open with the same id, the later one stays; no other file is ever overwritten."""
    bucket = bucket_at("http")
    gate = tmp_path / "gate"
    monkeypatch.setenv("GATE", str(gate))
    arguments = (*ENDLESS, "-a", "delay=1")  # so that the later one still finds only the other's opening
    processes = [start(tmp_path / name, SPIDER, *arguments, settings=bucket.settings) for name in ("one", "other")]
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(lambda process=each: process.communicate(timeout=DEADLINE_SECONDS)[1]) for each in processes]
        time.sleep(1)  # lets both reach the gate; if one comes later, the test is weaker, not wrong
        gate.touch()
        seen: dict[str, list[str]] = {}
        deadline = time.monotonic() + DEADLINE_SECONDS
        while all(each.poll() is None for each in processes) and time.monotonic() < deadline:
            _look(bucket, seen)
        until = time.monotonic() + 1
        while time.monotonic() < until:  # and the winner goes on
            _look(bucket, seen)
        running = [each for each in processes if each.poll() is None]
        assert len(running) == 1
        _end(running[0])
        logs = [each.result() for each in ends]
        _look(bucket, seen)
    assert sorted(each.returncode for each in processes) == [0, 76]
    [loser] = [log for process, log in zip(processes, logs, strict=True) if process.returncode]
    late = "another run is storing them right now"  # it found the other's opening, not in the same instant
    assert "'finish_reason': 'state_conflict'" in loser or late in loser, loser
    twice = [key for key, etags in seen.items() if len(etags) > 1]
    assert twice in ([], ["state/0000000001.json"])
    report = bucket.report()
    assert report.wrong == []
    assert len({each["run"] for each in report.checkpoints[1:]}) == 1


def _look(bucket: Bucket, seen: dict[str, list[str]]) -> None:
    """Record under each key the contents that it has had."""
    time.sleep(0.05)
    for key, etag in bucket.etags().items():
        if etag not in seen.setdefault(key, []):
            seen[key].append(etag)


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(DEADLINE_SECONDS)


def test_openings_at_once(bucket_at: Callable[[str], Bucket]) -> None:
    """Whatever happens to two simultaneous openings, exactly one of their runs gets past its next two commits."""
    bucket = bucket_at("http")
    both = 0
    for number in range(ROUNDS):
        runs = _open_at_once(bucket, f"{number}/")
        both += [each.last.id for each in runs if each.last] == [1, 1]
        for page in (1, 2):
            runs = [each for each in runs if each.last and _gets_on(partial(each.commit, each.next({"page": page}, ())))]
        [winner] = runs
        resolution = resolve(winner.store, winner.template)
        assert resolution.checkpoint is not None
        assert (resolution.checkpoint.run, resolution.checkpoint.state) == (winner.run, {"page": 2})
        found = lineage(winner.store, winner.template, resolution.checkpoint)
        assert [each.id for each in found] == list(range(resolution.newest_id, 0, -1))
    print(f"in {both} of {ROUNDS} rounds Swift let both open with id 1")


def _open_at_once(bucket: Bucket, prefix: str) -> list[CheckpointWriter]:
    """Return two runs that have tried to open under *prefix*; one that could not has no ``last``."""
    template = KeyTemplate.parse(f"{prefix}%(batch_id)010d.json", {})
    at_once = threading.Barrier(2)

    def opened(run: str) -> CheckpointWriter:
        writer = CheckpointWriter(bucket.writer(), template, format="json", spider="numbers", run=run, job=None)
        at_once.wait(DEADLINE_SECONDS)
        _gets_on(lambda: writer.open({}, Resolution(), lambda: resolve(writer.store, template)))
        return writer

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(opened, ("one", "other")))


def _gets_on(step: Callable[[], object]) -> bool:
    try:
        step()
    except StateConflict:
        return False
    return True


def test_read_only_user(tmp_path: Path, bucket_at: Callable[[str], Bucket], server: RealServer) -> None:
    """A user who may only read, as docs/setup.md creates one for servers with bucket ACLs, starts from production's state."""
    bucket = bucket_at("http")
    grants = {"GrantFullControl": f'id="{bucket.endpoint.access_key}"', "GrantRead": f'id="{server.guest}"'}
    bucket.client.put_bucket_acl(Bucket=bucket.name, **grants)
    settings = {**bucket.settings, "FEED_STORAGE_S3_ACL": "authenticated-read"}
    run = crawl(tmp_path, SPIDER, settings=settings)
    assert run.code == 0, run.log
    before = bucket.etags()
    run = crawl(tmp_path, SPIDER, settings={**settings, "AWS_ACCESS_KEY_ID": server.guest, "STATE_READONLY": True, "FEEDS": {
        uri: options for uri, options in settings["FEEDS"].items() if options is STATE_OPTIONS
    }})  # fmt: skip
    assert run.code == 0, run.log
    assert run.lines('STATE {"page": 4} from checkpoint')
    assert bucket.etags() == before
    reader = s3.S3Writer(bucket.name, s3.S3Options.from_settings({**settings, "AWS_ACCESS_KEY_ID": server.guest}, ""))
    with pytest.raises(StoreRefused, match="may PutObject there"):
        reader.create("state/0000000099.json", io.BytesIO(b"x"))


def test_unfinished_upload(bucket_at: Callable[[str], Bucket]) -> None:
    """An upload that a killed run had begun is aborted, with its parts; another run's upload stays."""
    bucket = bucket_at("http")
    for name in ("run-1", "run-2"):
        upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"items/{name}-1")["UploadId"]
        part = {"Key": f"items/{name}-1", "UploadId": upload, "PartNumber": 1}
        bucket.client.upload_part(Bucket=bucket.name, Body=b"x", **part)
    assert list(bucket.writer().abort_uploads("items/run-1")) == ["items/run-1-1"]
    [left] = bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    assert left["Key"] == "items/run-2-1"


@schemes
def test_several_parts(
    tmp_path: Path, bucket_at: Callable[[str], Bucket], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of several parts is stored complete, once, and never over another file; no upload is left open."""
    bucket = bucket_at(scheme)
    settings = {**bucket.settings, "STATE_INTERVAL": 1000}
    outcome = crawl(tmp_path, SPIDER, "-a", f"size={1024 * 1024}", settings=settings)
    assert outcome.code == 0, outcome.log
    report = bucket.report()
    assert report.wrong == []
    assert report.state == {"page": 4}
    [(key, etag)] = [each for each in bucket.etags().items() if each[0].startswith("items/")]
    assert etag.endswith('-2"')

    monkeypatch.setattr(s3, "PART_BYTES", MIN_PART_BYTES)
    stored = bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read()
    assert len(stored) > MIN_PART_BYTES
    assert [json.loads(line)["key"] for line in stored.splitlines()] == ["1-0", "1-1", "2-0", "2-1", "3-0", "3-1"]
    writer = bucket.writer()
    writer.create(key, io.BytesIO(stored))  # as after a lost reply
    with pytest.raises(KeyTaken):
        writer.create(key, io.BytesIO(stored[::-1]))
    assert bucket.etags()[key] == etag
    assert not bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")
