"""``SCHEDULER = "scrapy_state.redis.Scheduler"``: Scrapy's scheduler, with its requests in Redis."""

from __future__ import annotations

import asyncio
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
from ..exceptions import StateSettingsError, StoreError
from ..frontier.codec import Codec
from ..scrapy_internals import PAGE, fail_when_closed, hold_output, hold_start, is_closing, watch_done, watch_pages
from . import log
from .connection import Heartbeat
from .frontier import NewRequest, Reply
from .incoming import Incoming, KeepOpen
from .leases import Acknowledging, Leases, Order, Pace
from .opening import Opening
from .settings import RedisSettings, check_dupefilter, local_dupefilter
from .unit_requests import UnitRequests
from .worker import Worker

if TYPE_CHECKING:
    from queuelib.queue import BaseQueue
    from scrapy.pqueues import ScrapyPriorityQueue
    from scrapy.statscollectors import StatsCollector
    from typing_extensions import Self


class Scheduler(ScrapyScheduler):
    """Pending requests and seen fingerprints in Redis, shared by all workers of a job.

    A request that the engine takes is leased. Its lease is given up when its callback and all its items are done and the
    items durable; those of a worker that dies come back after STATE_REDIS_LEASE_TIMEOUT. Nothing here waits for Redis.
    docs/redis.md says the rest. Under ``scrapy shell`` and the like it is Scrapy's scheduler, in memory.
    """

    #: asks CheckpointFeedExporter for durable item files without a state feed
    needs_durable_items = True

    crawler: Crawler
    stats: StatsCollector
    mqclass: type[BaseQueue]
    pqclass: type[ScrapyPriorityQueue]

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make it. Connects to nothing yet."""
        settings = crawler.settings
        return cls(
            local_dupefilter(crawler),
            jobdir=None,
            mqclass=load_object(settings["SCHEDULER_MEMORY_QUEUE"]),
            logunser=True,
            stats=crawler.stats,
            pqclass=load_object(settings["SCHEDULER_PRIORITY_QUEUE"]),
            crawler=crawler,
        )

    def open(self, spider: Spider) -> Deferred[None] | None:
        """Make ready. The frontier is opened before the spider's first request, where the crawl can still be refused."""
        super().open(spider)
        self._worker: Worker | None = None
        self._opening: Opening | None = None
        engine = self.crawler.engine
        assert engine is not None
        if engine._slot is None or not engine._slot.close_if_idle:  # scrapy shell, scrapy fetch, scrapy view
            return None
        self._leases = Leases()
        self._order = Order(self.mqclass, self._smqclass)
        self._finished = self._starving = self._failed = False
        self._told_waiting = False
        self._all_fatal = 0
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
            raise StateSettingsError("TWISTED_REACTOR: the frontier needs asyncio; leave Scrapy's default reactor in place")
        self.settings = settings = RedisSettings.from_crawler(crawler)
        check_dupefilter(self.df, self.spider)
        self._codec = Codec(self.spider, settings.use_pickle)
        self._shared_filter = type(self.df) is RFPDupeFilter
        self._by_slot = issubclass(self.pqclass, DownloaderAwarePriorityQueue)
        self._opening = Opening(crawler, settings, self._codec, self._order)
        frontier, reply = await self._opening.open()
        self._units.opened(self._opening, settings)
        engine = crawler.engine
        assert engine is not None
        self._pace = Pace(engine.downloader, self._by_slot)
        self._worker = worker = Worker(frontier, settings, self)
        self._incoming = Incoming(crawler, settings, self._codec, self._units, self._leases, worker, self._done)
        self._keep_open = KeepOpen(crawler, settings)
        listener = None if settings.early else self._barrier.listener
        if listener is None and not settings.early and crawler.settings.getdict("FEEDS"):
            log.tell_feeds(self.spider)
        self._acknowledging = Acknowledging(worker, listener, settings.interval_seconds)
        self._tell(reply)
        watch_done(engine, self._done)
        watch_pages(engine)
        hold_start(engine, self._starting, self._room)
        # A crawl that ends waits for its callbacks.
        hold_output(engine.scraper, lambda: worker.room(unless=lambda: self._failed or is_closing(engine)))
        worker.start(Heartbeat(settings, self._opening.worker, self.spider, lambda: worker.last))

    def close(self, reason: str) -> Deferred[None] | None:
        """Have the items made durable, acknowledge, give back what is leased."""
        if self._opening is None:
            return super().close(reason)
        return deferred_from_coro(self._close(reason))

    async def _close(self, reason: str) -> None:
        worker, opening = self._worker, self._opening
        assert opening is not None
        self._units.close()
        log.tell_unstored(self._leases.unstored.count, self._leases.own, self.spider)
        try:
            if worker is not None:
                self._incoming.close()
                await self._acknowledging.close()
                try:
                    await worker.close()
                    if reason == "finished" and self.settings.clear == "finished" and not self._failed:
                        await opening.clear_if_finished()
                except StoreError as error:
                    self.failed(error)
                log.tell_all_fatal(self._all_fatal, self.spider)
        finally:
            if worker is not None:
                worker.stop_heartbeat()
            await opening.close()
            super().close(reason)

    # The engine's calls

    def has_pending_requests(self) -> bool:
        """Whether a request is pending or running anywhere, or may come from outside."""
        if self._opening is None:
            return super().has_pending_requests()
        return not self._finished or bool(self._leases.waiting)

    def enqueue_request(self, request: Request) -> bool:
        """Send *request* to Redis, with others. False if a dupefilter of the project's own drops it.

        Whether the built-in one drops it only Redis knows; then the ``request_dropped`` signal comes later.
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
        slot = self.crawler.engine.downloader.get_slot_key(request) if self._by_slot else ""
        if not isinstance(slot, str):  # Scrapy's queue would raise, too
            raise TypeError(f"{request}: its download slot is a {type(slot).__name__}, and must be text")
        is_start, unit = self._order.is_start(request), self._units.unit_of(request)
        worker.put(NewRequest(data, fingerprint, request.priority, is_start, slot, request, unit))
        return True

    def next_request(self) -> Request | None:
        """Return a leased request, None if there is none just now."""
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
        """How many requests are here, not how many are in Redis."""
        return len(self._leases.waiting) if self._worker is not None else super().__len__()

    # The worker's host

    @property
    def wanted(self) -> int:
        """How many more leases there is room for."""
        return 0 if self._failed else max(0, self.settings.prefetch - len(self._leases.waiting))

    @property
    def rooms(self) -> tuple[Mapping[str, int], int]:
        """How many of them may be of each download slot, and of any slot that is not named."""
        return self._pace.rooms

    @property
    def low(self) -> bool:
        """Whether half of what was leased ahead is used up."""
        return self.wanted * 2 >= self.settings.prefetch

    @property
    def starving(self) -> bool:
        """Whether the engine has asked for a request in vain."""
        return self._starving

    @property
    def hidden(self) -> int:
        """How many requests are at work here that Redis does not know of; ``start()`` counts as one."""
        return self._leases.own + (self.crawler.engine._start is not None)

    @property
    def held(self) -> Sequence[int]:
        """The leases that are not done."""
        return self._leases.ids

    def received(self, reply: Reply, sent: Sequence[NewRequest]) -> None:
        """Take what an exchange brought."""
        worker = self._worker
        assert worker is not None
        self._tell(reply)
        log.tell_sent(reply, sent, self.crawler, self.df)
        self._units.received(reply, sent)
        if reply.lost:
            log.tell_lost(self.settings.lease_seconds, self.spider)
            self._leases.lose(worker.done)
            self._pace.keep(self._leases.running)
        for request in self._order.to_push(self._incoming.read(reply)):
            try:
                self.mqs.push(request)
                self._pace.took(request)
            except Exception as error:  # a queue may ask what it likes of a request that anybody may have pushed
                self._incoming.refuse(request, error)
        if reply.vanished:
            log.tell_vanished(reply.vanished, self.spider)
            self._end("state_frontier_failed")
        is_over = not (reply.pending or reply.leased or reply.others_busy or self._units.unsure)
        is_over = is_over and not (self._leases or self.hidden or worker.outbox or worker.unreadable)
        # Others that die before their items are durable leave pages that somebody must crawl again.
        must_wait = is_over and reply.others_open > 0
        self._finished = is_over and (self.settings.keep_open or not must_wait)
        self._keep_open.has_something(not is_over or must_wait)
        if must_wait and not self.settings.keep_open:
            self._acknowledging.hurry()
            if not self._told_waiting:
                self._told_waiting = True
                log.tell_waiting(reply.others_open, self.spider)
        if reply.leased or self._finished:
            # Kept open, the engine goes on asking in vain, and the worker looks by itself, less often.
            self._starving = self._finished and self.settings.keep_open
            self.crawler.engine._slot.nextcall.schedule()  # type: ignore[union-attr]

    def failed(self, error: StoreError) -> None:
        """Redis is away for good: end the crawl. What is leased comes back by itself."""
        if not self._failed:
            log.tell_failed(error, self.settings.lease_seconds, self.spider)
        self._end("state_frontier_failed")

    def _tell(self, reply: Reply) -> None:
        log.tell_reply(reply, self.stats, self.spider)
        self._all_fatal = reply.all_fatal
        fatal = (self._incoming.name(data) for _, data in reply.fatal)
        log.tell_fatal(fatal, self.settings.most_deliveries, self.stats, self.spider)

    def _end(self, reason: str) -> None:
        if self._failed:
            return
        self._failed = True
        fail_when_closed(self.crawler)
        engine = self.crawler.engine
        if engine is not None and engine.spider is not None and engine._slot is not None and engine._slot.closing is None:
            self._closing = asyncio.create_task(engine.close_spider_async(reason=reason))

    def _keep_in_memory(self, request: Request, filtered: bool, error: ValueError) -> bool:
        if filtered and self._shared_filter and self.df.request_seen(request):
            self.df.log(request, self.spider)
            return False
        self.mqs.push(request)
        if self.logunser:
            log.tell_unserializable(request, error, self.spider)
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
            self._worker.wake(hurry=True)  # that may have been the last

    def _starting(self, each: Any) -> None:
        self._from_start = each  # meta says it of its retries and redirects too

    async def _room(self) -> bool:
        assert self._worker is not None
        await self._worker.room(unless=lambda: self._failed)
        return not self._failed
