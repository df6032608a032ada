"""What was typed on Scrapy Cloud, and at which level.

That platform's runner (package scrapinghub-entrypoint-scrapy, sh_scrapy/settings.py) gives every setting that was typed
there, at whatever level, the command line's priority if it is text, and the project's if it is an object. So priorities
don't tell what was given for one job alone; what the runner started from does: the variable SHUB_SETTINGS.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Set
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from scrapy import Request
from scrapy.core.downloader import Downloader
from scrapy.core.engine import ExecutionEngine
from scrapy.core.scraper import Scraper
from scrapy.crawler import Crawler
from scrapy.exporters import CsvItemExporter
from scrapy.utils.asyncgen import as_async_generator
from twisted.python.failure import Failure

from .exceptions import StateSettingsError

if TYPE_CHECKING:
    pass

#: From the widest to the narrowest, as the runner merges them
LEVELS = ("project_settings", "organization_settings", "spider_settings", "job_settings")


def typed(name: str, levels: tuple[str, ...] = LEVELS) -> Any:
    """Return what was typed as setting *name* on one of *levels*, the narrowest first; None elsewhere than on Scrapy Cloud.

    Only a file is read, if the platform has put the settings into one.

    :raises StateSettingsError: if what the platform says can't be read
    """
    if not os.environ.get("SHUB_SETTINGS"):
        return None
    try:
        from sh_scrapy.env import decode_uri
    except ImportError:  # not that runner
        return None
    try:
        found = decode_uri(envvar="SHUB_SETTINGS") or {}
    except (OSError, ValueError) as error:
        # Without its text: the settings in it may be secret.
        problem = f"the environment variable SHUB_SETTINGS can't be read ({type(error).__name__})"
        raise StateSettingsError(f"{problem}: unset it if this is not Scrapy Cloud") from None
    settings: list[Mapping[str, Any]] = [found.get(level) or {} for level in reversed(levels)]
    return next((each[name] for each in settings if each.get(name) is not None), None)


def is_crawl(crawler: Crawler) -> bool:
    """Whether *crawler* is to run its spider: not under ``scrapy shell``, ``fetch``, ``view``, ``parse``, ``check``.

    These have no spider yet, or one whose ``start()`` the command has replaced (scrapy/commands/).
    """
    spider = crawler.spider
    return spider is not None and not type(spider).start.__module__.startswith("scrapy.commands.")


_CHECK_SECONDS = 0.25
#: The request whose download, callback, errback or items are at work: whoever calls engine.crawl() there speaks for it.
PAGE: ContextVar[Request | None] = ContextVar("page", default=None)
_CRAWL = {inspect.unwrap(method).__code__ for method in (Crawler.crawl, Crawler.crawl_async)}


def arguments_of(crawler: Crawler) -> dict[str, Any] | None:
    """Return the keyword arguments that *crawler*'s spider was made with; None if it is not being started.

    Crawler.crawl() and crawl_async() keep them nowhere but in their own frame, which is there while they make the components.
    A spider need not keep them either, and has attributes that were no arguments.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code in _CRAWL and frame.f_locals.get("self") is crawler:
            return dict(frame.f_locals["kwargs"])
        frame = frame.f_back
    return None


def watch_errbacks(
    scraper: Scraper,
    process_output: Callable[[Failure, AsyncIterator[Any]], AsyncIterator[Any]],
    download_failed: Callable[[Failure, Request], None],
) -> None:
    """Put *process_output* around what errbacks yield, and call *download_failed* for each failure.

    Scraper._scrape (scrapy/core/scraper.py) gives an errback's output to handle_spider_output_async() at once: no spider
    middleware sees it. Two methods of this one object are wrapped.
    """
    call_spider, handle_output = scraper.call_spider_async, scraper.handle_spider_output_async

    async def call_spider_async(result: Any, request: Request) -> Any:
        if isinstance(result, Failure):
            download_failed(result, request)
        return await call_spider(result, request)

    async def handle_spider_output_async(result: Any, request: Request, response: Any) -> None:
        if isinstance(response, Failure):
            result = process_output(response, as_async_generator(result))
        await handle_output(result, request, response)

    scraper.call_spider_async = call_spider_async  # type: ignore[method-assign]
    scraper.handle_spider_output_async = handle_spider_output_async  # type: ignore[method-assign]


class RequestWatcher(Protocol):
    """Who is told of the way of requests."""

    def crawl(self, request: Request, crawl: Callable[[Request], None]) -> None:
        """The engine is to take *request*, from whomever; *crawl* does it."""

    def enqueued(self, request: Request, accepted: bool) -> None:
        """The scheduler has taken it, or filtered it."""

    def dequeued(self, request: Request) -> bool:
        """The scheduler hands it out; return whether it is to be sent."""

    async def scrape(self, request: Request, scrape: Callable[[], Awaitable[None]]) -> None:
        """Its response, or its failure, goes to the spider; *scrape* does it, and waits for what comes of it."""

    def not_taken(self, error: BaseException, request: Request) -> None:
        """It has failed, and no errback took that."""

    def spider_failed(self, error: BaseException, request: Request) -> None:
        """Its callback or errback raised."""


