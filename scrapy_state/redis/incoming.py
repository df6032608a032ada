"""Turns what was leased into requests, and decides when there is nothing more to lease.

Anybody may have pushed what is leased, so nothing in it may end a worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scrapy import Request, signals
from scrapy.exceptions import DontCloseSpider

from ..frontier.codec import PUSHED, Unreadable
from ..scrapy_internals import PAGE
from . import log

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

    from ..frontier.codec import Codec
    from .frontier import Reply
    from .leases import Leases
    from .settings import RedisSettings
    from .unit_requests import UnitRequests
    from .worker import Worker

#: The spider's method that makes requests of pushed data, as in scrapy-redis
_HOOK = "make_request_from_data"


class Incoming:
    """Reads what was leased, and sets aside what it can't read.

    :param done: called for a request that is done
    """

    def __init__(
        self, crawler: Crawler, settings: RedisSettings, codec: Codec, units: UnitRequests, leases: Leases, worker: Worker,
        done: Callable[[Request], None],
    ) -> None:  # fmt: skip
        self._crawler = crawler
        self._spider: Any = crawler.spider
        self._settings = settings
        self._codec = codec
        self._units = units
        self._leases = leases
        self._worker = worker
        self._done = done
        self._hook = getattr(crawler.spider, _HOOK, None)
        self._unreadable = 0
        self._fatal = 0
        self._pushed_type = ""

    def report(self, reply: Reply) -> None:
        """Log and count what *reply* says about leases, and about pages that are set aside because their workers died."""
        log.count_reply(reply, self._crawler.stats, self._spider)
        if reply.lost:
            log.log_lost(self._settings.lease_seconds, self._spider)
        if reply.vanished:
            log.log_vanished(reply.vanished, self._spider)
        self._fatal = reply.all_fatal
        pages = (self._name(data) for _, data in reply.fatal)
        log.count_fatal(pages, self._settings.most_deliveries, self._crawler.stats, self._spider)

    def read(self, reply: Reply) -> list[Request]:
        """Return the requests that *reply* has leased to this worker, in order, and add them to its leases."""
        if reply.pushed_type and reply.pushed_type != self._pushed_type:
            log.log_pushed_type(self._settings.pushed_key, reply.pushed_type, self._spider)
        self._pushed_type = reply.pushed_type
        requests = []
        for id, data in reply.leased:
            if self._leases.has_again(id):
                self._worker.finish_again(id)
                continue
            try:
                if data[:1] == PUSHED and self._hook is not None:
                    self._crawl(id, _requests_from(self._hook, data[1:]))
                    continue
                request = self._codec.decode_any(data)
                left_over = self._units.is_left_over(request.meta)
            except Unreadable as error:
                if not (left_over := self._units.is_left_over(error.meta)):
                    self.set_aside(id, error)
                    continue
            if left_over:
                self._worker.acknowledge([id])
            else:
                self._leases.waiting[request] = id
                requests.append(request)
        return requests

    def refuse(self, request: Request, error: Exception) -> None:
        """Set *request* aside, because Scrapy's queue does not take it."""
        self.set_aside(self._leases.waiting.pop(request), error)

    def set_aside(self, id: int, error: Exception) -> None:
        """Have the worker set lease *id* aside, because nobody can crawl it."""
        if not self._unreadable:
            log.log_unreadable(error, self._spider)
        self._unreadable += 1
        self._crawler.stats.inc_value("state/redis/unreadable")
        self._worker.set_aside(id)

    def close(self) -> None:
        """Log how many requests are set aside."""
        log.log_unreadable_count(self._unreadable, self._spider)
        log.log_fatal_count(self._fatal, self._spider)

    def _name(self, data: bytes) -> str:
        """Return what a log line calls the request in *data*."""
        try:
            return str(self._codec.decode_any(data))
        except Unreadable as error:
            return f"a request that can't be read ({error})"

    def _crawl(self, id: int, made: list[Request]) -> None:
        """Crawl the requests that the spider has *made* of pushed data. Its lease is done once they are stored or done."""
        page = Request("data:,")  # represents the pushed data; nobody else sees it
        self._leases.running[page] = id
        before = PAGE.set(page)
        try:
            for request in made:
                self._crawler.engine.crawl(request)
        except Exception as error:  # nothing that was pushed may end a worker
            del self._leases.running[page]
            self.set_aside(id, error)
        else:
            self._done(page)
        finally:
            PAGE.reset(before)


def _requests_from(hook: Callable[[bytes], Any], data: bytes) -> list[Request]:
    """Return the requests that *hook* makes of *data*. It may return one, several, or None."""
    try:
        made = hook(data)
        requests = [made] if isinstance(made, Request) else list(made if made is not None else ())
    except Exception as error:  # the spider's own code, given arbitrary data
        raise Unreadable(f"{_HOOK}() raised {type(error).__name__}: {error}", None) from error
    if not all(isinstance(each, Request) for each in requests):
        raise Unreadable(f"{_HOOK}() returned something that is not a request", None)
    return requests


class Ending:
    """Decides when the crawl is over for this worker.

    With STATE_REDIS_KEEP_OPEN it is over when no worker has had anything to do for STATE_REDIS_IDLE_TIMEOUT. Until then this
    class keeps the spider open each time Scrapy finds it idle, after the project's own handlers of ``spider_idle``.

    :param hurry: makes this worker's items durable now, because other workers may wait for that
    """

    def __init__(self, crawler: Crawler, settings: RedisSettings, hurry: Callable[[], None]) -> None:
        self._spider: Any = crawler.spider
        self._settings = settings
        self._hurry = hurry
        self._is_waiting_logged = False
        #: since when no worker has had anything to do, by time.monotonic(); None: one has
        self._idle_since: float | None = None
        if settings.keep_open:
            crawler.signals.connect(self.spider_idle, signals.spider_idle)

    def is_over(self, reply: Reply, is_busy: bool) -> bool:
        """Return whether the engine may find the spider idle.

        :param reply: what Redis has just said about the frontier and the other workers
        :param is_busy: whether this worker has requests, or something to send
        """
        is_done = not (is_busy or reply.pending or reply.leased or reply.others_busy)
        # If other workers die before their items are durable, somebody must crawl their pages again.
        must_wait = is_done and reply.others_open > 0
        self._note_idle(is_done and not must_wait)
        if must_wait and not self._settings.keep_open:
            self._hurry()
            if not self._is_waiting_logged:
                self._is_waiting_logged = True
                log.log_waiting(reply.others_open, self._spider)
        return is_done and (self._settings.keep_open or not must_wait)

    def spider_idle(self) -> None:
        """Decide whether the spider stays open.

        :raises DontCloseSpider: if it does
        """
        seconds = self._settings.idle_seconds
        if self._idle_since is None or time.monotonic() - self._idle_since < seconds:
            raise DontCloseSpider
        log.log_idle(seconds, self._spider)

    def _note_idle(self, is_idle: bool) -> None:
        if not is_idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
