"""gaps: what is Scrapy's own business."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import scrapy
from scrapy import Spider
from scrapy.core.engine import ExecutionEngine
from scrapy.utils.test import get_crawler

from scrapy_state.scrapy_internals import PAGE, hold, watch_pages


@pytest.fixture
def engine() -> ExecutionEngine:
    """One that runs nothing, without what its __init__ does."""
    engine = ExecutionEngine.__new__(ExecutionEngine)
    engine.crawler, engine.paused, engine._slot = get_crawler(Spider), False, None
    return engine


@pytest.mark.parametrize(
    ("before", "meanwhile", "after"),
    [
        (False, [], False),
        (False, ["pause"], True),
        (False, ["pause", "unpause"], False),
        (True, [], True),
        (True, ["unpause"], False),
        (True, ["unpause", "pause"], True),
    ],
)
def test_hold(engine: ExecutionEngine, before: bool, meanwhile: list[str], after: bool) -> None:
    """While the engine is held it is paused, whatever others ask for; then it is as they want it."""
    engine.paused = before
    let_go = hold(engine)
    for each in meanwhile:
        getattr(engine, each)()
        assert engine.paused
    let_go()
    assert engine.paused is after
    engine.pause()
    assert engine.paused
    engine.unpause()
    assert not engine.paused


def test_which_page_is_at_work() -> None:
    """A callback speaks for its own request, and a redirect for the request that it replaces, in whatever context the download
    came to its end: on a connection that was opened for another one, say."""
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
