"""Calls to a store that does not answer at once: where a person may be waiting, they are tried again for a few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from ..exceptions import StoreUnreachable

T = TypeVar("T")
#: That a store does not answer is told within this and the time-outs of one request.
_RETRY_SECONDS = 3
_PAUSE_SECONDS = 1
#: How often the log says that one waits
_SAY_SECONDS = 5
logger = logging.getLogger("scrapy_state.state")


def patiently(function: Callable[[], T]) -> T:
    """Return what *function* returns; if a store does not answer, try again for a few seconds. Blocks."""
    began = time.monotonic()
    while True:
        try:
            return function()
        except StoreUnreachable:
            if time.monotonic() + _PAUSE_SECONDS > began + _RETRY_SECONDS:
                raise
            time.sleep(_PAUSE_SECONDS)


def in_thread(function: Callable[[], T]) -> T:
    """Call *function* patiently in a thread and wait: its clients must not be made by the event loop's thread.

    Blocks. Where an event loop is at work in the calling thread, so do other crawls in it; after some seconds the log says so.
    """
    with ThreadPoolExecutor(1, "scrapy_state") as pool:
        result = pool.submit(patiently, function)
        began = time.monotonic()
        while not wait([result], _SAY_SECONDS).done:
            logger.info(
                "waiting for a store with checkpoints, for %.0f s so far. Until it answers, everything in this process waits",
                time.monotonic() - began,
            )
        return result.result()
