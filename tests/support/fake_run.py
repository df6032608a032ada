"""One run of a crawl: the package's own middleware, processor, exporter and resolver, without an engine or requests.

The spider yields the items 0, 1, 2, ... from its state on; a test decides when each continues, and how it ends.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fake_store import URI, Clock, FakeStore, Loop
from scrapy import Spider, signals
from scrapy.crawler import Crawler
from scrapy.exceptions import CloseSpider, DropItem
from scrapy.extensions.feedexport import ItemFilter
from scrapy.utils.misc import build_from_crawler, load_object
from scrapy.utils.test import get_reactor_settings

from scrapy_state import StateItem
from scrapy_state.barrier import StateMiddleware
from scrapy_state.exceptions import StateError
from scrapy_state.extension import StateResolver
from scrapy_state.feedexport import CheckpointFeedExporter

STATES = f"{URI}states/%(batch_id)010d.json"
CLOSE_SECONDS, RETRY_SECONDS = 3, 20


class Even(ItemFilter):
    def accepts(self, item: Any) -> bool:
        return item["n"] % 2 == 0


class Third(ItemFilter):
    def accepts(self, item: Any) -> bool:
        return item["n"] % 3 == 0


@dataclass(frozen=True)
class Config:
    """The settings that Hypothesis draws for each run."""

    interval: int = 0
    on_item_error: str = "stop"
    orphans: str = "keep"
    spool: int = 1 << 20
    batch_items: int = 0
    batch_bytes: int | None = None

    def settings(self) -> dict[str, Any]:
        batches = {"batch_item_count": self.batch_items, "batch_file_size": self.batch_bytes}
        gzip = {"postprocessing": ["scrapy.extensions.postprocessing.GzipPlugin"]}
        items = f"{URI}items/%(run_id)s"
        return {
            **get_reactor_settings(),
            "ADDONS": {"scrapy_state.Addon": 1},
            "EXTENSIONS_BASE": {"scrapy.extensions.feedexport.FeedExporter": 0},
            "ITEM_PROCESSOR": f"{__name__}.Processor",
            "FEEDS": {
                STATES: {"format": "json", "item_classes": [StateItem]},
                f"{items}/all-%(batch_id)05d.jsonl": {"format": "jsonlines", **batches},
                f"{items}/even-%(batch_id)05d.csv": {"format": "csv", "item_filter": Even, **batches},
                f"{items}/third-%(batch_id)05d.json.gz": {"format": "json", "item_filter": Third, **batches, **gzip},
            },
            "STATE_INTERVAL": self.interval,
            "STATE_ON_ITEM_ERROR": self.on_item_error,
            "STATE_ORPHANS": self.orphans,
            "STATE_SPOOL_SIZE": self.spool,
            "STATE_CLOSE_TIMEOUT": CLOSE_SECONDS,
            "STATE_RETRY_TIMEOUT": RETRY_SECONDS,
            "STATE_SELFCHECK": False,  # there are no queues
        }


class ModelSpider(Spider):
    name = "model"
    run: Run


class Processor:
    """Replaces the pipelines: every item waits until the test decides its outcome."""

    middlewares: tuple[Any, ...] = ()

    def __init__(self, crawler: Crawler) -> None:
        self.run: Run = crawler.spider.run  # type: ignore[union-attr]

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Processor:
        return cls(crawler)

    async def open_spider_async(self) -> None:
        pass

    async def close_spider_async(self) -> None:
        pass

    async def process_item_async(self, item: Any) -> Any:
        self.run.inside[item["n"]] = future = asyncio.get_running_loop().create_future()
        return await future


class Run:
    """*fates*: item -> "exported", "dropped", "skipped" or "failed", once it is known."""

    def __init__(self, store: FakeStore, clock: Clock, config: Config, branch_at: int | None, wrong: Any) -> None:
        self.store, self.clock, self.config, self.branch_at, self.wrong = store, clock, config, branch_at, wrong
        self.loop = Loop(clock, self)
        self.loop.set_exception_handler(self._loop_error)
        self.held: list[Any] = []
        self.dead = self.refused = False
        self.closing: str | None = None
        self.troubled = False  # something was done to it that may end it
        self.queue: list[dict[str, int]] = []
        self.inside: dict[int, asyncio.Future[Any]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.fates: dict[int, str] = {}
        self.opening: asyncio.Task[None] | None = None
        self.ending: asyncio.Task[None] | None = None
        self.start = self.position = self.state = 0
        self.run_id = ""

    @property
    def live(self) -> bool:
        return not self.dead and self.opening is None and self.ending is None

    @property
    def busy(self) -> bool:
        """Whether it has work that its end could spoil."""
        return self.opening is not None or self.position > self.start

    def resolve(self) -> bool:
        """Find where to start, and begin the opening; return False if the run refuses to start."""
        at = {} if self.branch_at is None else {"STATE_AT": self.branch_at}
        self.crawler = Crawler(ModelSpider, {**self.config.settings(), **at})
        self.crawler.spider = spider = ModelSpider.from_crawler(self.crawler)
        spider.run = self
        self.crawler.crawling = True
        self.store.at_work = self
        self.newest = max((each["id"] for each in self.store.checkpoints()), default=None)
        try:
            self._now(self.crawler._apply_settings)
        except StateError as error:
            if not self.troubled:
                self.wrong(f"P6: a run was refused for no reason: {error}")
            self.end()
            return False
        finally:
            self.store.at_work = None
        self.start = self.position = self.state = getattr(spider, "state", {}).get("n", 0)
        exporter = self.crawler.get_extension(CheckpointFeedExporter)
        resolver = self.crawler.get_extension(StateResolver)
        assert exporter is not None
        assert resolver is not None
        self.run_id, self.resolution = exporter.run_id, resolver.resolution
        self.middleware = StateMiddleware.from_crawler(self.crawler)
        self.engine = self.crawler.engine = self._engine()  # type: ignore[assignment]
        processor = self.crawler.settings["ITEM_PROCESSOR"]
        self.processor = self._now(lambda: build_from_crawler(load_object(processor), self.crawler))
        return True

    def open(self) -> None:
        self.opening = self._task(self.processor.open_spider_async())
        self.settle()

    def settle(self) -> None:
        """Run as far as possible at this time."""
        if self.dead:
            return
        self.loop.settle()
        if self.opening is not None and self.opening.done():
            opening, self.opening = self.opening, None
            error = opening.exception()
            # Before Scrapy 2.18 nothing is raised, but the engine's next call will close the spider.
            if error is not None or self.engine.start_async is not None:
                if not isinstance(error, (StateError, CloseSpider, type(None))) or not self.troubled:
                    self.wrong(f"P6: the opening was refused for no reason: {error!r}")
                self.refused = True
                self.begin_close("state_refused")
                self.ending = self._task(self._close())
            else:
                found = self.resolution.checkpoint
                if (found.id if found else None) != (self.branch_at or self.newest):
                    self.wrong(f"P3: starts from {found}, the newest checkpoint is {self.newest}")
                self._task(self._send(signals.spider_opened))
            self.loop.settle()
        if self.ending is not None and self.ending.done():
            self.ending.result()
            self._ended()

    # Items

    def yield_items(self, count: int) -> None:
        for n in range(self.position, self.position + count):
            self._yield({"n": n})
        self.position += count
        self.settle()

    def yield_state(self) -> None:
        self._yield(StateItem({"n": self.position}))
        self.state = self.position
        self.settle()

    def enter(self, index: int) -> None:
        item = self.queue.pop(index % len(self.queue))
        task = self._task(self._scrape(item))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        self.settle()

    def finish(self, index: int, outcome: str) -> None:
        n = list(self.inside)[index % len(self.inside)]
        future = self.inside.pop(n)
        skipped = self.config.on_item_error == "skip" and not (outcome == "cancelled" and self.closing)
        if outcome in ("same", "replaced"):
            self.fates[n] = "exported"
        elif outcome == "dropped":
            self.fates[n] = "dropped"
        elif outcome in ("raised", "cancelled") and skipped:
            self.fates[n] = "skipped"
        else:
            self.fates[n] = "failed"
            self.troubled = True
        if outcome == "dropped":
            future.set_exception(DropItem("dropped"))
        elif outcome == "raised":
            future.set_exception(ValueError())
        elif outcome == "cancelled":
            future.cancel()
        else:
            future.set_result({"n": n, "text": object()} if outcome == "unexportable" else {"n": n})
        self.settle()

    # The end

    def begin_close(self, reason: str) -> None:
        """Begin to close as the engine does: no new requests. *shutdown*: SIGTERM."""
        self.closing = reason
        self.engine._slot.closing = object()
        self.crawler.crawling = reason != "shutdown"

    def close(self, outcomes: list[str], answer: str | None) -> None:
        """Let every item end, then close the spider.

        :param outcomes: how the items end, in turns
        :param answer: the answer to held calls, None for no answer
        """
        for _ in range(400):
            while self.queue:
                self.enter(0)
            if answer != "ok" and self.held:
                self.troubled = True
            for number in range(len(self.inside)):
                self.finish(0, outcomes[number % len(outcomes)])
            while self.held and answer is not None:
                self.held[0].release(answer)
                self.settle()
            if not self.tasks and self.ending is None and not self.dead:
                self.ending = self._task(self._close())
                self.settle()
            if self.dead:
                return
            if not self.queue and not self.inside:
                self.clock.now += 0.5
                self.settle()
        self.wrong(f"the run never ends: {'its items are stuck' if self.tasks else 'the exporter is'}")
        self.end()

    def end(self) -> None:
        """Kill the process; what it has sent may still reach the store."""
        self.dead = True
        self.store.in_flight += [call.sent for call in self.held if call.sent is not None]
        for call in list(self.held):
            call.release("killed")
        for _ in range(20):
            tasks = asyncio.all_tasks(self.loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self.loop.settle()
        self.loop.close()

    async def _close(self) -> None:
        await self.processor.close_spider_async()
        await self._send(signals.spider_closed, reason=self.closing)
        self.engine.spider, self.engine.running = None, False
        await self._send(signals.engine_stopped)
        await self.crawler.stop_async()

    def _ended(self) -> None:
        failed = self.crawler.spider is None
        stored = self.stored()
        if failed or self.refused:
            if not failed:
                self.wrong("P6: the run was refused, and its exit code is 0")
            if not self.troubled:
                self.wrong("P6: the run failed, and nothing had been done to it")
        elif "failed" in self.fates.values():
            self.wrong(f"P6: items failed and the run did not: {self.fates}")
        elif not stored or (stored[-1]["state"].get("n", 0), stored[-1]["reason"]) != (self.state, self.closing):
            self.wrong(f"P6: the run ended well, and its last state {self.state} is not stored: {stored[-1:]}")
        self.end()

    def stored(self) -> list[dict[str, Any]]:
        """Return its checkpoints, oldest first."""
        return [each for each in self.store.checkpoints() if each["run"] == self.run_id]

    # Below

    def _yield(self, item: Any) -> None:
        yielded = self._now(lambda: self.middleware.get_processed_item(item, None))
        if yielded is not None:
            self.queue.append(yielded)

    async def _scrape(self, item: Any) -> None:
        """Scrape as Scraper does."""
        with suppress(DropItem, ValueError, asyncio.CancelledError):
            output = await self.processor.process_item_async(item)
            await self._send(signals.item_scraped, item=output, response=None)

    async def _send(self, signal: Any, **arguments: Any) -> None:
        spider = self.crawler.spider
        for receiver, result in await self.crawler.signals.send_catch_log_async(signal, spider=spider, **arguments):
            if isinstance(result, Exception):
                self.wrong(f"{receiver} raised {result!r}")

    def _now(self, function: Any) -> Any:
        """Call *function* within the loop."""

        async def call() -> Any:
            return function()

        return self.loop.run_until_complete(call())

    def _task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.loop.create_task(coroutine)

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.dead:
            self.wrong(f"asyncio: {context}")

    def _engine(self) -> SimpleNamespace:
        async def close_spider_async(*, reason: str = "cancelled") -> None:
            if self.closing is None:
                self.begin_close(reason)

        def pause() -> None:
            engine.paused = True

        def unpause() -> None:
            engine.paused = False

        scraper = SimpleNamespace(
            spidermw=SimpleNamespace(middlewares=[self.middleware]), slot=SimpleNamespace(closing=None), itemproc=None
        )
        scraper.call_spider_async = scraper.handle_spider_output_async = None
        slot = SimpleNamespace(closing=None, nextcall=SimpleNamespace(schedule=lambda: None))
        engine = SimpleNamespace(
            spider=self.crawler.spider, scraper=scraper, downloader=None, _slot=slot, running=True, paused=False,
            pause=pause, unpause=unpause, close_spider_async=close_spider_async, start_async=None, _start=None,
        )  # fmt: skip
        return engine


def open_in_memory(folder: Any) -> io.BytesIO:
    """Replaces nameless_file(), so that a killed run leaves no open file behind."""
    return io.BytesIO()
