"""Crawls for a long time while the store misbehaves, and checks that nothing grows and nothing is lost: ``make soak``.

``--minutes 60 --seed 1``: one crawl of a slow site on this machine, with requests in its checkpoints, in S3 (moto) behind a
proxy that harms a sixth of all requests, and lets none through for a tenth of the time. What the crawl uses is sampled.

After a quarter, for warming up, the rest is compared in thirds: the median of the last one must be no more than that of the
first one plus a tolerance, see TOLERANCES. At the end the lineage must have each item once (requests_oracle.py).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import crawls
from any_shape import page_of
from chaos import S3Server
from faulty import Fault, Proxy
from loopback import Handler, Server
from oracle import Feed, S3Files, jsonlines_keys
from process_use import use_of
from requests_oracle import Expected, check

PAGE_SECONDS = 1.5
#: How often the memory, the disk, … are looked at; and how often the crawl counts its tasks and Python objects
SAMPLE_SECONDS, COUNT_SECONDS = 2, 10
#: How many pages the site has at any time: each leads to the next one of its chain.
CHAINS = 8
ITEMS_A_PAGE = 3
#: name -> how much more the last third may use than the first one: a share of it, and an amount
TOLERANCES = {
    "memory": (0.05, 2e6),
    "disk": (0.2, 1e6),
    "open files": (0, 3),
    "threads": (0, 3),
    "tasks": (0, 3),
    "objects": (0.02, 1000),
}
#: kind of fault -> how often it happens, in 1,000 requests, see faulty.KINDS
FAULTS = {"500": 30, "503": 30, "reset": 30, "lost reply": 30, "slow": 30, "damaged": 10, "time-out": 2, "too slow": 2}
SPIDER = f"""
import asyncio, gc
from pathlib import Path
import scrapy

class Soak(scrapy.Spider):
    name = "numbers"

    async def start(self):
        self.counting = asyncio.ensure_future(self.count())
        for chain in range({CHAINS}):
            yield scrapy.Request(f"{{self.site}}/p/{{chain}}")

    def parse(self, response):
        path = response.url.removeprefix(self.site)
        for number in range({ITEMS_A_PAGE}):
            yield {{"key": f"{{path}}#{{number}}", "text": "some text " * 100}}
        if response.text:
            yield response.follow(response.text)

    async def count(self):
        while True:
            gc.collect()  # what waits for the collector is no leak
            Path("counts").write_text(f"{{len(asyncio.all_tasks())}} {{len(gc.get_objects())}}")
            await asyncio.sleep({COUNT_SECONDS})

    def closed(self, reason):
        self.counting.cancel()
