"""From an error to the finish reason and the exit code, without a crawl."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from scrapy import Spider
from scrapy.exceptions import CloseSpider
from scrapy.utils.test import get_crawler

from scrapy_state.barrier.backpressure import Backpressure
from scrapy_state.barrier.failure import CrawlFailure, exit_code_of
from scrapy_state.exceptions import (
    ItemFailed,
    StateConflict,
    StateError,
    StoreError,
    StoreRefused,
    StoreSilent,
    StoreUnreachable,
)
from scrapy_state.resume.refusal import get_refusal


class World:
    """A crawler whose engine only notes how its spider was closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.crawler: Any = get_crawler()
        self.crawler.spider = Spider("numbers")
        self.crawler.engine = SimpleNamespace(
            spider=self.crawler.spider,
            paused=False,
            pause=None,
            unpause=lambda: None,
            _slot=None,
            close_spider_async=self.close,
        )
        self.crawler.engine.pause = lambda: None
        self.backpressure = Backpressure(self.crawler)
        self.failure = CrawlFailure(self.crawler, self.backpressure)

    async def close(self, reason: str) -> None:
        self.closed.append(reason)

    async def end(self) -> int:
        """End the crawl; return the exit code that Scrapy makes of it."""
        self.crawler.engine.spider = None
        await self.crawler.stop_async()
        return int(self.crawler.spider is None)


def test_first_failure_counts(caplog: pytest.LogCaptureFixture) -> None:
    """The first error closes the spider, and gives the finish reason; later ones only add to what can't be stored."""

    async def scenario() -> None:
        world = World()
        failure = world.failure
        failure.fail("state_item_failed", ItemFailed("an item raised"), blocks_newest=False)
        assert (failure.blocks_newest, failure.store_failed) == (False, False)
        failure.fail("state_store_failed", StoreError("disk", uri="file:///items", remedy="make room"))
        assert (failure.blocks_newest, failure.store_failed) == (True, True)
        await asyncio.sleep(0)
        assert world.closed == ["state_item_failed"]
        assert str(failure.error) == "an item raised"
        assert failure.conclude("shutdown") == "state_item_failed"
        assert world.crawler.stats.get_value("finish_reason") == "state_item_failed"
        assert await world.end() == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    [record] = caplog.records
    assert record.getMessage() == "the crawl is closed (state_item_failed): an item raised"
    assert record.__dict__["spider"].name == "numbers"


def test_without_a_failure() -> None:
    """A crawl that did not fail keeps the reason it was closed with, and exit code 0."""

    async def scenario() -> None:
        world = World()
        assert world.failure.conclude("finished") == "finished"
        assert await world.end() == 0

    asyncio.run(scenario())


def test_refusal() -> None:
    """A crawl that is refused closes as state_refused, keeps the error for others to see, and has exit code 1."""

    async def scenario() -> None:
        world, error = World(), StateError("no such bucket")
        with pytest.raises(CloseSpider) as raised:
            world.failure.refuse(error)
        assert raised.value.reason == "state_refused"
        assert get_refusal(world.crawler) is error
        assert await world.end() == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreUnreachable("away"), 75),
        (StoreSilent("no answer"), 75),
        (StateConflict("two writers"), 76),
        (StoreRefused("403"), 1),
        (StoreError("no idea"), 1),
        (ItemFailed("an item raised"), 1),
        (None, 1),
    ],
    ids=lambda each: type(each).__name__,
)
def test_exit_code_says_whether_to_try_again(error: StateError | None, code: int) -> None:
    """75: the store was away, so try again; 76: another run writes there; 1: somebody must look. The cause counts, too."""
    assert exit_code_of(error) == code
    wrapped = StateError("because of something else")
    wrapped.__cause__ = error
    assert exit_code_of(wrapped) == code


def test_failure_ends_backpressure() -> None:
    """When a crawl fails that is held back, everything that waits continues, and the crawl is never held back again."""

    async def scenario() -> None:
        world = World()
        world.backpressure.hold("the disk is full")
        waiting = asyncio.create_task(world.backpressure.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        world.failure.fail("state_store_failed", StoreError("disk"))
        await asyncio.wait_for(waiting, 5)
        world.backpressure.hold("the disk is full")
        assert not world.backpressure.held
        assert world.crawler.stats.get_value("state/pauses") == 1

    asyncio.run(scenario())
