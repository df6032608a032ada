"""What units cost: the CPU of a crawl over HTTP whose requests have a state, compared with the same crawl without.

``python benchmarks/units.py --pairs 9``: a site runs on this machine in its own process. Each round runs both crawls, in
changing order, and measures user + system seconds of the crawl's process. Printed are the median and the quartiles of the
ratios within a round. A unit is 4 requests and 12 items. Both crawls have the add-on and the same feeds, in a local folder.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cpu import ratios
from servers import project, server

ITEMS_A_PAGE = 3
SPIDER = """
import scrapy

class BenchSpider(scrapy.Spider):
    name = "bench"

    async def start(self):
        for u in range(int(self.units)):
            meta = {"state": {"u": u + 1}} if self.track == "yes" else None
            yield scrapy.Request(f"{self.site}/{u}/0", meta=meta)

    def parse(self, response):
        yield from self.parse_page(response)
        for page in (1, 2, 3):
            yield scrapy.Request(f"{response.url[:-1]}{page}", self.parse_page)

    def parse_page(self, response):
        for item in response.json():
            yield {"url": response.url, **item}
"""
FEEDS = {
    "data/items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"},
    "data/state/%(batch_id)010d.json": {"format": "json", "item_classes": ["scrapy_state.StateItem"]},
}
KINDS: dict[str, tuple[str, float]] = {"without": ("no", 60), "STATE_INTERVAL=60": ("yes", 60), "STATE_INTERVAL=1": ("yes", 1)}


def cpu_seconds(site: str, track: str, interval: float, units: int) -> float:
    """Run one crawl; return its CPU seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings: dict[str, Any] = {"ADDONS": {"scrapy_state.Addon": 500}, "FEEDS": FEEDS, "STATE_INTERVAL": interval}
        settings |= {"LOG_LEVEL": "WARNING", "TELNETCONSOLE_ENABLED": False, "DOWNLOAD_DELAY": 0}
        settings |= {"CONCURRENT_REQUESTS": 16, "CONCURRENT_REQUESTS_PER_DOMAIN": 16}
        given = project(folder, SPIDER, settings, units=units, site=site, track=track)
        given["env"]["PYTHONHASHSEED"] = "0"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(**given, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        lines = sum(len(path.read_bytes().splitlines()) for path in (folder / "data" / "items").glob("*")) if units else 0
        assert lines == units * 4 * ITEMS_A_PAGE, lines
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--units", type=int, default=1000)
    chosen = parser.parse_args()
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with server("items", ITEMS_A_PAGE) as port:
        site = f"http://127.0.0.1:{port}"
        for number in range(chosen.pairs + 1):
            turn = number % len(KINDS)
            for kind in [*KINDS, *KINDS][turn : turn + len(KINDS)]:
                seconds = cpu_seconds(site, *KINDS[kind], chosen.units) - cpu_seconds(site, *KINDS[kind], 0)
                if number:  # the first round warms up
                    found[kind].append(seconds)
            print(f"round {number} of {chosen.pairs}", file=sys.stderr)
    print(f"{chosen.units} units of 4 requests and 12 items, {chosen.pairs} rounds; CPU less start-up; ratios (quarters)")
    for kind, seconds in found.items():
        print(f"{kind:18} {statistics.median(seconds):6.2f} s; ratio {ratios(seconds, found['without'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