def watch_requests(engine: ExecutionEngine, watcher: RequestWatcher) -> None:
    """Tell *watcher* of each request's way from now on.

    No signal tells when a callback with all its items has come to its end (Scraper._scrape), nor of a request that a
    handler of request_scheduled refuses (off-site) in ExecutionEngine._schedule_request: crawl() then returns without the
    scheduler having been asked. Methods of the one engine, scheduler and scraper are wrapped.
    """
    assert engine._slot is not None
    scheduler, scraper = engine._slot.scheduler, engine.scraper
    crawl, enqueue, dequeue = engine.crawl, scheduler.enqueue_request, scheduler.next_request
    scrape, call_spider, spider_error = scraper._scrape, scraper.call_spider_async, scraper.handle_spider_error

    def watched_crawl(request: Request) -> None:
        watcher.crawl(request, crawl)

    def enqueue_request(request: Request) -> bool:
        accepted = enqueue(request)
        watcher.enqueued(request, accepted)
        return accepted

    def next_request() -> Request | None:
        request = dequeue()
        while request is not None and not watcher.dequeued(request):
            request = dequeue()
        return request

    async def call_spider_async(result: Any, request: Request) -> Any:
        try:
            return await call_spider(result, request)
        except Exception as error:
            if isinstance(result, Failure):
                watcher.not_taken(error, request)
            raise

    def handle_spider_error(failure: Failure, request: Request, response: Any) -> None:
        assert failure.value is not None
        watcher.spider_failed(failure.value, request)
        spider_error(failure, request, response)

    async def watched_scrape(result: Any, request: Request) -> None:
        await watcher.scrape(request, partial(scrape, result, request))

    engine.crawl = watched_crawl  # type: ignore[method-assign]
    scheduler.enqueue_request = enqueue_request  # type: ignore[method-assign]
    scheduler.next_request = next_request  # type: ignore[method-assign]
    scraper._scrape = watched_scrape  # type: ignore[method-assign]
    scraper.call_spider_async = call_spider_async  # type: ignore[method-assign]
    scraper.handle_spider_error = handle_spider_error  # type: ignore[method-assign,assignment]


def watch_pages(engine: ExecutionEngine) -> None:
    """Have PAGE say which request is at work, from its download on. The scheduler sets it where it hands out a request.

    Scraper._scrape runs in a task of its own, and what it starts inherits its context. A request that a middleware returns
    instead of a response comes back wherever the download has ended. Methods of the one engine and scraper are wrapped.
    """
    scrape, handle_output = engine.scraper._scrape, engine._handle_downloader_output

    async def watched_scrape(result: Any, request: Request) -> None:
        PAGE.set(request)
        await scrape(result, request)

    def handle_downloader_output(result: Any, request: Request) -> Any:
        before = PAGE.set(request)
        try:
            return handle_output(result, request)
        finally:
            PAGE.reset(before)

    engine.scraper._scrape = watched_scrape  # type: ignore[method-assign]
    engine._handle_downloader_output = handle_downloader_output  # type: ignore[method-assign]


def fail_when_closed(crawler: Crawler) -> None:
    """Let the exit code say that the crawl failed, once its spider is closed.

    ``scrapy crawl`` and ``runspider`` exit with 1 if a crawler has no spider in the end (AsyncCrawlerRunner._done,
    CrawlerRunner._crawl in scrapy/crawler.py); Scrapy has no other way to say it without a trace. stop_async() is the last
    thing that a closing engine calls.
    """
    stop = crawler.stop_async

    async def stop_async() -> None:
        await stop()
        if crawler.engine.spider is None:
            crawler.spider = None

    crawler.stop_async = stop_async  # type: ignore[method-assign]


def requests_in_flight(engine: ExecutionEngine) -> Set[Request]:
    """Return the requests in flight, those that pipelines and middlewares download too."""
    return engine._slot.inprogress if engine._slot is not None else set()


def requests_waiting(engine: ExecutionEngine) -> int:
    """Return how many requests wait in the scheduler; 1 for "some" where a scheduler does not say."""
    if engine._slot is None:
        return 0
    try:
        return len(engine._slot.scheduler)  # type: ignore[arg-type]  # Scrapy's has it, others need not
    except TypeError:
        return int(engine._slot.scheduler.has_pending_requests())


