"""Calls to a store that does not answer at once: where a person may be waiting, they are tried again for a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .exceptions import StoreUnreachable

T = TypeVar("T")
#: That a store does not answer is told within this and the time-outs of one request.
_RETRY_SECONDS = 3
_PAUSE_SECONDS = 1


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
    """Call *function* patiently in a thread and wait: its clients must not be made by the event loop's thread."""
    with ThreadPoolExecutor(1, "scrapy_state") as pool:
        return pool.submit(patiently, function).result()
