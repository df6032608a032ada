"""Kills workers of a crawl whose frontier is in Redis, and counts what is lost: ``make chaos-redis``.

A site on this machine with pages that link to three further ones and back; one or two workers; SIGKILL at random
moments (the seed is printed), sometimes SIGSTOP for longer than the lease; who was killed is started again, until all have
ended by themselves. Then every page must have been crawled, and its items must stand in the feeds' files.

Other faults, each in some of the crawls: requests that can't be stored; somebody pushes what is no request; a callback that
blocks for longer than the lease ("block"), a page that kills its process ("deadly": all other pages must be crawled), a line to
Redis on which replies get lost and requests arrive late ("line"), a Redis that goes back to what it was a while ago ("rewind":
its workers end with an error, and are started again).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from crawls import start
from redis_server import Proxy, RedisServer, redis_server

ITEMS_A_PAGE = 2
LEASE_SECONDS = 2.0
DEADLINE_SECONDS = 300

#: Which faults beside kills a crawl has, by its seed.
FAULTS: list[tuple[str, ...]] = [(), ("block",), ("deadly",), ("line",), ("rewind",), ("block", "line"), ("deadly", "line")]
#: All keys with what is in them, at one moment.
DUMP = "local r = {} for _, k in ipairs(redis.call('KEYS', '*')) do r[#r+1] = k r[#r+1] = redis.call('DUMP', k) end return r"

IN_A_CALLBACK = """\
if page == int(getattr(self, "deadly", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        if page == int(getattr(self, "block", -1)):
            time.sleep(float(self.seconds))
"""

SPIDER = """
import os
import signal
import time

import scrapy

class FrontierSpider(scrapy.Spider):
    name = "frontier"

    async def start(self):
        yield scrapy.Request(f"{self.site}/0")

    def parse(self, response):
        page = int(response.url.rpartition("/")[2])
        FAULTS
        for number in range(2):
            yield {"page": page, "n": number, "text": "some text " * 5}
        for link in response.text.split():
            yield response.follow(link)
""".replace("FAULTS", IN_A_CALLBACK)

#: Rules and a LinkExtractor, whose link_text is no plain str; every third request can't be stored at all
CRAWL_SPIDER = """
import os
import signal
import time
from datetime import date
from scrapy.linkextractors import LinkExtractor
from scrapy.spiders import CrawlSpider, Rule

class FrontierSpider(CrawlSpider):
    name = "frontier"
    rules = [Rule(LinkExtractor(), callback="parse_page", follow=True, process_request="mark")]

    async def start(self):
        async for each in super().start():
            yield each.replace(dont_filter=False)

    @property
    def start_urls(self):
        return [f"{self.site}/0"]

    def mark(self, request, response):
        page = int(request.url.rpartition("/")[2])
        request.meta["found"] = date(2026, 1, 1)
        if page % 3 == 0:
            request.meta["unstorable"] = object()
        return request

    def parse_start_url(self, response):
        return self.parse_page(response)

    def parse_page(self, response):
        assert "found" not in response.meta or response.meta["found"].year == 2026
        page = int(response.url.rpartition("/")[2])
        FAULTS
        for number in range(2):
            yield {"page": page, "n": number, "text": "some text " * 5}
""".replace("FAULTS", IN_A_CALLBACK)


class Site:
    """A site of *pages* pages; counts how often each is asked for. In a thread of its own.

    With *html* there is one link to each page only, so that whoever loses it loses the page.
    """

    def __init__(self, pages: int, delay_seconds: float = 0.0, html: bool = False) -> None:
        self.pages = pages
        self.html = html
        #: pages that are not answered for now
        self.held: set[int] = set()
        self.delay_seconds = delay_seconds
        self.asked: Counter[int] = Counter()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def links(self, page: int) -> list[int]:
        further = [each for each in range(3 * page + 1, 3 * page + 4) if each < self.pages]
        return further if self.html else [*further, page // 2, max(0, page - 1)]

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        async with server:
            await self._stop.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                page = int(head.split()[1].rpartition(b"/")[2] or 0)
                self.asked[page] += 1
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                while page in self.held:  # noqa: ASYNC110 - changed from another thread
                    await asyncio.sleep(0.02)
                form, kind = ('<a href="/{0}">page {0}</a>', b"html") if self.html else ("/{0}", b"plain")
                body = "\n".join(form.format(each) for each in self.links(page)).encode()
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/%s\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


@dataclass
class Outcome:
    """What came of a crawl with kills."""

    kills: int = 0
    stops: int = 0
    faults: tuple[str, ...] = ()
    never_crawled: list[int] = field(default_factory=list)
    missing_items: int = 0
    crawled_again: int = 0
    stored_again: int = 0
    leases_lost: int = 0
    left: str = ""
    codes: list[int] = field(default_factory=list)
    restarts: int = 0
    rewinds: int = 0
    seconds: float = 0.0

    @property
    def wrong(self) -> bool:
        return bool(self.never_crawled or self.missing_items or self.left or any(self.codes))


def run(
    folder: Path, server: RedisServer, *, workers: int, kills: int, seed: int, pages: int = 2000, stops: int = 0,
    delay: float = 0.0, restart_redis: bool = False, faults: tuple[str, ...] = (), pushes: int = 0, source: str = SPIDER,
) -> Outcome:  # fmt: skip
    """Crawl a site with *workers* workers, kill one of them *kills* times; return the outcome. The number of pages requested so
    far chooses the moments of the kills, so the crawl is at work at each of them."""
    chance, outcome, began = random.Random(seed), Outcome(faults=faults), time.monotonic()
    site = Site(pages, delay, html=source == CRAWL_SPIDER)
    line = Proxy(server.port, stall=lambda: chance.uniform(1, 4) if chance.random() < 0.01 else 0) if "line" in faults else None
    arguments = [f"site={site.url}", f"seconds={2 * LEASE_SECONDS}"]
    arguments += [f"{fault}={page}" for fault, page in (("deadly", pages - 1), ("block", pages // 3)) if fault in faults]
    settings = {
        "SCHEDULER": "scrapy_state.redis.Scheduler",
        "STATE_REDIS_URL": server.url if line is None else f"{line.url}?socket_timeout=1",
        "STATE_REDIS_LEASE_TIMEOUT": LEASE_SECONDS,
        "STATE_INTERVAL": 0.5,
        "FEEDS": {str(folder / "items" / "%(run_id)s-%(batch_id)05d.jsonl"): {"format": "jsonlines"}},
        "LOG_LEVEL": "INFO",
        "LOG_FILE": "log.txt",
    }

    def begin(number: int) -> subprocess.Popen[str]:
        given = [part for argument in arguments for part in ("-a", argument)]
        return start(folder / f"worker{number}", source, *given, settings=settings)

    def may_end(code: int) -> bool:
        """Whether a worker that ended with *code* is started again."""
        return (code == -signal.SIGKILL and "deadly" in faults) or (code in (1, 75) and outcome.rewinds > 0)

    running = {number: begin(number) for number in range(workers)}
    plan = (
        ["kill"] * kills
        + ["stop"] * stops
        + ["push"] * pushes
        + ["redis"] * restart_redis
        + ["remember"] * ("rewind" in faults)
    )
    chance.shuffle(plan)
    try:
        moments = sorted(chance.randrange(1, pages * 9 // 10) for _ in plan)
        while running:
            assert time.monotonic() - began < DEADLINE_SECONDS + 10 * kills, f"it does not end: {outcome}"
            time.sleep(0.02)
            for number, process in list(running.items()):
                if process.poll() is None:
                    continue
                end(running.pop(number))
                if may_end(process.returncode):
                    outcome.restarts += 1
                    running[number] = begin(number)
                else:
                    outcome.codes.append(process.returncode)
            if not running or not plan or sum(site.asked.values()) < moments[0]:
                continue
            del moments[0]
            number = chance.choice(list(running))
            match plan.pop():
                case "kill":
                    outcome.kills += 1
                    end(running[number])
                    running[number] = begin(number)
                case "stop":
                    outcome.stops += 1
                    running[number].send_signal(signal.SIGSTOP)
                    time.sleep(LEASE_SECONDS * 2)
                    running[number].send_signal(signal.SIGCONT)
                case "remember":
                    remembered = server.client().eval(DUMP, 0)
                    plan.append("rewind")
                    moments.insert(0, sum(site.asked.values()) + pages // 10)
                case "rewind":
                    outcome.rewinds += 1
                    with server.client().pipeline() as pipe:
                        pipe.flushall()
                        for key, value in zip(remembered[::2], remembered[1::2], strict=True):
                            pipe.restore(key, 0, value)
                        pipe.execute()
                case "push":  # as people do
                    key = "scrapy_state:{frontier}:urls"
                    server.client().delete(key)
                    getattr(server.client(), chance.choice(("rpush", "sadd", "set")))(key, '{"a": 1}')
                case "redis":
                    server.kill()
                    time.sleep(0.5)
                    server.start()
    finally:
        for process in running.values():
            end(process)
        site.close()
        if line is not None:
            line.close()
    found = Counter(
        (item["page"], item["n"])
        for path in (folder / "items").glob("*.jsonl")
        for item in map(json.loads, path.read_text().splitlines())
    )
    crawlable = range(pages - ("deadly" in faults))
    outcome.never_crawled = [page for page in crawlable if not site.asked[page]]
    outcome.missing_items = sum(not found[page, number] for page in crawlable for number in range(ITEMS_A_PAGE))
    outcome.crawled_again = sum(count - 1 for count in site.asked.values())
    outcome.stored_again = sum(count - 1 for count in found.values())
    logs = [path.read_text() for path in folder.glob("worker*/log.txt")]
    outcome.leases_lost = sum(log.count("this worker was away") for log in logs)
    left = {key.decode(): server.client().hlen(key) for key in server.client().keys("*leases*")}
    pending = server.client().hget("scrapy_state:{frontier}:meta", "pending")
    outcome.left = f"{left} {pending}" if left or pending != b"0" else ""
    outcome.seconds = time.monotonic() - began
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kills-a-crawl", type=int, default=3)
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--faults", nargs="*", choices=["block", "deadly", "line", "rewind"])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    total = wrong = 0
    seed = options.seed
    while total < options.kills:
        workers = 1 + seed % 2
        folder = Path(tempfile.mkdtemp(prefix="chaos_redis_"))
        with redis_server(appendonly="yes", appendfsync="always") as server:
            outcome = run(
                folder, server, workers=workers, kills=options.kills_a_crawl, stops=seed % 3 == 0, seed=seed,
                pages=options.pages, restart_redis=seed % 4 == 1, faults=tuple(options.faults or FAULTS[seed % len(FAULTS)]),
                pushes=seed % 3, source=CRAWL_SPIDER if seed % 5 > 2 else SPIDER,
            )  # fmt: skip
        total += outcome.kills
        wrong += outcome.wrong
        print(f"seed {seed}, {workers} workers, {total} kills so far: {outcome}", flush=True)
        if outcome.wrong:
            print(f"the logs: {folder}/worker*/log.txt")
        else:
            shutil.rmtree(folder)
        seed += 1
    print(f"{total} kills, {wrong} crawls went wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
