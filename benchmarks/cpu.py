"""What checkpoints cost: the CPU of a crawl over HTTP, compared with the same crawl with Scrapy's own item feed.

``python benchmarks/cpu.py --pairs 9``: a site and an S3 server (moto) run on this machine in their own processes. Each round
crawls with Scrapy's own exporter and with ours, in changing order, and measures user + system seconds of the crawl's process.
Machines change their speed, so each crawl is compared with the one of Scrapy's exporter in the same round. Printed are the
median and the quartiles of these ratios, with the start-up (a crawl of one page) and without it. The spider yields a
state item every 5 items.

STATE_INTERVAL is in seconds of real time: if other processes slow the crawl down, it stores more checkpoints for the same
CPU. The number of checkpoints is printed, too.

``--instructions`` counts instructions with valgrind instead, with only the first and the last checkpoint. That is slow, but
gives nearly the same result each time, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from servers import project, server

CHAINS = 8
ITEMS_A_PAGE = 20
SCRAPYS = "Scrapy's exporter"
SPIDER = """
import scrapy
from scrapy_state import StateItem

class BenchSpider(scrapy.Spider):
    name = "bench"

    async def start(self):
        for chain in range(CHAINS):
            yield scrapy.Request(f"{self.site}/{chain}/0", dont_filter=True)

    def parse(self, response):
        page = int(response.url.rpartition("/")[2])
        for number, item in enumerate(response.json()):
            yield {"page": page, **item}
            if self.states and number % 5 == 4:
                yield StateItem({"page": page})
        if page < int(self.pages):
            yield scrapy.Request(response.url.rpartition("/")[0] + f"/{page + 1}")
"""


class Bench:
    """Crawls of a site, with S3 as their store.

    :param folder: for the project's files
    :param site_port: the site's port; *s3_port*: the S3 server's, both on this machine
    """

    def __init__(self, folder: Path, site_port: int, s3_port: int) -> None:
        import boto3

        self._folder = folder
        self._site = f"http://127.0.0.1:{site_port}"
        endpoint = f"http://127.0.0.1:{s3_port}"
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION_NAME": "us-east-1"}
        self._common: dict[str, Any] = {**keys, "AWS_ENDPOINT_URL": endpoint, "LOG_LEVEL": "WARNING"}
        self._common["TELNETCONSOLE_ENABLED"] = False
        self._client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
        )
        self._client.create_bucket(Bucket="bench")
        self._crawls = 0

    def crawl(self, interval: float | None, pages: int, tool: tuple[str, ...] = ()) -> str:
        """Run a crawl under the command *tool*; return its log. *interval*: STATE_INTERVAL, None for Scrapy's exporter."""
        self._crawls += 1
        settings = {**self._common, "FEEDS": {"s3://bench/items/%(batch_time)s.jsonl": {"format": "jsonlines"}}}
        if interval is not None:
            key = f"s3://bench/state-{self._crawls}/%(batch_id)010d.json"
            settings["FEEDS"][key] = {"format": "json", "item_classes": ["scrapy_state.StateItem"]}
            settings |= {"ADDONS": {"scrapy_state.Addon": 500}, "STATE_INTERVAL": interval}
        spider = SPIDER.replace("name = ", f"states = {interval is not None}\n    name = ").replace("CHAINS", str(CHAINS))
        given = project(self._folder, spider, settings, pages=pages, site=self._site)
        given["args"] = [*tool, *given["args"]]
        given["env"]["PYTHONHASHSEED"] = "0"
        return subprocess.run(**given, check=True, capture_output=True, text=True).stderr

    def cpu_seconds(self, interval: float | None, pages: int) -> float:
        """Run one crawl; return its CPU seconds."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.crawl(interval, pages)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def instructions(self, interval: float | None, pages: int) -> int:
        """Run one crawl under valgrind; return how many instructions it took."""
        log = self.crawl(interval, pages, ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"))
        match = re.search(r"Collected\s*:\s*(\d+)", log)
        assert match is not None, log
        return int(match[1])

    def checkpoints(self) -> int:
        """Return how many checkpoints the last crawl stored."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket="bench", Prefix=f"state-{self._crawls}/")
        return sum(page["KeyCount"] for page in pages)


def compare_seconds(bench: Bench, pairs: int, pages: int) -> None:
    """Print what crawls take, compared with Scrapy's exporter."""
    kinds = {SCRAPYS: None, **{f"STATE_INTERVAL={seconds}": seconds for seconds in (60, 1, 0)}}
    whole: dict[str, list[float]] = {kind: [] for kind in kinds}
    crawling: dict[str, list[float]] = {kind: [] for kind in kinds}
    counts: dict[str, list[int]] = {kind: [] for kind in kinds}
    for number in range(pairs + 1):
        turn = number % len(kinds)
        for kind in [*kinds, *kinds][turn : turn + len(kinds)]:
            start_up = bench.cpu_seconds(kinds[kind], 0)
            seconds = bench.cpu_seconds(kinds[kind], pages)
            if number:  # the first round warms up
                whole[kind].append(seconds)
                crawling[kind].append(seconds - start_up)
                counts[kind].append(bench.checkpoints())
        print(f"round {number} of {pairs}", file=sys.stderr)
    items = CHAINS * (pages + 1) * ITEMS_A_PAGE
    print(f"{items} items a crawl, {pairs} rounds; CPU; ratios: median (quarters)")
    for kind in kinds:
        start_up = statistics.median(whole[kind]) - statistics.median(crawling[kind])
        print(
            f"{kind:18} {statistics.median(whole[kind]):6.2f} s, {start_up:.2f} of it start-up;"
            f" ratio {ratios(whole[kind], whole[SCRAPYS])}, less start-up {ratios(crawling[kind], crawling[SCRAPYS])};"
            f" {statistics.median(counts[kind]):.0f} checkpoints"
        )


def compare_instructions(bench: Bench, pages: int) -> None:
    """Print how many instructions an item takes, compared with Scrapy's exporter."""
    items = CHAINS * pages * ITEMS_A_PAGE
    found = {}
    for kind, interval in ((SCRAPYS, None), ("STATE_INTERVAL=86400", 86400)):
        start_up = bench.instructions(interval, 0)
        found[kind] = (bench.instructions(interval, pages) - start_up) / items
        ratio = found[kind] / found[SCRAPYS]
        print(f"{kind:20} start-up {start_up / 1e6:,.0f} million; {found[kind]:,.0f} an item; ratio {ratio:.3f}", flush=True)


def ratios(some: list[float], base: list[float]) -> str:
    """Return the median and the quartiles of the ratios, as text."""
    found = [one / other for one, other in zip(some, base, strict=True)]
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--pages", type=int, help="pages in each of 8 chains (400; with --instructions 10)")
    parser.add_argument("--instructions", action="store_true", help="count instructions (needs valgrind)")
    chosen = parser.parse_args()
    with server("items", ITEMS_A_PAGE) as site_port, server("s3") as s3_port, tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), site_port, s3_port)
        if chosen.instructions:
            compare_instructions(bench, chosen.pages or 10)
        else:
            compare_seconds(bench, chosen.pairs, chosen.pages or 400)
    return 0


if __name__ == "__main__":
    sys.exit(main())
