"""``SCHEDULER = "scrapy_state.frontier.Scheduler"``: Scrapy's scheduler; checkpoints contain the requests it has."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from scrapy import Request, Spider
from scrapy.core.scheduler import Scheduler as ScrapyScheduler
from scrapy.crawler import Crawler
from scrapy.dupefilters import RFPDupeFilter
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.misc import load_object
from twisted.internet.defer import Deferred

from ..barrier.barrier import get_barrier
from ..scrapy_internals import (
    PAGE,
    STAND_IN,
    closes_when_idle,
    is_crawl,
    wake_up,
    watch_done,
    watch_failures,
    watch_pages,
    watch_start,
)
from .books.page import Page, Waiting, form_of
from .dupefilter import fingerprinter, local_dupefilter, warn_of_jobdir
from .opening import Opened, open_frontier
from .queues import Queues
from .start import EVERY_RUN
from .unstorable import UnstorableRequests

if TYPE_CHECKING:
    from scrapy.pqueues import ScrapyPriorityQueue
    from scrapy.statscollectors import StatsCollector
    from typing_extensions import Self

logger = logging.getLogger("scrapy_state.state")


class Scheduler(ScrapyScheduler):
    """Scrapy's scheduler, in memory. It tells the books (frontier/pages.py) what becomes of each request.

    Without a state feed, with STATE_REQUESTS = False, and in ``scrapy shell`` and the like, it is only Scrapy's. It neither
    reads nor writes JOBDIR.
    """

    #: says that checkpoints contain this scheduler's requests
    keeps_pages = True

    crawler: Crawler
    stats: StatsCollector
    mqs: ScrapyPriorityQueue

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make the scheduler. It reads nothing yet."""
        return cls(
            local_dupefilter(crawler),
            jobdir=None,
            mqclass=load_object(crawler.settings["SCHEDULER_MEMORY_QUEUE"]),
            logunser=crawler.settings.getbool("SCHEDULER_DEBUG"),
            stats=crawler.stats,
            pqclass=load_object(crawler.settings["SCHEDULER_PRIORITY_QUEUE"]),
            crawler=crawler,
        )

    def open(self, spider: Spider) -> Deferred[None] | None:
        """Get ready. The requests of the last run are read before the first request, when the crawl can still be refused."""
        opened = super().open(spider)
        self._opened: Opened | None = None
        self._released = False
        self._accepted = 0
        self._unstorable = UnstorableRequests(self.crawler)
        engine = self.crawler.engine
        assert engine is not None
        if is_crawl(self.crawler) and closes_when_idle(engine):
            warn_of_jobdir(self.crawler)
            get_barrier(self.crawler).openers.append(self._open)
        return opened

    async def _open(self) -> None:
        crawler, engine = self.crawler, self.crawler.engine
        opened = await open_frontier(crawler, self, self._release, self.stop) if is_asyncio_available() else None
        if opened is None:
            return
        self._own_filter = type(self.df) is RFPDupeFilter
        self._fingerprint = fingerprinter(crawler)
        self._pages, self._start, self._seen = opened.pages, opened.start, opened.seen
        self._queues = Queues(self.mqs, opened)
        self._opened, self._listener = opened, get_barrier(crawler).listener
        watch_pages(engine)
        watch_done(engine, self._done)
        watch_start(engine, self._start.yielded, self._start_ended, self._start_raised)
        watch_failures(engine.scraper, opened.recorder.failures.not_taken, opened.recorder.failures.spider_failed)
        self._start.begin()

    def stop(self) -> None:
        """From now on be Scrapy's scheduler, and nothing else: the spider's units say what is done."""
        if self._opened is not None:
            self._start.release()
            self._opened = None

    def close(self, reason: str) -> Deferred[None] | None:
        """Forget the requests. The last checkpoint has been stored, or is about to be."""
        if self._opened is not None:
            self._start.close()
            self._opened.backlog.close()
        return super().close(reason)

    # The engine's calls

    def has_pending_requests(self) -> bool:
        """Whether requests wait, also those of the last run."""
        if self._opened is None:
            return super().has_pending_requests()
        return len(self._queues) > 0

    def __len__(self) -> int:
        """How many requests wait."""
        if self._opened is None:
            return super().__len__()
        return len(self._queues)

    def enqueue_request(self, request: Request) -> bool:
        """Take *request*, unless the filter drops it, or an earlier run has sent it."""
        opened = self._opened
        if opened is None:
            return super().enqueue_request(request)
        if request is STAND_IN.get():
            page = self._pages.under_way.of(PAGE.get())
            if page is not None:
                return self._join(request, page)
        is_from_start = request is self._start.newest
        page = self._pages.beginning if is_from_start else self._pages.under_way.of(PAGE.get())
        if page is not None:
            page.request_arrived()
        if request.meta.get(EVERY_RUN):
            return self._send_every_run(request)
        fingerprint = b""
        if self._own_filter and (not request.dont_filter or is_from_start):
            fingerprint = self._fingerprint(request)
            if fingerprint in self._seen and not (is_from_start or (page is not None and page.left_out)):
                self.df.log(request, self.spider)  # most links are such: they need not be encoded
                return False
        try:
            encoded = opened.codec.encode_text(request)
        except ValueError as error:
            self._unstorable.add(request, error, page, self._accepted)
            return self._join_unstorable(request, page, is_from_start)
        if self._is_sent_before(encoded, fingerprint, is_from_start, page):
            self.stats.inc_value("state/requests_left_out")
            return False
        fingerprint = b"" if request.dont_filter else fingerprint
        if not self._passes(request, fingerprint):
            return False
        self._accepted += 1
        self._take_in(request, encoded, fingerprint, page)
        self._count_enqueued()
        return True

    def next_request(self) -> Request | None:
        """Return the next request: those of the last run follow once ``start()`` has begun to yield."""
        if self._opened is None:
            return super().next_request()
        request = self._queues.pop(also_stored=self._released)
        if request is None:
            return None
        self.stats.inc_value("scheduler/dequeued/memory")
        self.stats.inc_value("scheduler/dequeued")
        self._pages.under_way.take(request)
        PAGE.set(request)
        return request

    # How requests become pages

    def _is_sent_before(self, encoded: bytes, fingerprint: bytes, is_from_start: bool, page: Page | None) -> bool:
        if page is not None and page.leaves_out(encoded):
            return True
        had_ended = self._opened is not None and self._opened.start_had_ended
        return is_from_start and had_ended and bool(fingerprint) and fingerprint in self._seen

    def _passes(self, request: Request, fingerprint: bytes) -> bool:
        """Whether the filter lets *request* pass."""
        if request.dont_filter:
            return True
        is_new = self._seen.add(fingerprint) if self._own_filter else not self.df.request_seen(request)
        if not is_new:
            self.df.log(request, self.spider)
        return is_new

    def _take_in(self, request: Request, encoded: bytes, fingerprint: bytes, page: Page | None) -> None:
        pages, is_start = self._pages, bool(request.meta.get("is_start_request"))
        if fingerprint:
            pages.journal.saw(fingerprint)
        elif page is not None and page is not pages.beginning and not page.in_every_run:
            pages.add_unknown(request, encoded, request.priority, is_start, page)
            self._queues.push(request)
            return
        number = pages.add_known(encoded, request.priority, is_start, page)
        if self._opened is not None and self._opened.on_disk and self._queues.belongs_on_disk(request):
            self._opened.backlog.push([(number, request.priority, is_start, encoded)])
            return
        pages.under_way.wait(request, Waiting(number, page))
        self._queues.push(request)
        self._changed()

    def _join_unstorable(self, request: Request, page: Page | None, is_from_start: bool) -> bool:
        fingerprint = self._fingerprint(request) if is_from_start else b""
        if page is not None and fingerprint and page.leaves_out(fingerprint):
            self.stats.inc_value("state/requests_left_out")
            return False
        return self._join(request, page, form_of(fingerprint) if fingerprint else "")

    def _join(self, request: Request, page: Page | None, form: str = "") -> bool:
        """Let *request* be a part of *page*: it stands in for its request, or can't be stored."""
        is_in_every_run = bool(request.meta.get(EVERY_RUN))
        is_filtered = not (request.dont_filter or is_in_every_run)  # an earlier run has seen where a log-in redirects to
        fingerprint = self._fingerprint(request) if is_filtered and self._own_filter else b""
        if is_filtered and not self._passes(request, fingerprint):
            return False
        if page is None:
            self._pages.add_unstored(request)
        else:
            self._pages.join(request, page, fingerprint, form)
        if is_in_every_run:
            self._start.every_run_sent()
        self._queues.push(request)
        self._count_enqueued()
        return True

    def _send_every_run(self, request: Request) -> bool:
        self._pages.add_unstored(request, in_every_run=True)
        self._start.every_run_sent()
        self._queues.push(request)
        self._count_enqueued()
        return True

    def _count_enqueued(self) -> None:
        self.stats.inc_value("scheduler/enqueued/memory")
        self.stats.inc_value("scheduler/enqueued")

    def _done(self, request: Request) -> None:
        if self._pages.under_way.of(request) is None:
            return  # a pipeline or a callback has downloaded it
        self._pages.end(request)
        self._changed()
        if request.meta.get(EVERY_RUN):
            self._start.every_run_done()

    def _changed(self) -> None:
        if self._listener is not None:
            self._listener.requests_changed()

    def _start_ended(self) -> None:
        if not get_barrier(self.crawler).ended and self._opened is not None:
            self._pages.start_ended()
            self._start.ended()
            self._changed()

    def _start_raised(self, error: Exception) -> None:
        if self._opened is not None:
            self._opened.recorder.failures.start_raised(error)
            self._start.release()

    def _release(self) -> None:
        self._released = True
        assert self._opened is not None
        self._opened.set_state()
        wake_up(self.crawler.engine)