def hold(engine: ExecutionEngine) -> Callable[[], None]:
    """Pause *engine*; return what lets it go on, unless somebody else wants it paused by then.

    ``engine.pause()`` does not count: who unpauses ends everybody's pause. So what others ask for in the meantime is
    kept, and done at the end. Then the engine looks for requests at once; by itself it would at its next heartbeat, 5 s later
    at most.
    """
    wanted, pause, unpause = engine.paused, engine.pause, engine.unpause

    def want(paused: bool) -> None:
        nonlocal wanted
        wanted = paused

    def let_go() -> None:
        engine.pause, engine.unpause = pause, unpause  # type: ignore[method-assign]
        (pause if wanted else unpause)()
        if not wanted and engine._slot is not None:
            engine._slot.nextcall.schedule()

    pause()
    engine.pause, engine.unpause = partial(want, True), partial(want, False)  # type: ignore[method-assign]
    return let_go


def watch_done(engine: ExecutionEngine, done: Callable[[Request], None]) -> None:
    """Call *done* for each request that the engine has done with: downloaded, its callback and all its items through.

    ExecutionEngine._remove_request (scrapy/core/engine.py) comes after that; there is no signal. Also for requests that did
    not come from the scheduler. One method of this one object is wrapped.
    """
    slot = engine._slot
    assert slot is not None
    remove = slot.remove_request

    def remove_request(request: Request) -> None:
        done(request)
        remove(request)

    slot.remove_request = remove_request  # type: ignore[method-assign]


def hold_start(engine: ExecutionEngine, coming: Callable[[Any], None], room: Callable[[], Awaitable[bool]]) -> None:
    """Tell *coming* of what ``start()`` yields before the engine takes it, and have ``start()`` wait for *room* before it is
    read on; False ends it. Scrapy reads on whatever the scheduler does.
    """

    async def held(start: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for each in start:
            coming(each)
            yield each
            if not await room():
                return

    if engine._start is not None:
        engine._start = held(engine._start)


def write_csv_header(exporter: CsvItemExporter, like: CsvItemExporter) -> None:
    """Have *exporter* write the header that *like* wrote, if it wrote one.

    CsvItemExporter (scrapy/exporters.py) writes it with its first item only, and takes the fields from that one.
    """
    exporter.fields_to_export = like.fields_to_export
    exporter._write_headers_and_set_fields_to_export({})


def hold_output(scraper: Scraper, room: Callable[[], Awaitable[None]]) -> None:
    """Have callbacks and errbacks wait for *room* after each request that they yield. One method of this one object is wrapped.

    Scraper._process_spidermw_output_async (scrapy/core/scraper.py) gives a request to the engine without a wait, so a callback
    that yields a million of them has all in memory before anything else happens.
    """
    process = scraper._process_spidermw_output_async

    async def process_output(output: Any, response: Any) -> None:
        await process(output, response)
        if isinstance(output, Request):
            await room()

    scraper._process_spidermw_output_async = process_output  # type: ignore[method-assign]


def slot_limits(downloader: Downloader, slot: str | None) -> tuple[int, float]:
    """Return how many requests of a download slot are sent at once (0: any number), and how many seconds apart.

    As Downloader._get_slot (scrapy/core/downloader/__init__.py) has it for a slot that is not there yet; None: any other.
    """
    found = downloader.slots.get(slot) if slot is not None else None
    if found is not None:
        return found.concurrency, found.delay
    chosen = downloader.per_slot_settings.get(slot, {}) if slot is not None else {}
    concurrency = chosen.get("concurrency", downloader.ip_concurrency or downloader.domain_concurrency)
    return concurrency, chosen.get("delay", getattr(downloader, "_delay", downloader.settings.getfloat("DOWNLOAD_DELAY")))


def is_closing(engine: ExecutionEngine) -> bool:
    """Whether the spider is being closed; there is no signal and no public attribute for it before ``spider_closed``."""
    return not engine.running or engine._slot is None or engine._slot.closing is not None


def mind_closing(engine: ExecutionEngine, closing: Callable[[], None]) -> asyncio.Task[None]:
    """Start a task that calls *closing* once the spider is being closed, and sees to it that this comes to an end.

    There is no signal for the first, which lasts as long as there are requests in flight and items in the pipelines.
    And Scraper.close_spider_async() (scrapy/core/scraper.py) waits until no item is in the pipelines, but looks again
    only when a *response* is done: a spider closed while an item from ``start()`` is in the pipelines would never end.
    Cancel the task when the spider is closed.
    """

    async def check() -> None:
        told = False
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            if not told and engine._slot is not None and engine._slot.closing is not None:
                told = True
                closing()
            slot = engine.scraper.slot
            if slot is not None and slot.closing is not None and not slot.closing.called:
                engine.scraper._check_if_closing()

    return asyncio.create_task(check())


async def until_closed(engine: ExecutionEngine) -> None:
    """Return when the spider is closed.

    An engine that is stopped (SIGTERM) while its spider is closing for another reason does not wait for that:
    ExecutionEngine.close_spider_async() (scrapy/core/engine.py) returns at once, and the reactor stops while the last files
    are being stored. It does wait for the handlers of ``engine_stopped``.
    """
    while engine.spider is not None:  # noqa: ASYNC110 - nobody tells when
        await asyncio.sleep(_CHECK_SECONDS)
