"""pages: which request is at work."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import scrapy

from scrapy_state.scrapy_internals import PAGE, watch_pages


def test_which_page_is_at_work() -> None:
    """A callback speaks for its own request, and a redirect for the request that it replaces, in whatever context the download
    ended: on a connection that was opened for another one, for example."""
    seen: list[scrapy.Request | None] = []

    async def scrape(result: Any, request: scrapy.Request) -> None:
        seen.append(PAGE.get())

    engine: Any = SimpleNamespace(
        scraper=SimpleNamespace(_scrape=scrape), _handle_downloader_output=lambda result, request: seen.append(PAGE.get())
    )
    watch_pages(engine)
    page, another = scrapy.Request("https://example.com/a"), scrapy.Request("https://example.com/b")

    async def main() -> None:
        PAGE.set(another)
        await asyncio.create_task(engine.scraper._scrape(None, page))
        engine._handle_downloader_output(page, page)
        assert PAGE.get() is another

    asyncio.run(main())
    assert seen == [page, page]
