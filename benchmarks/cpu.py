"""What checkpoints cost: the CPU of a crawl over HTTP, compared with the same crawl with Scrapy's own item feed.

``python benchmarks/cpu.py --pairs 9``: a site and an S3 server (moto) run on this machine in their own processes. Each round
crawls with Scrapy's own exporter and with ours, in changing order, and measures user + system seconds of the crawl's process.
Machines change their speed, so each crawl is compared with the one of Scrapy's exporter in the same round. Printed are the
median and the quartiles of these ratios, with the start-up (a crawl of one page) and without it. There are two parts:

- *states*: one request after the other, 20 items a page, and a state item every 5 items. Nothing else is under way then, so
  the crawl is cut at clean state items. Goal: at most 1.05.
- *requests*: a spider that knows nothing of checkpoints, so they contain its requests. 16 requests at once, 3 items a page, and
  10 links, of which the filter drops 9. Goal: at most 1.08. Beside it Scrapy's JOBDIR, which a kill may leave damaged.

STATE_INTERVAL is in seconds of real time: if other processes slow the crawl down, it stores more checkpoints for the same
CPU. The number of checkpoints is printed, too.

``--instructions`` counts instructions with valgrind instead: those of a page, with only the first and the last checkpoint, and
those of a checkpoint. Python's garbage collector is off, because one more or one fewer of its runs would outweigh what is
measured. That is slow, but gives nearly the same result each time, whatever else the machine does. It leaves out what the
kernel does, and what waiting for memory costs.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from servers import project, server

SCRAPYS = "Scrapy's exporter"
STATES_SPIDER = """
import scrapy
from scrapy_state import StateItem

class BenchSpider(scrapy.Spider):
    name = "bench"

    async def start(self):
        yield scrapy.Request(f"{self.site}/1")

    def parse(self, response):
        page = int(response.url.rpartition("/")[2])
        for number, item in enumerate(response.json()):
            yield {"page": page, **item}
            if self.states and number % 5 == 4:
                yield StateItem({"page": page})
        if page < int(self.pages):
            yield scrapy.Request(f"{self.site}/{page + 1}")
"""
REQUESTS_SPIDER = """
import scrapy

class BenchSpider(scrapy.Spider):
    name = "bench"

    async def start(self):
        yield scrapy.Request(f"{self.site}/0")

    def parse(self, response):
        for item in response.css("li"):
            yield {"url": response.url, "name": item.css("b::text").get(), "text": item.css("i::text").get()}
        yield from response.follow_all(css="a")
"""
#: How many pages the crawl has that is subtracted: by then, all modules are there
FEW_PAGES = 5
NO_GC = "import gc\ngc.disable()\n"
CLOSED = """
    def closed(self, reason):
        print(self.crawler.stats.get_value("item_scraped_count"))
