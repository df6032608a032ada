"""Two runs that write in the same place, on real S3 servers."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest
from crawls import crawl, run_until, start
from server_buckets import ENDLESS, SPIDER, Bucket

from scrapy_state.exceptions import StateConflict
from scrapy_state.lineage.chain import lineage
from scrapy_state.lineage.resolve import Resolution, resolve
from scrapy_state.lineage.writer import CheckpointWriter
from scrapy_state.model.key_template import KeyTemplate

DEADLINE_SECONDS = 120
ROUNDS = 8


def test_second_writer(tmp_path: Path, bucket_at: Callable[[str], Bucket]) -> None:
    """If a second run writes to the same prefix, the first one notices at its next commit and stops; nothing is overwritten."""
    bucket = bucket_at("http")
    first = start(tmp_path / "first", SPIDER, *ENDLESS, "-a", "hold=6", settings=bucket.settings)
    log = run_until(first, 'stored: STATE {"page": 6}')  # so it is not stopped in the middle of a commit
    first.send_signal(signal.SIGSTOP)
    second = crawl(tmp_path / "second", SPIDER, settings=bucket.settings)
    assert second.code == 0, second.log
    before = bucket.etags()
    (tmp_path / "first" / "go").touch()
    first.send_signal(signal.SIGCONT)
    log += first.communicate(timeout=DEADLINE_SECONDS)[1]
    assert first.returncode == 76, log
    assert "'finish_reason': 'state_conflict'" in log
    assert {name: each for name, each in bucket.etags().items() if name in before} == before
    assert bucket.report().wrong == []


def test_two_runs_at_once(tmp_path: Path, bucket_at: Callable[[str], Bucket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two runs that start at the same instant, one notices and stops, and the other continues with a whole lineage. If the
    server lets both open with the same id, the later one stays; no other file is ever overwritten."""
    bucket = bucket_at("http")
    gate = tmp_path / "gate"
    monkeypatch.setenv("GATE", str(gate))
    arguments = (*ENDLESS, "-a", "delay=1")  # so that the later one still finds only the other's opening
    processes = [start(tmp_path / name, SPIDER, *arguments, settings=bucket.settings) for name in ("one", "other")]
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(lambda process=each: process.communicate(timeout=DEADLINE_SECONDS)[1]) for each in processes]
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(list(tmp_path.glob("gate.*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        gate.touch()
        seen: dict[str, list[str]] = {}
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
    runs = [run for run, _ in groupby(each["run"] for each in report.checkpoints)]
    assert len(runs) == len(set(runs)), "after one run took over, the other stored another checkpoint"


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
    print(f"in {both} of {ROUNDS} rounds the server let both open with id 1")


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
