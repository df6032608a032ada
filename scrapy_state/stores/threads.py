"""Threads for calls to stores. Each crawl has its own, so that asyncio's default threads stay free for its pipelines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

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
        """Call *function* in one of our threads, and return what it returns. It works like :func:`asyncio.to_thread`."""
        call = partial(copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """End the threads. Does not wait for running calls; the process does, before it exits."""
        self._executor.shutdown(wait=False, cancel_futures=True)
