"""What a crawl with very many pending requests takes: memory, bytes of a checkpoint, blocking, and the next run's start.

``python benchmarks/pending.py --size 1000000``: crawls on this machine, each in its own process, without a network: a
download handler makes up the responses. Each crawl collects SIZE requests from 100 hub pages, then crawls 1,000 of them, with 5
new links each, and is killed. Then the next run starts. Scrapy without checkpoints is next to it, in memory and with JOBDIR,
whose queues are files, or SQLite (Scrapy 2.19 and later).

Goals, for 1,000,000 pending requests:

- peak memory as Scrapy's; with STATE_REQUESTS_ON_DISK at most 150 MB;
- the checkpoint after 1,000 pages stores at most 1 MB of requests, and holds the event loop for 20 ms at most, 50 at worst;
- the next run sends its first request within 5 s, has all of them within 60 s, and reads 12 objects at most;
- 10,000,000 fingerprints seen take at most 300 MB (measured with ten times SIZE).

How long the loop is held is what a task measures that only sleeps. Other processes delay it, too, so next to the seconds are
the CPU seconds that the process has used in one turn of the loop. These include its threads, whether or not they hold the GIL,
but not Python's garbage collector, which may take long in plain Scrapy, too: "gc_cpu" is its longest pause. "memory" is the
peak of the whole process so far, in MB of 10**6 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from servers import project

SPIDER = Path(__file__).with_name("pending_spider.py")
SEEN = """
import json, random, resource, sys, time
from scrapy_state.frontier.seen import SeenSet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
seen, random, began = SeenSet(), random.Random(1), time.process_time()
for _ in range(int(sys.argv[1])):
    seen.add(random.randbytes(20))
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"memory": memory, "memory_before": before, "cpu": time.process_time() - began}))
"""
COMMON = {
    "LOG_LEVEL": "WARNING",
    "TELNETCONSOLE_ENABLED": False,
    "DOWNLOAD_HANDLERS": {"http": "bench.Stub"},
    "DOWNLOAD_DELAY": 0,
    "CONCURRENT_REQUESTS_PER_DOMAIN": 16,
}
ITEMS = {"data/items/%(batch_time)s.jsonl": {"format": "jsonlines"}}
STATES = {"data/state/%(batch_id)010d.json": {"format": "json", "item_classes": ["scrapy_state.StateItem"]}}
ADDON = {"ADDONS": {"scrapy_state.Addon": 500}, "STATE_INTERVAL": 5, "FEEDS": {**ITEMS, **STATES}}
KINDS: dict[str, dict[str, Any]] = {
    "Scrapy": {"FEEDS": ITEMS},
    "JOBDIR": {"FEEDS": ITEMS, "JOBDIR": "job"},
    "JOBDIR, SQLite": {"FEEDS": ITEMS, "JOBDIR": "job", "SCHEDULER_DISK_QUEUE": "scrapy.squeues.PickleLifoSQLiteQueue"},
    "state": ADDON,
    "state, on disk": {**ADDON, "STATE_REQUESTS_ON_DISK": True},
}


def crawl(folder: Path, settings: dict[str, Any], size: int, mode: str) -> list[dict[str, Any]]:
    """Run the spider until it kills itself; return what it has measured."""
    given = project(folder, SPIDER.read_text(), {**COMMON, **settings, "BENCH_SIZE": size, "BENCH_MODE": mode})
    done = subprocess.run(**given, capture_output=True, text=True)
    if done.returncode == 0 and "JOBDIR" in settings:
        return [{"requests left after the kill": 0}]
    if done.returncode != -9:
        sys.exit(f"the crawl ended with {done.returncode}:\n{done.stderr[-3000:]}")
    print(done.stderr, end="", file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def show(name: str, values: dict[str, Any]) -> None:
    shown = []
    for key, value in values.items():
        is_bytes = key.startswith("memory") or key.endswith("bytes")
        shown.append(f"{key} {value / 1e6:,.3f} MB" if is_bytes else f"{key} {round(value, 3):,}")
    print(f"{name:24} {', '.join(shown)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1_000_000, help="pending requests, at least 1,000")
    parser.add_argument("--only", choices=KINDS, help="only this kind of crawl")
    size, only = (chosen := parser.parse_args()).size, chosen.only
    for name, settings in KINDS.items():
        if only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            filled, crawled = crawl(Path(folder), settings, size, "fill")
            show(f"{name}: collect", filled)
            show(f"{name}: 1,000 pages", crawled)
            if name != "Scrapy":
                show(f"{name}: next run", crawl(Path(folder), settings, size, "resume")[0])
    if only is None:
        done = subprocess.run([sys.executable, "-c", SEEN, str(10 * size)], check=True, capture_output=True, env=os.environ)
        show(f"{10 * size:,} seen", json.loads(done.stdout))
    return 0


if __name__ == "__main__":
    sys.exit(main())
