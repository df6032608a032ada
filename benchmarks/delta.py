"""Pages of earlier crawls (STATE_DELTA): how long they take to load, how much memory they take, and how long a lookup takes.

The runs of keys are files on the local disk, as many as a start reads at most. A process of its own loads them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from random import Random
from statistics import median

from scrapy_state.delta.files import StoredRuns
from scrapy_state.delta.runs import write_run
from scrapy_state.model.stored_file import StoredFile
from scrapy_state.stores.local import LocalReader

#: The goals, for 10 million keys
MOST_MB, MOST_SECONDS, MOST_MICROSECONDS = 120, 10, 2
GOAL_KEYS = 10_000_000
#: The sizes of the runs: two crawls' worth, with many that have not been merged yet
SHARES = (0.5, 0.2, 0.1, 0.05, 0.04, 0.03, 0.02, 0.02, *(0.005 for _ in range(8)))
LOOKUPS = 100_000


def make(folder: Path, keys: int) -> list[dict[str, object]]:
    """Write the runs into *folder*/delta, and return what a checkpoint says of them."""
    files = []
    (folder / "delta").mkdir()
    for number, share in enumerate(SHARES):
        random = Random(number)
        count = max(1, int(keys * share))
        drawn = array("Q", sorted(random.getrandbits(64) for _ in range(count)))
        path = folder / "delta" / f"run-{number:05d}.keys"
        with path.open("w+b") as file:
            write_run([(drawn, array("H", [20_000 + number]) * count)], file)
        data = path.read_bytes()
        files.append({"name": path.name, "bytes": len(data), "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"})
    return files


def load(folder: Path) -> None:
    """Load the runs, look keys up, and print what that took."""
    files = [StoredFile.from_json(file) for file in json.loads((folder / "files.json").read_text())]
    before = _memory()
    began, began_cpu = time.perf_counter(), time.process_time()
    known = StoredRuns(LocalReader(), f"{folder}/").known(files)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    megabytes = (_memory() - before) / 1e6
    first = Random(0)
    hits = [first.getrandbits(64) for _ in range(min(LOOKUPS, int(len(known) * SHARES[0])))]
    random = Random(99)
    misses = [random.getrandbits(64) for _ in range(LOOKUPS)]
    random.shuffle(hits)
    found = {"keys": len(known), "seconds": seconds, "cpu_seconds": cpu_seconds, "MB": megabytes}
    print(json.dumps({**found, "hit": _median(known.day, hits), "miss": _median(known.day, misses)}))


def _median(look_up: object, keys: list[int]) -> float:
    """Return the median time of a lookup in microseconds, without that of the clock."""
    assert callable(look_up)
    took, clock = [], []
    for key in keys:
        began = time.perf_counter_ns()
        look_up(key)
        took.append(time.perf_counter_ns() - began)
        began = time.perf_counter_ns()
        clock.append(time.perf_counter_ns() - began)
    return (median(took) - median(clock)) / 1000


def _memory() -> int:
    """Return the most memory that this process has had, in bytes. (getrusage() would count what its parent had.)"""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=GOAL_KEYS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(options.load)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files.json").write_text(json.dumps(make(folder, options.keys)))
        output = subprocess.run(
            [sys.executable, __file__, "--load", name], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    found = json.loads(output)
    share = max(options.keys / GOAL_KEYS, 0.2)  # what Python itself needs does not shrink
    print(f"{found['keys']:,} keys in {len(SHARES)} files")
    met = True
    for what, value, goal, unit in (
        # Other processes delay it, so the goal is for its own time.
        (f"load ({found['seconds']:.2f} s), CPU", found["cpu_seconds"], MOST_SECONDS * share, "s"),
        ("memory, at its highest", found["MB"], MOST_MB * share, "MB"),
        ("lookup of a known page, median", found["hit"], MOST_MICROSECONDS, "µs"),
        ("lookup of another page, median", found["miss"], MOST_MICROSECONDS, "µs"),
    ):
        print(f"{what}: {value:.2f} {unit} (goal: at most {goal:g} {unit}){'' if value <= goal else ' MISSED'}")
        met &= value <= goal
    return 0 if met or options.keys < GOAL_KEYS else 1


if __name__ == "__main__":
    sys.exit(main())
