"""``SCHEDULER = "scrapy_state.redis.Scheduler"``: Scrapy's scheduler, with its requests in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scrapy import Request, Spider
from scrapy.core.scheduler import Scheduler as ScrapyScheduler
from scrapy.crawler import Crawler
from scrapy.dupefilters import RFPDupeFilter
from scrapy.pqueues import DownloaderAwarePriorityQueue
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.misc import load_object
from twisted.internet.defer import Deferred

from ..barrier.barrier import get_barrier
from ..barrier.item_processor import BarrierItemProcessor
from ..exceptions import StateError, StateSettingsError, StoreError
from ..frontier.codec import Codec
from ..frontier.dupefilter import local_dupefilter
from ..scrapy_internals import PAGE, hold_output, watch_done, watch_pages
from ..scrapy_internals.engine import closes_when_idle, hold_start, is_closing, is_reading_start, wake_up
from . import log
from .connection import Heartbeat
from .frontier import NewRequest, Reply
from .incoming import Ending, Incoming
from .leases import Acknowledging, Leases, Order, Pace
from .opening import Opening
from .settings import RedisSettings, check_dupefilter
from .unit_requests import UnitRequests
from .worker import Worker

if TYPE_CHECKING:
    from queuelib.queue import BaseQueue
    from scrapy.pqueues import ScrapyPriorityQueue
    from scrapy.statscollectors import StatsCollector
    from typing_extensions import Self


class Scheduler(ScrapyScheduler):
    """Pending requests and seen fingerprints in Redis, shared by all workers of a job.

    The engine gets only requests that this worker has leased. The worker acknowledges a request when its callback has ended
    and all its items are durable. If a worker dies, its leases return to the queue after STATE_REDIS_LEASE_TIMEOUT. No method
    waits for Redis. In ``scrapy shell``, ``fetch`` and ``view`` this is Scrapy's own scheduler, in memory. See docs/redis.md.
    """

    #: asks CheckpointFeedExporter for durable item files without a state feed
    needs_durable_items = True

    crawler: Crawler
    stats: StatsCollector
    mqclass: type[BaseQueue]
    pqclass: type[ScrapyPriorityQueue]

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make the scheduler. It doesn't connect to Redis yet."""
        return cls(
            local_dupefilter(crawler),
            jobdir=None,
            mqclass=load_object(crawler.settings["SCHEDULER_MEMORY_QUEUE"]),
            logunser=True,
            stats=crawler.stats,
            pqclass=load_object(crawler.settings["SCHEDULER_PRIORITY_QUEUE"]),
            crawler=crawler,
        )

    def open(self, spider: Spider) -> Deferred[None] | None:
        """Get ready. The frontier is opened before the spider's first request, when the crawl can still be refused."""
        super().open(spider)
        self._worker: Worker | None = None
        self._opening: Opening | None = None
        assert self.crawler.engine is not None
        self._engine = engine = self.crawler.engine
        if not closes_when_idle(engine):  # scrapy shell, scrapy fetch, scrapy view
            return None
        self._leases = Leases()
        self._order = Order(self.mqclass, self._smqclass)
        self._finished = self._starving = self._failed = False
        self._from_start: Any = None
        self._barrier = get_barrier(self.crawler)
        self._units = UnitRequests(self.crawler, self._end)
        if isinstance(engine.scraper.itemproc, BarrierItemProcessor):
            self._barrier.openers.append(self._open)
            return None
        return deferred_from_coro(self._open())

    async def _open(self) -> None:
        crawler = self.crawler
        if not is_asyncio_available():
            raise StateSettingsError(
                "TWISTED_REACTOR: the frontier needs asyncio", remedy="leave Scrapy's default reactor in place"
            )
        self.settings = settings = RedisSettings.from_crawler(crawler)
        check_dupefilter(self.df, self.spider)
        self._codec = Codec(self.spider, settings.use_pickle)
        self._shared_filter = type(self.df) is RFPDupeFilter
        self._opening = Opening(crawler, settings, self._codec, self._order)
        frontier, reply = await self._opening.open()
        self._units.opened(self._opening, settings)
        engine = self._engine
        self._pace = Pace(engine.downloader, issubclass(self.pqclass, DownloaderAwarePriorityQueue))
        self._worker = worker = Worker(frontier, settings, self)
        self._incoming = Incoming(crawler, settings, self._codec, self._units, self._leases, worker, self._done)
        listener = None if settings.early else self._barrier.listener
        if listener is None and not settings.early and crawler.settings.getdict("FEEDS"):
            log.warn_about_feeds(self.spider)
        self._acknowledging = Acknowledging(worker, listener, settings.interval_seconds)
        self._ending = Ending(crawler, settings, self._acknowledging.hurry)
        self._incoming.report(reply)
        watch_done(engine, self._done)
        watch_pages(engine)
        hold_start(engine, self._starting, self._wait_for_space)
        # A closing engine waits for the callbacks to end, so they must not wait here.
        hold_output(engine.scraper, lambda: worker.wait_for_space(unless=lambda: self._failed or is_closing(engine)))
        worker.start(Heartbeat(settings, self._opening.worker, self.spider, lambda: worker.last))

    def close(self, reason: str) -> Deferred[None] | None:
        """Make the items durable, acknowledge their requests, and return all other leases."""
        if self._opening is None:
            return super().close(reason)
        return deferred_from_coro(self._close(reason))

    async def _close(self, reason: str) -> None:
        worker, opening = self._worker, self._opening
        assert opening is not None
        self._units.close()
        log.log_unstored_count(self._leases.unstored.count, self._leases.only_in_memory, self.spider)
        try:
            if worker is not None:
                await self._acknowledging.close()
                try:
                    await worker.close()
                    if reason == "finished" and self.settings.clear == "finished" and not self._failed:
                        await opening.clear_if_finished()
                except StoreError as error:
                    self.failed(error)
                self._incoming.close()
        finally:
            if worker is not None:
                worker.stop_heartbeat()
            await opening.close()
            super().close(reason)

    # The engine's calls

    def has_pending_requests(self) -> bool:
        """Whether any worker has requests pending or running, or somebody may push more."""
        if self._opening is None:
            return super().has_pending_requests()
        return not self._finished or bool(self._leases.waiting)

    def enqueue_request(self, request: Request) -> bool:
        """Queue *request* for the next exchange with Redis. Return False if the project's own dupefilter drops it.

        If Redis filters duplicates, the answer comes with that exchange, and Scrapy's ``request_dropped`` signal is sent then.
        """
        worker = self._worker
        if worker is None:
            return super().enqueue_request(request)
        self._finished = False
        filtered = not request.dont_filter or (self.settings.filter_start and request is self._from_start)
        if filtered and not self._shared_filter and self.df.request_seen(request):
            self.df.log(request, self.spider)
            return False
        try:
            data = self._codec.encode(request)
        except ValueError as error:
            return self._keep_in_memory(request, filtered, error)
        fingerprint = self._units.fingerprint(request) if filtered and self._shared_filter else b""
        slot = self._pace.slot_of(request)
        is_start, unit = self._order.is_start(request), self._units.unit_of(request)
        worker.put(NewRequest(data, fingerprint, request.priority, is_start, slot, request, unit))
        return True

    def next_request(self) -> Request | None:
        """Return a request that this worker has leased; None if it has none just now."""
        if self._worker is None:
            return super().next_request()
        while (request := self.mqs.pop()) is not None:
            id = self._leases.begin(request)
            if id is None:
                continue
            self.stats.inc_value("scheduler/dequeued/redis" if id else "scheduler/dequeued/memory")
            self.stats.inc_value("scheduler/dequeued")
            PAGE.set(request)
            if self.low:
                self._worker.wake()
            return request
        if not self._starving:
            self._starving = True
            self._worker.wake(hurry=True)
        return None

    def __len__(self) -> int:
        """How many requests wait in this worker, not how many are in Redis."""
        return len(self._leases.waiting) if self._worker is not None else super().__len__()

    # What the worker asks: see Host

    @property
    def wanted(self) -> int:
        """How many more requests to lease."""
        return 0 if self._failed else max(0, self.settings.prefetch - len(self._leases.waiting))

    @property
    def capacities(self) -> tuple[Mapping[str, int], int]:
        """How many more to lease of each download slot, and of any other slot."""
        return self._pace.capacities

    @property
    def low(self) -> bool:
        """Whether the engine has taken half of the requests that were leased ahead."""
        return self.wanted * 2 >= self.settings.prefetch

    @property
    def starving(self) -> bool:
        """Whether the engine has asked for a request and got none."""
        return self._starving

    @property
    def hidden(self) -> int:
        """How many requests this worker has that Redis does not know of; a running ``start()`` counts as one."""
        return self._leases.only_in_memory + is_reading_start(self._engine)

    @property
    def unfinished(self) -> Sequence[int]:
        """The leases whose requests are not done."""
        return self._leases.ids

    def received(self, reply: Reply, sent: Sequence[NewRequest]) -> None:
        """Process the reply to an exchange, which sent the requests *sent*."""
        worker = self._worker
        assert worker is not None
        self._incoming.report(reply)
        log.count_sent(reply, sent, self.crawler, self.df)
        self._units.received(reply, sent)
        if reply.lost:
            self._leases.lose(worker.done)
            self._pace.keep(self._leases.running)
        for request in self._order.to_push(self._incoming.read(reply)):
            try:
                self.mqs.push(request)
                self._pace.took(request)
            except Exception as error:  # somebody may have pushed a request that the project's queue can't take
                self._incoming.refuse(request, error)
        if reply.vanished:
            self._end("state_frontier_failed")
        is_busy = bool(self._leases or self.hidden or worker.outbox or worker.unreadable or self._units.unsure)
        self._finished = self._ending.is_over(reply, is_busy)
        if reply.leased or self._finished:
            # While the spider is kept open, the engine keeps asking; don't let that make the worker poll more often.
            self._starving = self._finished and self.settings.keep_open
            wake_up(self._engine)

    def failed(self, error: StoreError) -> None:
        """Close the spider, because Redis can't be used any more. The leases expire by themselves."""
        if not self._failed:
            log.log_end(error, self.settings.lease_seconds, self.spider)
        self._end("state_frontier_failed", error)

    def _end(self, reason: str, error: StateError | None = None) -> None:
        if self._failed:
            return
        self._failed = True
        self._barrier.failure.close_spider(reason, error)

    def _keep_in_memory(self, request: Request, filtered: bool, error: ValueError) -> bool:
        if filtered and self._shared_filter and self.df.request_seen(request):
            self.df.log(request, self.spider)
            return False
        self.mqs.push(request)
        if self.logunser:
            log.log_unserializable(request, error, self.spider)
            self.logunser = False
        self._leases.keep(request, PAGE.get())
        self.stats.inc_value("scheduler/unserializable")
        self.stats.inc_value("scheduler/enqueued/memory")
        self.stats.inc_value("scheduler/enqueued")
        return True

    def _done(self, request: Request) -> None:
        id = self._leases.end(request)
        self._pace.ended(request)
        assert self._worker is not None
        if id:
            self._acknowledging.done(id)
        if not self._leases:
            self._worker.wake(hurry=True)  # it may have been the last one

    def _starting(self, each: Any) -> None:
        self._from_start = each  # request.meta can't tell: retries and redirects inherit it

    async def _wait_for_space(self) -> bool:
        assert self._worker is not None
        await self._worker.wait_for_space(unless=lambda: self._failed)
        return not self._failed
