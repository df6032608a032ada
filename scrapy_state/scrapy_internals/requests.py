"""The way of a request: scheduler, downloader, callback, end. Methods of one crawl's objects are wrapped, never classes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Protocol

from scrapy import Request
from scrapy.utils.asyncgen import as_async_generator
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from scrapy.core.downloader import Downloader
    from scrapy.core.engine import ExecutionEngine
    from scrapy.core.scraper import Scraper
    from scrapy.http import Response


#: the attributes that Request makes when they are read, and where it keeps them: None before
_LAZY = {name: f"_{name}" for name in Request.attributes if getattr(Request("data:,"), f"_{name}", "") is None}


def is_unset(request: Request, name: str) -> bool:
    """Whether nobody has set or read this attribute of *request*. Reading it makes an empty one, which the request keeps."""
    private = _LAZY.get(name)
    return private is not None and getattr(request, private) is None


class RequestWatcher(Protocol):
    """Sees each request on its way. :func:`watch_requests` calls these methods."""

    def crawl(self, request: Request, crawl: Callable[[Request], None]) -> None:
        """Somebody wants the engine to take *request*; *crawl* passes it on."""

    def enqueued(self, request: Request, accepted: bool) -> None:
        """The scheduler has accepted *request*, or filtered it out."""

    def dequeued(self, request: Request) -> bool:
        """The scheduler hands *request* out; return whether to send it."""

    async def scrape(self, request: Request, scrape: Callable[[], Awaitable[None]]) -> None:
        """The response or failure is ready for the spider; *scrape* passes it on, and waits for the callback and its items."""

    def not_taken(self, error: BaseException, request: Request) -> None:
        """The download of *request* failed, and no errback handled the failure."""

    def spider_failed(self, error: BaseException, request: Request) -> None:
        """The callback or errback of *request* raised."""


def watch_requests(engine: ExecutionEngine, watcher: RequestWatcher) -> None:
    """Let *watcher* see every request from now on.

    No signal says that a callback and all its items are finished (Scraper._scrape() in scrapy/core/scraper.py), nor that a
    handler of ``request_scheduled`` refuses a request as off-site: ExecutionEngine.crawl() (scrapy/core/engine.py) then returns
    without asking the scheduler.
    """
    assert engine._slot is not None
    scheduler, scraper = engine._slot.scheduler, engine.scraper
    crawl, enqueue, dequeue = engine.crawl, scheduler.enqueue_request, scheduler.next_request
    scrape = scraper._scrape

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

    async def watched_scrape(result: Any, request: Request) -> None:
        await watcher.scrape(request, partial(scrape, result, request))

    engine.crawl = watched_crawl  # type: ignore[method-assign]
    scheduler.enqueue_request = enqueue_request  # type: ignore[method-assign]
    scheduler.next_request = next_request  # type: ignore[method-assign]
    scraper._scrape = watched_scrape  # type: ignore[method-assign]
    watch_failures(scraper, watcher.not_taken, watcher.spider_failed)


def watch_failures(
    scraper: Scraper,
    not_taken: Callable[[BaseException, Request], None],
    spider_failed: Callable[[BaseException, Request], None],
) -> None:
    """Call *not_taken* if a download failed and no errback handles that, and *spider_failed* if a callback or errback raised.

    Scraper.call_spider_async() and handle_spider_error() (scrapy/core/scraper.py) are wrapped: the signal ``spider_error``
    names no request, and there is none for a download that fails.
    """
    call_spider, spider_error = scraper.call_spider_async, scraper.handle_spider_error

    async def call_spider_async(result: Any, request: Request) -> Any:
        try:
            return await call_spider(result, request)
        except Exception as error:
            if isinstance(result, Failure) and error is result.value:
                not_taken(error, request)  # an errback that raises another error comes to handle_spider_error()
            raise

    def handle_spider_error(failure: Failure, request: Request, response: Any) -> None:
        assert failure.value is not None
        spider_failed(failure.value, request)
        spider_error(failure, request, response)

    scraper.call_spider_async = call_spider_async  # type: ignore[method-assign]
    scraper.handle_spider_error = handle_spider_error  # type: ignore[method-assign,assignment]


def watch_fetch(
    downloader: Downloader,
    is_watched: Callable[[Request], bool],
    fetched: Callable[[Response | Request, Request], Response | Request],
) -> None:
    """Pass the result of Downloader.fetch() (scrapy/core/downloader/__init__.py) through *fetched*.

    Only there it is visible that a downloader middleware replaces a request (redirect, retry). Call this before the engine has
    the downloader, or later; ExecutionEngine.__init__() looks at the signature of fetch(), so the wrapper keeps it.

    :param is_watched: whether the result of this request is of interest
    :param fetched: takes the result and the request; returns the result, or another one
    """
    fetch = downloader.fetch

    @wraps(fetch)
    def watched_fetch(request: Request, *args: Any, **kwargs: Any) -> Any:
        result = fetch(request, *args, **kwargs)
        return result.addCallback(fetched, request) if is_watched(request) else result

    downloader.fetch = watched_fetch  # type: ignore[method-assign]


def watch_errbacks(
    scraper: Scraper,
    process_output: Callable[[Failure, AsyncIterator[Any]], AsyncIterator[Any]],
    download_failed: Callable[[Failure, Request], None],
) -> None:
    """Put *process_output* around what errbacks yield, and call *download_failed* for each failure.

    Scraper._scrape() (scrapy/core/scraper.py) passes an errback's output straight to handle_spider_output_async(), so no spider
    middleware sees it.
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


def watch_done(engine: ExecutionEngine, done: Callable[[Request], None]) -> None:
    """Call *done* for each request that the engine has finished: downloaded, with its callback and all items processed.

    No signal says so. But ExecutionEngine._remove_request() and download_async() (scrapy/core/engine.py) then call
    _Slot.remove_request(), which is wrapped. So *done* also gets requests that did not come from the scheduler.
    """
    slot = engine._slot
    assert slot is not None
    remove = slot.remove_request

    def remove_request(request: Request) -> None:
        done(request)
        remove(request)

    slot.remove_request = remove_request  # type: ignore[method-assign]
