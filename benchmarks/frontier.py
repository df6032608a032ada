"""What a frontier in Redis costs: pages per second, beside Scrapy's schedulers in memory and in JOBDIR, and scrapy-redis.

``python benchmarks/frontier.py --rounds 5``: a site and a redis-server run on this machine in their own processes, and a proxy
puts Redis 2.5 ms away. It prints medians, and ratios to the crawl in memory of the same round; also the CPU seconds of the
crawl's process, which other work on the machine disturbs less. scrapy-redis takes part if it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from servers import project, server

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from redis_server import redis_server

SPIDER = """
import scrapy

class BenchSpider(scrapy.Spider):
    name = "bench"

    async def start(self):
        yield scrapy.Request(f"{self.site}/0")

    def parse(self, response):
        for link in response.text.split():
            if link[0] == "/":
                yield response.follow(link)
        yield {"url": response.url}
"""
SETTINGS = {
    "ADDONS": {"scrapy_state.Addon": 500},
    "CONCURRENT_REQUESTS_PER_DOMAIN": 16,
    "LOG_LEVEL": "INFO",
    "TELNETCONSOLE_ENABLED": False,
}


def schedulers(near: int, far: int) -> dict[str, dict[str, Any]]:
    """Return the settings of each scheduler by its name. The ports are those of Redis near and far away."""
    found: dict[str, dict[str, Any]] = {"memory": {}, "JOBDIR": {"JOBDIR": "job"}}
    for name, port in (("Redis", near), ("Redis 2.5 ms away", far)):
        url = f"redis://127.0.0.1:{port}/0"
        found[name] = {"SCHEDULER": "scrapy_state.redis.Scheduler", "STATE_REDIS_URL": url}
        if importlib.util.find_spec("scrapy_redis"):
            found[f"scrapy-{name}"] = {
                "SCHEDULER": "scrapy_redis.scheduler.Scheduler",
                "DUPEFILTER_CLASS": "scrapy_redis.dupefilter.RFPDupeFilter",
                "REDIS_URL": url,
            }
    return found


def crawl(settings: dict[str, Any], site: str, pages: int) -> tuple[float, float]:
    """Run one crawl; return its pages per second and its CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        given = project(Path(folder), SPIDER, SETTINGS | settings, site=site)
        process = subprocess.Popen(**given, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        log = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
    crawled = re.search(r"'item_scraped_count': (\d+)", log)
    assert process.returncode == 0, log
    assert crawled, log
    assert int(crawled[1]) == pages, log
    seconds = re.search(r"'elapsed_time_seconds': ([\d.]+)", log)
    assert seconds, log
    return pages / float(seconds[1]), usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--delay", type=float, default=0.0025, help="seconds of a round trip to the Redis that is away")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    with (
        server("links", options.pages) as site,
        redis_server(appendonly="yes") as redis,
        server("proxy", redis.port, options.delay) as far,
    ):
        for number in range(options.rounds):
            for name, settings in schedulers(redis.port, far).items():
                redis.client().flushall()
                found.setdefault(name, []).append(crawl(settings, f"http://127.0.0.1:{site}", options.pages))
                print(f"round {number + 1}, {name}: {found[name][-1][0]:.0f} pages/s", file=sys.stderr, flush=True)
    memory = found["memory"]
    print(f"{options.pages} pages, {options.rounds} rounds, medians; ratios to memory in the same round")
    for name, results in found.items():
        pages, cpu = (statistics.median(each[n] for each in results) for n in (0, 1))
        ratio = statistics.median(each[0] / base[0] for each, base in zip(results, memory, strict=True))
        cpu_ratio = statistics.median(each[1] / base[1] for each, base in zip(results, memory, strict=True))
        print(f"{name:26} {pages:6.0f} pages/s  {ratio:5.2f}   {cpu:6.2f} s CPU  {cpu_ratio:5.2f}")


if __name__ == "__main__":
    main()
