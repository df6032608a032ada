"""How much disk and memory a long crawl takes while the store is slower than the crawl.

``python benchmarks/spool.py --size 10GB``: a site and a store run on this machine in their own processes. The store is an S3
server that reads uploads at ``--rate`` and drops them. It runs a crawl without feeds and without scrapy_state, then the same
crawl with an item feed on that store, a state feed, and STATE_SPOOL_SIZE = 64 MiB, and measures the crawl's process:

- disk: the blocks of all open files without a name, every 10 ms (``du`` doesn't see them). The limit is the spool and one
  batch.
- memory: its peak (VmHWM) above that of the crawl without feeds. The limit is 40 MiB.

It exits with 1 if a limit is exceeded or items are missing. It needs Linux's /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from servers import project, server

from scrapy_state.model.values import size_in_bytes

MIB = 1 << 20
ITEMS_A_PAGE = 10
MEMORY_LIMIT_MIB = 40
LOOK_SECONDS = 0.01
STORE = str(Path(__file__).with_name("sink.py"))
SPIDER = """
import scrapy

class SpoolSpider(scrapy.Spider):
    name = "spool"

    async def start(self):
        for chain in range(8):
            yield scrapy.Request(f"{self.site}/{chain}")

    def parse(self, response):
        page = int(response.url.rpartition("/")[2])
        yield from response.json()
        if self.states:
            from scrapy_state import StateItem
            yield StateItem({"page": page})
        if page + 8 < int(self.pages):
            yield scrapy.Request(f"{self.site}/{page + 8}")
"""


@dataclass
class Taken:
    """What a crawl took, and its log."""

    seconds: float
    memory_mib: float
    disk_mib: float
    log: str


def crawl(folder: Path, settings: dict[str, object], arguments: dict[str, object]) -> Taken:
    """Run the spider and watch its process."""
    given = project(folder, SPIDER.replace("name = ", f"states = {'ADDONS' in settings}\n    name = "), settings, **arguments)
    began, memory, disk = time.monotonic(), 0, 0
    with open(folder / "log", "w+") as log, subprocess.Popen(**given, stderr=log) as process:
        while process.poll() is None:
            memory = max(memory, peak_memory(process.pid))
            disk = max(disk, nameless_bytes(process.pid))
            time.sleep(LOOK_SECONDS)
        log.seek(0)
        text = log.read()
    if process.returncode:
        sys.exit(f"the crawl ended with {process.returncode}:\n{text[-3000:]}")
    return Taken(time.monotonic() - began, memory / MIB, disk / MIB, text)


def peak_memory(pid: int) -> int:
    """Return the most memory that process *pid* has had so far, 0 if it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def nameless_bytes(pid: int) -> int:
    """Return how much disk the nameless files take that process *pid* has open."""
    folder, total = f"/proc/{pid}/fd", 0
    try:
        handles = os.listdir(folder)
    except OSError:
        return 0
    for each in handles:
        try:
            found = os.stat(f"{folder}/{each}")
        except OSError:
            continue  # closed since
        if stat.S_ISREG(found.st_mode) and not found.st_nlink:
            total += max(found.st_blocks * 512, found.st_size)
    return total


def items_stored(store: str) -> int:
    """Return how many items the newest checkpoint counts, and check that all their files exist."""
    listed = urlopen(f"{store}/bench?list-type=2").read().decode()
    keys = re.findall("<Key>(.*?)</Key>", listed)
    newest, named = None, set()
    for key in sorted(key for key in keys if key.startswith("state/")):
        [newest] = json.loads(urlopen(f"{store}/bench/{key}").read())
        named |= {file["uri"] for file in newest["files"]}
    stored = {f"s3://bench/{key}" for key in keys if key.startswith("items/")}
    if newest is None or named - stored:
        sys.exit(f"checkpoints name files that are not stored: {sorted(named - stored)[:3]}")
    return int(newest["items"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="10GB", help="size of all items together")
    parser.add_argument("--item", default="100kB", help="size of one item")
    parser.add_argument("--batch", default="16MiB", help="batch_file_size; 0: a batch as large as the spool")
    parser.add_argument("--rate", default="20MB", help="bytes that the store reads per second; the crawl must make more")
    chosen = parser.parse_args()
    item_bytes, spool_bytes = size_in_bytes("--item", chosen.item), 64 * MIB
    batch_bytes = size_in_bytes("--batch", chosen.batch) if chosen.batch != "0" else spool_bytes
    pages = max(8, -(-size_in_bytes("--size", chosen.size) // (item_bytes * ITEMS_A_PAGE)))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "open").mkdir()
        site_port = stack.enter_context(server("large", ITEMS_A_PAGE, item_bytes))
        store_port = stack.enter_context(server(size_in_bytes("--rate", chosen.rate), program=STORE))
        store = f"http://127.0.0.1:{store_port}"
        arguments = {"site": f"http://127.0.0.1:{site_port}", "pages": pages}
        common = {"LOG_LEVEL": "INFO", "TELNETCONSOLE_ENABLED": False, "CONCURRENT_REQUESTS_PER_DOMAIN": 8, "DOWNLOAD_DELAY": 0}
        options = {"format": "jsonlines", **({"batch_file_size": batch_bytes} if chosen.batch != "0" else {})}
        feeds = {
            "s3://bench/items/%(run_id)s-%(batch_id)05d.jsonl": options,
            "s3://bench/state/%(batch_id)010d.json": {"format": "json", "item_classes": ["scrapy_state.StateItem"]},
        }
        with_feeds = {
            "ADDONS": {"scrapy_state.Addon": 500}, "FEEDS": feeds, "FEED_TEMPDIR": str(folder / "open"),
            "AWS_ENDPOINT_URL": store, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION_NAME": "us-east-1", "STATE_SPOOL_SIZE": spool_bytes, "STATE_CLOSE_TIMEOUT": 60,
        }  # fmt: skip
        without = crawl(folder, common, arguments)
        print(f"without feeds: {without.seconds:.0f} s, memory {without.memory_mib:.1f} MiB", flush=True)
        taken = crawl(folder, {**common, **with_feeds}, arguments)
        items = items_stored(store)
    found = re.search(r"'state/pauses': (\d+)", taken.log)
    pauses = int(found[1]) if found else 0
    more = taken.memory_mib - without.memory_mib
    disk_limit_mib = (spool_bytes + batch_bytes) / MIB
    print(f"with feeds: {taken.seconds:.0f} s, memory {taken.memory_mib:.1f} MiB, {items} items stored, {pauses} pauses")
    print(f"disk {taken.disk_mib:.1f} MiB, limit {disk_limit_mib:.0f} (spool {spool_bytes // MIB}, batch {batch_bytes // MIB})")
    print(f"memory {more:.1f} MiB over the crawl without feeds, limit {MEMORY_LIMIT_MIB}")
    wrong = [
        *(["items are missing"] if items != pages * ITEMS_A_PAGE else []),
        *(["the store was never slower than the crawl: lower --rate"] if not pauses else []),
        *(["too much disk"] if taken.disk_mib > disk_limit_mib else []),
        *(["too much memory"] if more > MEMORY_LIMIT_MIB else []),
    ]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
