"""Power failures: whatever the disk has not been told to keep may be missing, after every call of a crawl.

The calls of a crawl that is killed, and of the one that continues it, are recorded. After each of them the folder is rebuilt as
power.py says, and the oracle looks at it; from some of these folders a real crawl continues.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from oracle import Files, local_files
from planted import MISTAKES, TEARS
from power import Disk, whole
from short_crawls import SHAPES, Crawls, has_ended, put, wrong
from straced import seen_by_strace

SEED = 16


@pytest.fixture(scope="module")
def crawls() -> Iterator[Crawls]:
    with Crawls() as found:
        yield found


def record(crawls: Crawls, folder: Path, shape: str, planted: str = "") -> list[dict[str, Any]]:
    """Return the calls of a crawl in *folder* that is killed, and of the one that continues it."""
    into = folder.with_suffix(".calls")
    crawls.kill(folder, shape, into, planted)
    run = crawls.run(folder, shape, {"recording": {"folder": str(folder), "into": str(into)}}, planted)
    assert run.code == 0, run.log
    return [json.loads(line) for line in into.read_text().splitlines()]


@dataclass
class Outcome:
    """What power failures after each call have left."""

    calls: int = 0
    states: int = 0
    torn: int = 0
    #: states in which the crawl is not over yet, each once
    unfinished: list[Files] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def fail_everywhere(calls: list[dict[str, Any]], folder: Path, shape: str) -> Outcome:
    """Let the power fail after each of *calls*, and look at all that it may leave."""
    disk, outcome, chance, seen = Disk(folder), Outcome(), random.Random(SEED), set()
    states = f"{folder}/data/state/"
    for call in calls:
        disk.do(call)
        outcome.calls += 1
        for files in disk.failures(chance):
            outcome.states += 1
            lost = [path for path, content in disk.promised.items() if files.get(path) != content]
            sound, torn = whole(files, states)
            outcome.torn += bool(torn)
            digest = hash(frozenset(files.items()))
            faults = [f"{path} was stored, and is lost" for path in lost]
            if digest not in seen:
                seen.add(digest)
                faults += wrong(folder, SHAPES[shape], over=False, files=sound)
                if not has_ended(folder, sound):
                    outcome.unfinished.append(files)
            what = {name: value for name, value in call.items() if name != "data"}
            outcome.wrong += [f"after call {outcome.calls}, {what}: {fault}" for fault in faults]
    return outcome


def continues(crawls: Crawls, folder: Path, shape: str, files: Files) -> list[str]:
    """Return what is wrong with a crawl that continues from *files*."""
    states = f"{folder}/data/state/"
    torn = whole(files, states)[1]
    run = crawls.run(put(folder, files), shape)
    faults = [] if run.code == 0 and not run.lines("ERROR", "CRITICAL") else [f"the crawl failed: {run.log}"]
    faults += [f"no warning of {path}" for path in torn if not any(path in line for line in run.lines("WARNING"))]
    return faults + wrong(folder, SHAPES[shape], over=True, files=whole(local_files(folder / "data"), states)[0])


def survives(crawls: Crawls, folder: Path, shape: str, resumed: int, planted: str = "") -> Outcome:
    """Record a crawl, let the power fail after every call, and continue from *resumed* of the folders that are left."""
    calls = record(crawls, folder, shape, planted)
    outcome = fail_everywhere(calls, folder, shape)
    print(f"{Counter(call['call'] for call in calls)}\nseed {SEED}: {outcome.states} states after {outcome.calls} calls, "
          f"{len(outcome.unfinished)} different ones to continue from, {outcome.torn} with torn checkpoints")  # fmt: skip
    chosen = random.Random(SEED).sample(outcome.unfinished, len(outcome.unfinished))
    if outcome.torn:
        chosen.sort(key=lambda files: not whole(files, f"{folder}/data/state/")[1])
    for files in chosen[:resumed]:
        outcome.wrong += continues(crawls, folder, shape, files)
    return outcome


def test_power_failure(crawls: Crawls, tmp_path: Path) -> None:
    """Whatever a power failure takes, the newest checkpoint that is left is true, and the next run completes the crawl."""
    assert survives(crawls, tmp_path / "crawl", "batches", resumed=8).wrong == []


@pytest.mark.campaign
@pytest.mark.parametrize("shape", SHAPES)
def test_power_failure_of_all_shapes(crawls: Crawls, tmp_path: Path, shape: str) -> None:
    """The same for spiders and feeds of all shapes, with more crawls that continue."""
    assert survives(crawls, tmp_path / "crawl", shape, resumed=60).wrong == []


@pytest.mark.campaign
@pytest.mark.parametrize("planted", TEARS)
def test_torn_checkpoint(crawls: Crawls, tmp_path: Path, planted: str) -> None:
    """Where a power failure can tear a state file, the next run skips it, with a warning that names it."""
    outcome = survives(crawls, tmp_path / "crawl", "batches", 40, planted)
    assert outcome.wrong == []
    assert outcome.torn


@pytest.mark.long
@pytest.mark.parametrize("planted", MISTAKES)
def test_planted_mistakes(crawls: Crawls, tmp_path: Path, planted: str) -> None:
    """A package that made one of these mistakes would not pass."""
    outcome = fail_everywhere(record(crawls, tmp_path / "crawl", "batches", planted), tmp_path / "crawl", "batches")
    print(f"{outcome.states} states, {outcome.torn} torn, {len(outcome.wrong)} wrong:", *outcome.wrong[:3], sep="\n")
    assert outcome.wrong


@pytest.mark.long
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("shape", SHAPES)
def test_no_call_is_missed(tmp_path: Path, shape: str) -> None:
    """strace sees the same calls."""
    folder, traced, into = tmp_path / "crawl", tmp_path / "traced", tmp_path / "calls"
    with Crawls("strace", "-f", "-y", "-o", str(traced), "-e", "trace=%file,%desc") as crawls:
        run = crawls.run(put(folder, {}), shape, {"recording": {"folder": str(folder), "into": str(into)}})
    assert run.code == 0, run.log
    calls = [json.loads(line) for line in into.read_text().splitlines()]
    recorded = Counter(_kind_and_name(call) for call in calls if call["call"] != "stored")
    seen = seen_by_strace(traced.read_text(), str(folder), f"{folder}/log.txt", [tempfile.gettempdir(), "/dev/shm"])
    assert seen == recorded


def _kind_and_name(call: dict[str, Any]) -> tuple[str, str]:
    return call["call"], call.get("path", "") if call["call"] in ("link", "mkdir", "unlink", "sync folder") else ""
