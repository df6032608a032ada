"""Threads for calls to stores. Each crawl has its own, so that asyncio's default threads stay free for its pipelines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from ..exceptions import StoreUnreachable

P = ParamSpec("P")
T = TypeVar("T")
#: How many batches are uploaded at the same time. botocore keeps 10 connections for each client.
UPLOADS_AT_ONCE = 8


class StoreThreads:
    """The threads of one crawl: one for each upload, and one more, so that a checkpoint never has to wait for an upload.

    A thread starts when it is needed.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(UPLOADS_AT_ONCE + 1, "scrapy_state")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *function* in one of our threads, and return what it returns. It works like :func:`asyncio.to_thread`.

        :raises StoreUnreachable: if no thread can be started; any error of *function*
        """
        call = _Call(partial(copy_context().run, function, *args, **kwargs))
        try:
            result = asyncio.get_running_loop().run_in_executor(self._executor, call)
        except (RuntimeError, MemoryError) as error:
            result = asyncio.wrap_future(call.taken_back(error))
        return await result

    def close(self) -> None:
        """End the threads. Does not wait for running calls; the process does, before it exits."""
        self._executor.shutdown(wait=False, cancel_futures=True)


async def all_done(*calls: Awaitable[Any]) -> list[Any]:
    """Await *calls* at the same time, each to its end, and return their results. (gather() would leave some running.)

    :raises Exception: the first of their errors, in the order of *calls*
    """
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def submit(executor: ThreadPoolExecutor, function: Callable[[], T]) -> Future[T]:
    """Do what ``executor.submit()`` does, but if no thread can be started, never call *function*.

    :raises StoreUnreachable: if no thread can be started
    """
    call = _Call(function)
    try:
        return executor.submit(call)
    except (RuntimeError, MemoryError) as error:
        return call.taken_back(error)


class _Call(Generic[T]):
    """A call in a thread that can be taken back if no thread can be started for it.

    The executor has it in its queue by then, and would make it as soon as one of its threads is free.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._result: Future[T] = Future()

    def __call__(self) -> T:
        if not self._result.set_running_or_notify_cancel():
            raise CancelledError
        try:
            result = self._function()
        except BaseException as error:
            self._result.set_exception(error)
            raise
        self._result.set_result(result)
        return result

    def taken_back(self, error: Exception) -> Future[T]:
        """Raise StoreUnreachable because of *error*; but if a thread has taken the call from the queue, return its result."""
        if self._result.cancel():
            raise no_thread(error) from error
        return self._result


def no_thread(error: Exception) -> StoreUnreachable:
    """Return what to raise if *error* kept a thread from being started."""
    reason = str(error) or "not enough memory"
    return StoreUnreachable(f"no thread could be started ({reason})", remedy="allow the process more threads or memory")
