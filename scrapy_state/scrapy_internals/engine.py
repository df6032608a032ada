"""The running engine: what it is doing, pausing it, and how it closes (scrapy/core/engine.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.core.engine import ExecutionEngine
    from scrapy.core.scheduler import BaseScheduler
    from scrapy.crawler import Crawler

_CHECK_SECONDS = 0.25


def engine_of(crawler: Crawler) -> ExecutionEngine | None:
    """Return the engine of *crawler*; None before there is one. Since Scrapy 2.19 ``crawler.engine`` raises then."""
    try:
        return crawler.engine
    except RuntimeError:
        return None


def requests_in_flight(engine: ExecutionEngine | None) -> Set[Request]:
    """Return the requests in flight (_Slot.inprogress), including those that pipelines and middlewares download."""
    return engine._slot.inprogress if engine is not None and engine._slot is not None else set()


def requests_waiting(engine: ExecutionEngine) -> int:
    """Return how many requests wait in the scheduler. If the scheduler can't count them: 1 for "some", 0 for none."""
    scheduler = get_scheduler(engine)
    if scheduler is None:
        return 0
    try:
        return len(scheduler)  # type: ignore[arg-type]  # Scrapy's scheduler has a length, others need not
    except TypeError:
        return int(scheduler.has_pending_requests())


def get_scheduler(engine: ExecutionEngine) -> BaseScheduler | None:
    """Return the scheduler (_Slot.scheduler); None before the spider is opened and after it is closed."""
    return None if engine._slot is None else engine._slot.scheduler


def closes_when_idle(engine: ExecutionEngine) -> bool:
    """Return whether the engine closes an idle spider. In ``scrapy shell``, ``fetch`` and ``view`` it doesn't."""
    return engine._slot is not None and bool(engine._slot.close_if_idle)


def is_reading_start(engine: ExecutionEngine) -> bool:
    """Return whether ``start()`` may yield more: ExecutionEngine._start is None once it has ended."""
    return engine._start is not None


def wake_up(engine: ExecutionEngine) -> None:
    """Have the engine ask the scheduler for requests at once, rather than at its next heartbeat, up to 5 seconds later."""
    if engine._slot is not None:
        engine._slot.nextcall.schedule()


def is_closing(engine: ExecutionEngine) -> bool:
    """Return whether the spider is being closed, or is closed. Scrapy says so only afterwards, by ``spider_closed``."""
    return not engine.running or engine._slot is None or engine._slot.closing is not None


def hold(engine: ExecutionEngine) -> Callable[[], None]:
    """Pause *engine*. Return a function that ends this pause; the engine stays paused if somebody else has paused it by then.

    ExecutionEngine.pause() does not count: one call of unpause() ends everybody's pause. So both methods are replaced for the
    time of the pause, and what others ask for takes effect afterwards.
    """
    wanted, pause, unpause = engine.paused, engine.pause, engine.unpause

    def want(paused: bool) -> None:
        nonlocal wanted
        wanted = paused

    def end_pause() -> None:
        engine.pause, engine.unpause = pause, unpause  # type: ignore[method-assign]
        if wanted:
            pause()
        else:
            unpause()
            wake_up(engine)

    pause()
    engine.pause, engine.unpause = partial(want, True), partial(want, False)  # type: ignore[method-assign]
    return end_pause


def watch_start(
    engine: ExecutionEngine, coming: Callable[[Any], None], ended: Callable[[], None], raised: Callable[[Exception], None]
) -> None:
    """Call *coming* with what ``start()`` yields, before the engine gets it; then *ended*, or *raised* with what it raised.

    ExecutionEngine._start, the iterator that the engine reads, is replaced. If the engine stops reading it, neither is called.
    """

    async def watched(start: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for yielded in start:
                coming(yielded)
                yield yielded
        except Exception as error:
            raised(error)
            raise
        ended()

    if engine._start is not None:
        engine._start = watched(engine._start)


def hold_start(engine: ExecutionEngine, coming: Callable[[Any], None], room: Callable[[], Awaitable[bool]]) -> None:
    """Slow ``start()`` down: Scrapy would read all of it, however many requests the scheduler has already.

    ExecutionEngine._start, the iterator that the engine reads, is replaced.

    :param coming: called with what ``start()`` yields, before the engine gets it
    :param room: awaited before ``start()`` is read on; if it returns False, ``start()`` is not read any more
    """

    async def slowed(start: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for yielded in start:
            coming(yielded)
            yield yielded
            if not await room():
                return

    if engine._start is not None:
        engine._start = slowed(engine._start)


def mind_closing(engine: ExecutionEngine, closing: Callable[[], None]) -> asyncio.Task[None]:
    """Start a task that calls *closing* when the spider begins to close, and makes sure that it does close.

    No signal announces the closing, which lasts as long as there are requests in flight and items in the pipelines.
    Scraper.close_spider_async() (scrapy/core/scraper.py) waits until no item is in the pipelines, but checks this only when a
    *response* is done. If the last item came from ``start()``, the spider would never close. So the task checks, too.

    Cancel the task when the spider is closed. It ends by itself if something prevents that.
    """

    async def check() -> None:
        announced = False
        while engine._slot is not None:
            await asyncio.sleep(_CHECK_SECONDS)
            if not announced and engine._slot is not None and engine._slot.closing is not None:
                announced = True
                closing()
            slot = engine.scraper.slot
            if slot is not None and slot.closing is not None and not slot.closing.called:
                engine.scraper._check_if_closing()

    return asyncio.create_task(check())


async def until_closed(engine: ExecutionEngine) -> None:
    """Return when the spider is closed.

    If an engine is stopped (SIGTERM) while its spider is closing for another reason, it does not wait for the spider:
    ExecutionEngine.close_spider_async() returns at once, and the reactor stops in the middle of the last uploads. But the
    engine does wait for the handlers of ``engine_stopped``.
    """
    while engine.spider is not None:  # noqa: ASYNC110 - Scrapy has no event for it
        await asyncio.sleep(_CHECK_SECONDS)
