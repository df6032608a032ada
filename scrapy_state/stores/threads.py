"""Threads for calls to stores. Each crawl has its own, so that asyncio's default threads stay free for its pipelines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

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
        call = partial(copy_context().run, function, *args, **kwargs)
        return await asyncio.wrap_future(submit(self._executor, call))

    def close(self) -> None:
        """End the threads. Does not wait for running calls; the process does, before it exits."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def submit(executor: ThreadPoolExecutor, function: Callable[[], T]) -> Future[T]:
    """Do what ``executor.submit()`` does, but if no thread can be started, never call *function*.

    The executor would have it in its queue by then, and call it as soon as one of its threads is free.

    :raises StoreUnreachable: if no thread can be started
    """
    result: Future[T] = Future()

    def call() -> None:
        if not result.set_running_or_notify_cancel():
            return
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    try:
        queued = executor.submit(call)
    except (RuntimeError, MemoryError) as error:
        if result.cancel():  # not if a thread has taken it from the queue
            raise no_thread(error) from error
    else:
        queued.add_done_callback(lambda queued: queued.cancelled() and result.cancel())  # by shutdown()
    return result


def no_thread(error: Exception) -> StoreUnreachable:
    """Return what to raise if *error* kept a thread from being started."""
    reason = str(error) or "not enough memory"
    return StoreUnreachable(f"no thread could be started ({reason})", remedy="allow the process more threads or memory")
