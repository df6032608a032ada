"""Which request is at work, and how fast requests leave. Methods of one crawl's objects are wrapped, never classes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from scrapy import Request

if TYPE_CHECKING:
    from scrapy.core.downloader import Downloader
    from scrapy.core.engine import ExecutionEngine
    from scrapy.core.scraper import Scraper

#: The request whose download, callback, errback or items are at work: whoever calls engine.crawl() there speaks for it.
PAGE: ContextVar[Request | None] = ContextVar("page", default=None)
#: The request that a downloader middleware has returned in place of PAGE (redirect, retry), while the engine takes it
STAND_IN: ContextVar[Request | None] = ContextVar("stand_in", default=None)


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
        page_before = PAGE.set(request)
        stand_in_before = STAND_IN.set(result if isinstance(result, Request) else None)
        try:
            return handle_output(result, request)
        finally:
            STAND_IN.reset(stand_in_before)
            PAGE.reset(page_before)

    engine.scraper._scrape = watched_scrape  # type: ignore[method-assign]
    engine._handle_downloader_output = handle_downloader_output  # type: ignore[method-assign]


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