"""


class Page(Handler):
    """A page, whose text is the path of the next one until the server's *ends_at*. The server's *paths* has all that exist."""

    def do_GET(self) -> None:
        time.sleep(PAGE_SECONDS)
        number = int(self.path.rpartition("/")[2])
        following = f"/p/{number + CHAINS}" if time.monotonic() < self.server.ends_at else ""
        with self.server.asked_lock:
            self.server.asked[self.path] += 1
        self.reply(200, following)


class BadWeather(Proxy):
    """Harms requests by chance, once :attr:`began`; for a tenth of each period it harms all."""

    def __init__(self, store: str, seed: int, period_seconds: float) -> None:
        super().__init__(store)
        self.began: float | None = None
        self._chance = random.Random(seed)
        self._period_seconds = period_seconds

    def fault_for(self, request: str) -> Fault | None:
        if self.began is None:
            return None
        phase = (time.monotonic() - self.began) / self._period_seconds % 1
        if phase > 0.9:
            return Fault("reset", "")
        with self._lock:
            kinds = [*FAULTS, None]
            [kind] = self._chance.choices(kinds, [*FAULTS.values(), 1000 - sum(FAULTS.values())])
        return Fault(kind, "") if kind else None


@dataclass
class Samples:
    """What the crawl has used, from :attr:`TOLERANCES`' names to amounts, oldest first."""

    values: dict[str, list[float]]

    def take(self, process: subprocess.Popen[str], folder: Path) -> None:
        use = use_of(process.pid, folder / "tmp")
        counts = (folder / "counts").read_text().split() if (folder / "counts").exists() else []
        if use is None or len(counts) != 2:
            return
        found = (use.memory, use.disk, use.open_files, use.threads, *map(int, counts))
        for name, value in zip(TOLERANCES, found, strict=True):
            self.values[name].append(value)

    def wrong(self) -> list[str]:
        """Print the medians of each third; say what has grown."""
        wrong = []
        print(f"{'':12} {'first third':>14} {'second':>14} {'last':>14} {'most':>14}")
        for name, (share, amount) in TOLERANCES.items():
            values = self.values[name]
            values = values[len(values) // 4 :]
            third = len(values) // 3
            if not third:
                return ["there are too few samples"]
            thirds = [statistics.median(values[begin : begin + third]) for begin in (0, third, 2 * third)]
            print(f"{name:12} " + " ".join(f"{value:>14,.0f}" for value in [*thirds, max(self.values[name])]))
            if thirds[2] > thirds[0] * (1 + share) + amount:
                wrong.append(f"{name} grew from {thirds[0]:,.0f} to {thirds[2]:,.0f}")
        return wrong


def run(minutes: float, seed: int, interval_seconds: float, folder: Path) -> list[str]:
    """Crawl for about *minutes*; print what was seen; return what is wrong."""
    temporary = folder / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    samples = Samples({name: [] for name in TOLERANCES})
    seconds = 60 * minutes
    with (
        S3Server() as s3,
        Server(Page, asked=Counter(), asked_lock=threading.Lock(), ends_at=time.monotonic() + seconds) as site,
    ):
        bucket, client, place = s3.bucket("soak")
        with BadWeather(place["AWS_ENDPOINT_URL"], seed, max(20, seconds / 12)) as proxy:
            settings = {
                **place,
                "AWS_ENDPOINT_URL": proxy.url,
                "FEEDS": crawls.s3_feeds(bucket),
                "STATE_INTERVAL": interval_seconds,
                "STATE_CLOSE_TIMEOUT": 300,
                "LOG_FILE": str(folder / "crawl.log"),
                "LOG_LEVEL": "INFO",
                "CONCURRENT_REQUESTS_PER_DOMAIN": CHAINS,
                # Twisted keeps the cancelled time-out of each download until it would have passed.
                "DOWNLOAD_TIMEOUT": 10,
            }
            process = crawls.start(folder, SPIDER, "-a", f"site={site.url}", settings=settings)
            try:
                while process.poll() is None and time.monotonic() < site.ends_at + 600:
                    if proxy.began is None and site.asked:
                        proxy.began = time.monotonic()
                    if time.monotonic() < site.ends_at:
                        samples.take(process, folder)
                    time.sleep(SAMPLE_SECONDS)
            finally:
                process.kill()
            process.communicate()
            wrong = samples.wrong()
            wrong += _wrong_end(process.returncode, folder, proxy)
        wrong += _wrong_items(S3Files(client, bucket), f"s3://{bucket}/data/numbers", site.asked)
    return wrong


def _wrong_end(code: int, folder: Path, proxy: BadWeather) -> list[str]:
    faults = Counter(each.fault for each in proxy.log)
    print(f"{len(proxy.log):,} requests to the store; {dict(faults)}")
    log = (folder / "crawl.log").read_text()
    errors = [line for line in log.splitlines() if "] ERROR" in line or "] CRITICAL" in line]
    wrong = [f"its exit code is {code}"] if code else []
    wrong += [f"its log has {len(errors)} errors: {errors[:3]}"] if errors else []
    return wrong + [f"{each} was overwritten" for each in proxy.overwritten()]


def _wrong_items(files: S3Files, root: str, asked: Counter[str]) -> list[str]:
    keys = [f"{path}#{number}" for path in asked for number in range(ITEMS_A_PAGE)]
    feeds = {"items": Feed(f"{root}/items/", jsonlines_keys)}
    report = check(files(), f"{root}/state/", feeds, Expected(keys, page_of), over=True)
    again = sum(asked.values()) - len(asked)
    print(
        f"{len(asked):,} pages, {again} of them again; {len(keys):,} items, lost {len(report.lost)}, twice "
        f"{len(report.twice)}; {len(report.checkpoints):,} checkpoints, {report.with_requests:,} with requests"
    )
    return report.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--interval", type=float, default=2, help="STATE_INTERVAL")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}, {chosen.minutes:g} minutes", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    wrong = run(chosen.minutes, chosen.seed, chosen.interval, folder)
    if wrong:
        print("\n".join(wrong), f"see {folder}", sep="\n")
        return 1
    print("flat, and nothing lost")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
