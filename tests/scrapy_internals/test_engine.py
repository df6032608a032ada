"""The running engine: pausing it, and what it says of its scheduler."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from scrapy import Spider
from scrapy.core.engine import ExecutionEngine
from scrapy.utils.test import get_crawler

from scrapy_state.scrapy_internals import (
    closes_when_idle,
    engine_of,
    get_scheduler,
    hold,
    mind_closing,
    requests_in_flight,
    requests_waiting,
    wake_up,
)


@pytest.fixture
def engine() -> ExecutionEngine:
    """An engine that runs nothing, made without its __init__()."""
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
    """A held engine stays paused, whatever others ask for; their wish takes effect afterwards."""
    engine.paused = before
    end_pause = hold(engine)
    for method in meanwhile:
        getattr(engine, method)()
        assert engine.paused
    end_pause()
    assert engine.paused is after
    engine.pause()
    assert engine.paused
    engine.unpause()
    assert not engine.paused


def test_before_there_is_an_engine() -> None:
    """A crawler that has not been started has no engine, and so no requests in flight."""
    assert engine_of(get_crawler(Spider)) is None
    assert not requests_in_flight(None)


def test_minding_ends_with_the_spider(engine: ExecutionEngine) -> None:
    """The task that minds the closing ends when the spider is closed, even if nobody cancels it."""

    async def run() -> None:
        engine._slot = SimpleNamespace(closing=None)  # type: ignore[assignment]
        engine.scraper = SimpleNamespace(slot=None)  # type: ignore[assignment]
        task = mind_closing(engine, lambda: None)
        await asyncio.sleep(0)
        engine._slot = None
        await asyncio.wait_for(task, 10)

    asyncio.run(run())


def test_before_the_spider_is_opened(engine: ExecutionEngine) -> None:
    """An engine without a spider has no scheduler and no waiting requests, and nothing wakes it up."""
    assert get_scheduler(engine) is None
    assert requests_waiting(engine) == 0
    assert not closes_when_idle(engine)
    wake_up(engine)


@pytest.mark.parametrize(
    ("scheduler", "waiting"),
    [
        (SimpleNamespace(has_pending_requests=lambda: True), 1),
        (SimpleNamespace(has_pending_requests=lambda: False), 0),
        (["a request", "another one"], 2),
    ],
)
def test_scheduler_that_cannot_count(engine: ExecutionEngine, scheduler: Any, waiting: int) -> None:
    """A scheduler without a length counts as one request, or as none."""
    engine._slot = SimpleNamespace(scheduler=scheduler)  # type: ignore[assignment]
    assert requests_waiting(engine) == waiting


def test_wake_up(engine: ExecutionEngine) -> None:
    """A pause that ends makes the engine ask for requests at once, unless somebody else wants it paused."""
    calls: list[str] = []
    nextcall = SimpleNamespace(schedule=lambda: calls.append("asked"))
    engine._slot = SimpleNamespace(nextcall=nextcall)  # type: ignore[assignment]
    hold(engine)()
    assert calls == ["asked"]
    end_pause = hold(engine)
    engine.pause()
    end_pause()
    assert calls == ["asked"]
