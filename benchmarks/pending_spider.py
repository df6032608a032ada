"""The spider of pending.py, and a download handler that makes up its responses. It prints what it measures as JSON lines.

It is run as ``bench.py``, with the settings BENCH_SIZE (how many pages to collect) and BENCH_MODE:

- ``fill``: collect links to all pages, wait for a checkpoint with them, crawl 1,000 pages with 5 new links each, and wait for
  the next checkpoint;
- ``resume``: run until the first page would be downloaded.

At the end it kills itself.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import scrapy
from scrapy.core.downloader.handlers.base import BaseDownloadHandler
from scrapy.crawler import Crawler
from scrapy.http import Response, TextResponse
from typing_extensions import Self

from scrapy_state.barrier.barrier import get_barrier
from scrapy_state.signals import checkpoint_stored

#: WARM_UP pages come before those that are measured: the first item opens files and imports modules. Each page has LINKS links.
HUBS, WARM_UP, PAGES, LINKS = 100, 50, 1000, 5
objects: set[str] = set()


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Take note of the stored files that are read."""
    if event == "open" and isinstance(arguments[0], str) and "/data/state/" in arguments[0]:
        objects.add(arguments[0])


sys.addaudithook(audit)


class Held:
    """Measures how long the event loop is held at most: seconds; CPU seconds of the process in one turn of the loop, without
    those of Python's garbage collector; and the latter.
    """

    def __init__(self) -> None:
        self.cpu = self.seconds = self.gc_cpu = self._gc_began = self._gc_in_turn = 0.0
        gc.callbacks.append(self._collecting)
        self._task = asyncio.create_task(self._measure())

    async def _measure(self) -> None:
        while True:
            self._gc_in_turn = 0.0
            cpu, seconds = time.process_time(), time.monotonic()
            await asyncio.sleep(0)
            self.cpu = max(self.cpu, time.process_time() - cpu - self._gc_in_turn)
            self.seconds = max(self.seconds, time.monotonic() - seconds)

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._gc_began = time.process_time()
            return
        took = time.process_time() - self._gc_began
        self._gc_in_turn += took
        self.gc_cpu = max(self.gc_cpu, took)

    def end(self) -> dict[str, float]:
        self._task.cancel()
        gc.callbacks.remove(self._collecting)
        return {"held_cpu": self.cpu, "held_seconds": self.seconds, "gc_cpu": self.gc_cpu}


class Stub(BaseDownloadHandler):
    """Answers at once, but lets pages wait until the spider lets them go, one after the other.

    If sixteen came in one turn of the loop, their callbacks would hold it for longer than anything that is measured here.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._turn = asyncio.Lock()

    async def download_request(self, request: scrapy.Request) -> Response:
        spider: Any = self.crawler.spider
        await asyncio.sleep(0.001)  # so that no more requests are in flight, and callbacks at work, than in other crawls
        if "/page/" in request.url:
            if spider.mode == "resume":
                spider.resumed()
            async with self._turn:
                while not spider.to_go:
                    await spider.change()
                spider.to_go -= 1
                await asyncio.sleep(0.003)
        return TextResponse(request.url, body=b"<html></html>", request=request)


class PendingSpider(scrapy.Spider):
    name = "bench"

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        spider = super().from_crawler(crawler, *args, **kwargs)
        spider.size, spider.mode = crawler.settings.getint("BENCH_SIZE"), crawler.settings["BENCH_MODE"]
        spider.began = time.monotonic()
        spider.keeps_requests = "STATE_INTERVAL" in crawler.settings
        spider.changed = asyncio.Event()
        spider.to_go = spider.hubs_done = spider.pages_done = 0
        spider.stored, spider.segment_bytes = None, 0
        crawler.signals.connect(spider.checkpoint_stored, checkpoint_stored)
        return spider

    async def start(self) -> AsyncIterator[Any]:
        if self.mode == "fill":
            self.task = asyncio.create_task(self.measure())
            for hub in range(HUBS):
                yield scrapy.Request(f"http://site.invalid/hub/{hub}", self.parse_hub, priority=1)

    def parse_hub(self, response: Response) -> Iterator[Any]:
        for n in range(int(response.url.rpartition("/")[2]), self.size, HUBS):
            yield self.page(f"{n}")
        self.hubs_done += 1
        self.changed.set()

    def parse(self, response: Response) -> Iterator[Any]:
        yield {"url": response.url}
        for n in range(LINKS):
            yield self.page(f"{response.url.rpartition('/')[2]}-{n}")
        self.pages_done += 1
        self.changed.set()

    def page(self, name: str) -> scrapy.Request:
        return scrapy.Request(f"http://site.invalid/page/{hashlib.md5(name.encode()).hexdigest()[:12]}/{name}")

    async def measure(self) -> None:
        while self.hubs_done < HUBS:
            await self.change()
        took = {"seconds": time.monotonic() - self.began, "cpu": time.process_time()}
        self.say(**took)
        await self.crawl_until(WARM_UP)
        self.segment_bytes = 0
        held = Held()
        await self.crawl_until(WARM_UP + PAGES)
        self.say(**held.end(), segment_bytes=self.segment_bytes)
        os.kill(os.getpid(), signal.SIGKILL)

    async def crawl_until(self, pages: int) -> None:
        """Crawl until so many pages are done, a checkpoint says so, and no segments are being merged."""
        self.to_go = pages - self.pages_done
        self.changed.set()
        while self.pages_done < pages or not self.is_stored(self.size + (LINKS - 1) * pages):
            await self.change()

    def resumed(self) -> None:
        assert self.crawler.engine is not None
        assert self.crawler.engine._slot is not None
        waiting = len(self.crawler.engine._slot.scheduler)  # type: ignore[arg-type]
        self.say(seconds=time.monotonic() - self.began, cpu=time.process_time(), waiting=waiting, objects=len(objects))
        os.kill(os.getpid(), signal.SIGKILL)

    async def change(self) -> None:
        self.changed.clear()
        await self.changed.wait()

    def checkpoint_stored(self, checkpoint: Any) -> None:
        if checkpoint.requests is not None and (self.stored is None or checkpoint.requests != self.stored.requests):
            self.segment_bytes += checkpoint.requests.segments[-1].bytes if checkpoint.requests.segments else 0
        self.stored = checkpoint
        self.changed.set()

    def is_stored(self, pending: int) -> bool:
        """Whether the newest checkpoint has so many pending requests, and segments are not being merged."""
        if not self.keeps_requests:
            return True
        recorder: Any = get_barrier(self.crawler).recorder
        if recorder._merging is not None:
            recorder._merging.add_done_callback(lambda _: self.changed.set())
            return False
        return self.stored.requests is not None and self.stored.requests.pending == pending

    def say(self, **values: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**values, "memory": peak}), flush=True)
