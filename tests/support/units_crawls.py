"""Crawls of units_site with units_spider.py, and what they must have stored."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

from crawls import DEADLINE_SECONDS, Crawl, crawl, start
from oracle import Feed, Report, check, jsonlines_keys, local_files
from units_site import Site, digest

SPIDER = (Path(__file__).parent / "units_spider.py").read_text()
SETTINGS: dict[str, Any] = {
    "ROBOTSTXT_OBEY": True,
    "CONCURRENT_REQUESTS": 16,
    "CONCURRENT_REQUESTS_PER_DOMAIN": 16,
    "DOWNLOAD_DELAY": 0,
    "RETRY_TIMES": 2,
    "STATE_INTERVAL": 0,
    "ITEM_PIPELINES": {"spider.Pipeline": 1},
    "DOWNLOADER_MIDDLEWARES": {"spider.Ignore": 10},
    "LOG_LEVEL": "INFO",
}


def done(checkpoint: dict[str, Any], units: int, skipped: set[int]) -> list[int]:
    """Return the units whose items a checkpoint says are stored. The state of unit u is u + 1."""
    ahead = set(checkpoint.get("ahead", ()))
    below = range(checkpoint["state"].get("u", 0))
    return [u for u in range(units) if u not in skipped and (u in below or digest({"u": u + 1}) in ahead)]


def report(folder: Path, site: Site, run: str = "") -> Report:
    """Check that every checkpoint names all items of the units that it says are done, once, and no other items.

    :param run: only this run, whose state files have their own folder
    """
    skipped: set[int] = set()

    def expected(checkpoint: dict[str, Any]) -> dict[str, list[str]]:
        skipped.update(state["u"] - 1 for state in checkpoint.get("skipped_units", ()))
        return {"items": [key for u in done(checkpoint, site.count, skipped) for key in site.expected(u)]}

    data = folder / "data" / "units"
    feeds = {"items": Feed(f"{data}/items/{run}", jsonlines_keys)}
    files = {location: content for location, content in local_files(data).items() if run in location}
    return check(files, f"{data}/state/{run and f'{run}/'}", feeds, expected, of_checkpoint=True)


def run(folder: Path, site: Site, *arguments: str, **settings: Any) -> Crawl:
    return crawl(folder, SPIDER, *arguments_of(site), *arguments, settings={**SETTINGS, **settings})


def run_until(folder: Path, site: Site, answers: int, *signals: signal.Signals, **settings: Any) -> Crawl:
    """Crawl until the site has given *answers* more answers, send *signals*, and wait for the crawl to end."""
    reached = threading.Event()
    at = site.calls.total() + answers
    site.served = lambda count: reached.set() if count >= at else None
    process = start(folder, SPIDER, *arguments_of(site), settings={**SETTINGS, **settings})
    log: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: log.append(process.stderr.read()))  # type: ignore[union-attr]
    reader.start()
    try:
        while not reached.wait(0.05) and process.poll() is None:
            pass
        for each in signals:
            if process.poll() is None:
                process.send_signal(each)
        process.wait(DEADLINE_SECONDS)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()
    site.wait_until_idle()
    return Crawl(process.returncode, log[0], folder)


def arguments_of(site: Site) -> list[str]:
    return ["-a", f"site={site.url}", "-a", f"units={site.count}"]