"""


@dataclass(frozen=True)
class Part:
    """A spider, its site, and what is compared.

    :param site: arguments of servers.py
    :param kinds: name -> settings; those with STATE_INTERVAL get a state feed
    """

    name: str
    spider: str
    site: tuple[object, ...]
    items_a_page: int
    kinds: dict[str, dict[str, Any]]


CHECKPOINTS = {f"STATE_INTERVAL={seconds}": {"STATE_INTERVAL": seconds} for seconds in (60, 1)}
PARTS = (
    Part("states", STATES_SPIDER, ("items", 20), 20, {SCRAPYS: {}, **CHECKPOINTS}),
    Part("requests", REQUESTS_SPIDER, ("site",), 3, {SCRAPYS: {}, "JOBDIR": {"JOBDIR": "job"}, **CHECKPOINTS}),
)


class Bench:
    """Crawls of a site, with S3 as their store.

    :param site_port: the site's port; *s3_port*: the S3 server's, both on this machine
    :param pages: how many pages a whole crawl has
    """

    def __init__(self, part: Part, site_port: int, s3_port: int, pages: int) -> None:
        import boto3

        self.part = part
        self.pages = pages
        self._site = f"http://127.0.0.1:{site_port}"
        endpoint = f"http://127.0.0.1:{s3_port}"
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION_NAME": "us-east-1"}
        self._common: dict[str, Any] = {**keys, "AWS_ENDPOINT_URL": endpoint, "LOG_LEVEL": "WARNING"}
        self._common |= {"TELNETCONSOLE_ENABLED": False, "CONCURRENT_REQUESTS_PER_DOMAIN": 16}
        self._client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
        )
        self._client.create_bucket(Bucket="bench")
        self._crawls = 0

    def crawl(self, kind: str, pages: int, tool: tuple[str, ...] = ()) -> str:
        """Run a crawl of *pages* pages under the command *tool*; return its log."""
        self._crawls += 1
        feeds = {"s3://bench/items/%(name)s-%(batch_time)s.jsonl": {"format": "jsonlines"}}
        settings = {**self._common, "FEEDS": feeds, **self.part.kinds[kind]}
        has_states = "STATE_INTERVAL" in settings
        if has_states:
            key = f"s3://bench/{self._prefix()}%(batch_id)010d.json"
            feeds[key] = {"format": "json", "item_classes": ["scrapy_state.StateItem"]}
            settings["ADDONS"] = {"scrapy_state.Addon": 500}
        spider = self.part.spider.replace("name = ", f"states = {has_states}\n    name = ") + CLOSED
        with tempfile.TemporaryDirectory() as folder:
            given = project(Path(folder), spider, settings, pages=pages, site=f"{self._site}/{pages}")
            given["args"] = [*tool, *given["args"]]
            given["env"]["PYTHONHASHSEED"] = "0"
            given["env"].pop("PYTHONDONTWRITEBYTECODE", None)  # pip compiles what it installs, so only we would pay for it
            done = subprocess.run(**given, check=True, capture_output=True, text=True)
        assert done.stdout.split() == [str(pages * self.part.items_a_page)], done
        return done.stderr

    def cpu_seconds(self, kind: str, pages: int) -> float:
        """Run one crawl; return its CPU seconds."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.crawl(kind, pages)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def instructions(self, kind: str, pages: int) -> int:
        """Run one crawl under valgrind; return how many instructions it took."""
        log = self.crawl(kind, pages, ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"))
        match = re.search(r"Collected\s*:\s*(\d+)", log)
        assert match is not None, log
        return int(match[1])

    def checkpoints(self) -> int:
        """Return how many checkpoints the last crawl stored."""
        listing = self._client.get_paginator("list_objects_v2").paginate(Bucket="bench", Prefix=self._prefix(), Delimiter="/")
        return sum(len(page.get("Contents", ())) for page in listing)

    def _prefix(self) -> str:
        return f"{self.part.name}-{self._crawls}/"


def compare_seconds(bench: Bench, pairs: int) -> None:
    """Print what crawls take, compared with Scrapy's exporter."""
    kinds = [*bench.part.kinds]
    whole: dict[str, list[float]] = {kind: [] for kind in kinds}
    crawling: dict[str, list[float]] = {kind: [] for kind in kinds}
    counts: dict[str, list[int]] = {kind: [] for kind in kinds}
    for number in range(pairs + 1):
        turn = number % len(kinds)
        for kind in [*kinds, *kinds][turn : turn + len(kinds)]:
            seconds = bench.cpu_seconds(kind, bench.pages)
            if number:  # the first round warms up
                counts[kind].append(bench.checkpoints())
                whole[kind].append(seconds)
                crawling[kind].append(seconds - bench.cpu_seconds(kind, 1))
        print(f"{bench.part.name}: round {number} of {pairs}", file=sys.stderr)
    items = bench.pages * bench.part.items_a_page
    print(f"{bench.part.name}: {bench.pages} pages, {items} items a crawl, {pairs} rounds; CPU; ratios: median (quarters)")
    for kind in kinds:
        start_up = statistics.median(whole[kind]) - statistics.median(crawling[kind])
        print(
            f"{kind:18} {statistics.median(whole[kind]):6.2f} s, {start_up:.2f} of it start-up;"
            f" ratio {ratios(whole[kind], whole[SCRAPYS])}, less start-up {ratios(crawling[kind], crawling[SCRAPYS])};"
            f" {statistics.median(counts[kind]):.0f} checkpoints",
            flush=True,
        )


def compare_instructions(bench: Bench) -> None:
    """Print how many instructions a page takes, compared with Scrapy's exporter, and how many a checkpoint takes."""
    bench.part = replace(bench.part, spider=NO_GC + bench.part.spider)
    rare, often = "STATE_INTERVAL=86400", "STATE_INTERVAL=1"
    bench.part.kinds[rare] = {"STATE_INTERVAL": 86400}
    name, base = bench.part.name, 0.0
    for kind in (SCRAPYS, rare):
        start_up, whole = bench.instructions(kind, FEW_PAGES), bench.instructions(kind, bench.pages)
        page = (whole - start_up) / (bench.pages - FEW_PAGES)
        base = base or page
        print(
            f"{name}: {kind:20} start-up {start_up / 1e6:,.0f} million; {page:,.0f} a page; ratio {page / base:.3f}", flush=True
        )
    fewest = bench.checkpoints()
    more = bench.instructions(often, bench.pages) - whole
    print(f"{name}: {more / (bench.checkpoints() - fewest) / 1e6:,.0f} million a checkpoint")


def ratios(some: list[float], base: list[float]) -> str:
    """Return the median and the quartiles of the ratios, as text."""
    found = [one / other for one, other in zip(some, base, strict=True)]
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--pages", type=int, help="pages of a crawl, at least 10 (1500; with --instructions 200)")
    parser.add_argument("--part", choices=[part.name for part in PARTS], help="only this one")
    parser.add_argument("--instructions", action="store_true", help="count instructions (needs valgrind)")
    chosen = parser.parse_args()
    for part in PARTS:
        if chosen.part not in (None, part.name):
            continue
        with server(*part.site) as site_port, server("s3") as s3_port:
            bench = Bench(part, site_port, s3_port, chosen.pages or (200 if chosen.instructions else 1500))
            if chosen.instructions:
                compare_instructions(bench)
            else:
                compare_seconds(bench, chosen.pairs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
