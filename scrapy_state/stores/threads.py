"""Threads for calls to stores. They are a crawl's own: asyncio's default threads stay free for its pipelines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
#: How many batches are uploaded at once. botocore keeps 10 connections for each client.
UPLOADS_AT_ONCE = 8


class StoreThreads:
    """The threads of one crawl: one for each upload, and one that a checkpoint never has to wait for.

    They start as they are needed.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(UPLOADS_AT_ONCE + 1, "scrapy_state")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *function* returns, as :func:`asyncio.to_thread` does, but in one of our threads."""
        call = partial(copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self) -> None:
        """Let the threads end. Does not wait for calls under way; the process does, before it exits."""
        self._executor.shutdown(wait=False, cancel_futures=True)
