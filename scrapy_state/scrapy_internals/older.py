"""What Scrapy lacks before 2.18. Delete this module when such versions are no longer supported."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import scrapy
from packaging.version import Version
from scrapy.exceptions import CloseSpider

if TYPE_CHECKING:
    from scrapy.core.engine import ExecutionEngine


_IS_OLD = Version(scrapy.__version__) < Version("2.18")


def mend_engine(engine: ExecutionEngine) -> None:
    """Have *engine*, which is opening its spider, close it when Scrapy does since 2.18, and for the same reasons."""
    if _IS_OLD:
        _wait_for_items(engine)
        _mind_start(engine)


def close_unstarted(engine: ExecutionEngine, reason: str) -> bool:
    """Let *engine*, which is opening its spider, close it before the first request. Return False if CloseSpider does that.

    Crawler.crawl_async() expects CloseSpider since Scrapy 2.18. Before that, it would raise it, so its next call is replaced.
    """
    if not _IS_OLD:
        return False

    async def start_async(**kwargs: Any) -> None:
        await engine.close_spider_async(reason=reason)

    engine.start_async = start_async  # type: ignore[method-assign]
    return True


def _wait_for_items(engine: ExecutionEngine) -> None:
    """Keep the spider open while items of ``start()`` are in the pipelines, as Slot.is_idle() does since Scrapy 2.18."""
    slot = engine.scraper.slot
    assert slot is not None
    slot.is_idle = lambda: not (slot.queue or slot.active or slot.itemproc_size)  # type: ignore[method-assign]


def _mind_start(engine: ExecutionEngine) -> None:
    """Let CloseSpider in ``start()`` close the spider; after any other error there, the reason is not "finished".

    ExecutionEngine._process_start_next() and _spider_idle() do that since Scrapy 2.18. Before, the one takes CloseSpider for
    an error, and the other says "finished" after any. So the iterator that the engine reads is replaced, and the method that
    closes the spider.
    """
    from scrapy.utils.defer import _schedule_coro

    close, raised = engine.close_spider_async, False

    async def minded(start: AsyncIterator[Any]) -> AsyncIterator[Any]:
        nonlocal raised
        try:
            async for yielded in start:
                yield yielded
        except CloseSpider as error:
            _schedule_coro(close(reason=error.reason or "cancelled"))
        except Exception:
            raised = True
            raise

    async def close_spider_async(*, reason: str = "cancelled") -> None:
        await close(reason="start_error" if raised and reason == "finished" else reason)

    if engine._start is not None:
        engine._start = minded(engine._start)
    engine.close_spider_async = close_spider_async  # type: ignore[method-assign]
