"""Threads for calls to stores, and what follows when none can be started."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from scrapy_state.exceptions import StoreUnreachable
from scrapy_state.stores.retry import in_thread
from scrapy_state.stores.threads import StoreThreads, all_done, submit

DEADLINE_SECONDS = 30


@pytest.fixture(params=[RuntimeError("can't start new thread"), MemoryError()], ids=["no thread", "no memory"])
def no_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no thread can be started."""

    def start(thread: threading.Thread) -> None:
        raise request.param

    monkeypatch.setattr(threading.Thread, "start", start)


def test_no_thread(no_threads: None) -> None:
    """If no thread can be started, the error says so, and it may be tried again."""
    with pytest.raises(StoreUnreachable, match=r"no thread could be started \(.+\); allow the process more threads or memory"):
        asyncio.run(StoreThreads().run(str))
    with pytest.raises(StoreUnreachable, match="no thread could be started"):
        in_thread(str)


def test_a_call_that_got_no_thread_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when a thread becomes free: by then somebody may have made it again."""
    called: list[str] = []
    busy, free = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = submit(pool, lambda: (busy.set(), free.wait(DEADLINE_SECONDS)))
        assert busy.wait(DEADLINE_SECONDS)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", _no_start)
            with pytest.raises(StoreUnreachable):
                submit(pool, lambda: called.append("no thread"))
        free.set()
        first.result(DEADLINE_SECONDS)
        submit(pool, lambda: called.append("later")).result(DEADLINE_SECONDS)
    assert called == ["later"]


def _no_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_results_and_errors() -> None:
    """A call's result is returned, and its error raised, whatever that is."""

    def fail() -> None:
        raise KeyError("a")

    async def run() -> Any:
        threads = StoreThreads()
        try:
            with pytest.raises(KeyError):
                await threads.run(fail)
            return await threads.run(divmod, 7, 2)
        finally:
            threads.close()

    assert asyncio.run(run()) == (3, 1)


def test_nobody_waits_for_a_call_that_was_cancelled() -> None:
    """Calls that have not begun when the threads are closed are cancelled, and whoever waits for them learns that."""

    async def run() -> None:
        threads, free = StoreThreads(), threading.Event()
        calls = [asyncio.ensure_future(threads.run(free.wait, DEADLINE_SECONDS)) for _ in range(9 + 1)]
        await asyncio.sleep(0)
        threads.close()
        free.set()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert done[:9] == [True] * 9
        assert isinstance(done[9], asyncio.CancelledError)

    asyncio.run(asyncio.wait_for(run(), DEADLINE_SECONDS))


def test_all_calls_are_done_before_the_first_error_is_raised() -> None:
    """If one of several calls fails, the others are not left running, and the first error counts."""
    ended = []

    async def call(number: int, seconds: float) -> int:
        await asyncio.sleep(seconds)
        ended.append(number)
        if number:
            raise ValueError(number)
        return number

    with pytest.raises(ValueError, match="1"):
        asyncio.run(all_done(call(1, 0), call(2, 0.01), call(0, 0.02)))
    assert ended == [1, 2, 0]
    assert asyncio.run(all_done(call(0, 0))) == [0]
