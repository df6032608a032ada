"""How long the run waits for a call to a store, and how often it repeats the call, on a clock that the tests move."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
from fake_store import Clock, Loop

from scrapy_state.exceptions import StoreError, StoreUnreachable
from scrapy_state.export import retry
from scrapy_state.export.retry import Retry

RETRY_SECONDS, CLOSE_SECONDS = 900, 25


class World:
    """A clock that goes on by half a second whenever nothing is left to do, and a Retry that follows it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.began = clock.now
        self.loop = Loop(clock, None)
        self.retry = Retry(RETRY_SECONDS, CLOSE_SECONDS)
        self.calls = 0

    @property
    def seconds(self) -> float:
        return self.clock.now - self.began

    def until_done(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        task = self.loop.create_task(coroutine)
        self.loop.settle()
        while not task.done():
            assert self.seconds < 10_000, "it never ends"
            self.clock.now += 0.5
            self.loop.settle()
        return task.result()

    async def at(self, seconds: float, function: Callable[[], object]) -> None:
        await asyncio.sleep(seconds - self.seconds)
        function()

    def call(self, *answers: tuple[float, Exception | None]) -> Callable[[], Awaitable[str]]:
        """Return a function each of whose calls takes so many seconds and then raises, or returns "stored"."""
        left = list(answers)

        async def function() -> str:
            self.calls += 1
            seconds, error = left.pop(0) if len(left) > 1 else left[0]
            await asyncio.sleep(seconds)
            if error is not None:
                raise error
            return "stored"

        return function

    def moving(self) -> float:
        """The progress of a call that always makes some."""
        return self.clock.now


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    found = World(clock)
    yield found
    found.loop.close()


DOWN = StoreUnreachable("no answer")


def test_progress_is_waited_for(world: World) -> None:
    """A call that makes progress may take as long as it likes, whether the crawl is closing or not."""
    world.retry.closing(stopped=False)
    call = world.call((5000, None))
    assert world.until_done(world.retry.run("a file", call, progress=world.moving)) == "stored"
    assert world.calls == 1


def test_silence_is_given_up(world: World) -> None:
    """A call without progress is given up after STATE_RETRY_TIMEOUT, and not repeated: its thread may still use the file."""
    call = world.call((math.inf, None))
    for stage in ("crawling", "closing"):
        if stage == "closing":
            world.retry.closing(stopped=False)
        before = world.seconds
        with pytest.raises(StoreError, match=r"^a file: no answer for 900 s"):
            world.until_done(world.retry.run("a file", call))
        assert world.seconds - before == RETRY_SECONDS
    assert world.calls == 2


def test_close_timeout_counts_from_the_first_failure(world: World) -> None:
    """While closing, a store that is down is tried for STATE_CLOSE_TIMEOUT after its first failure, however late that is."""
    world.retry.closing(stopped=False)
    back = world.call((100, DOWN), (0, DOWN), (100, None))
    assert world.until_done(world.retry.run("a file", back, progress=world.moving)) == "stored"
    down, before = world.call((100, DOWN), (0, DOWN)), world.seconds
    with pytest.raises(StoreUnreachable):
        world.until_done(world.retry.run("a file", down, progress=world.moving))
    assert 100 + CLOSE_SECONDS <= world.seconds - before <= 100 + CLOSE_SECONDS + 2


def test_store_that_was_down_before(world: World) -> None:
    """If a store is already down when the closing begins, it is tried for STATE_CLOSE_TIMEOUT more; the closing ends a
    pause."""
    trying = world.loop.create_task(world.retry.run("a file", world.call((0, DOWN))))
    world.until_done(world.at(300, lambda: world.retry.closing(stopped=False)))
    with pytest.raises(StoreUnreachable):
        world.until_done(_result(trying))
    assert 300 + CLOSE_SECONDS <= world.seconds <= 300 + CLOSE_SECONDS + 2


def test_failing_then_silent(world: World) -> None:
    """A store that fails and then falls silent is given up after STATE_CLOSE_TIMEOUT."""
    world.retry.closing(stopped=False)
    with pytest.raises(StoreError, match="no answer"):
        world.until_done(world.retry.run("a file", world.call((10, DOWN), (math.inf, None))))
    assert world.seconds == 10 + CLOSE_SECONDS


@pytest.mark.parametrize("closing_first", [True, False], ids=["while closing", "while crawling"])
def test_stop(world: World, closing_first: bool) -> None:
    """Once the crawl is stopped, a call has STATE_CLOSE_TIMEOUT, whether it makes progress or not."""
    if closing_first:
        world.retry.closing(stopped=False)
    call = world.retry.run("a file", world.call((5000, None)), progress=world.moving)
    stopping = world.loop.create_task(world.at(100, lambda: world.retry.closing(stopped=True)))
    with pytest.raises(StoreError, match=r"STATE_CLOSE_TIMEOUT \(25 s\) after the crawl was told to stop"):
        world.until_done(call)
    assert 100 + CLOSE_SECONDS <= world.seconds <= 100 + CLOSE_SECONDS + 1
    assert stopping.done()


def test_late_calls_have_some_time(world: World) -> None:
    """A call that begins when the time is over gets a few seconds, so that a working store does not seem to be down."""
    world.retry.closing(stopped=True)
    world.clock.now += 60
    assert world.until_done(world.retry.run("a file", world.call((4, None)))) == "stored"
    with pytest.raises(StoreError):
        world.until_done(world.retry.run("a file", world.call((6, None))))


def test_waiting_for_a_turn_does_not_count(world: World) -> None:
    """120 uploads of 20 s, a few at a time, are all stored, although the last ones begin long after STATE_CLOSE_TIMEOUT."""
    world.retry.closing(stopped=False)
    turns, call = asyncio.Semaphore(8), world.call((20, None))

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(world.retry.run("a file", call, turns) for _ in range(120)))

    assert world.until_done(all_of_them()) == ["stored"] * 120
    assert world.seconds == 20 * 120 / 8


async def _result(task: asyncio.Task[Any]) -> Any:
    return await task
