"""Retrying calls to a store: the pauses between attempts, and calls that somebody waits for."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from ..exceptions import StoreUnreachable
from .threads import submit

T = TypeVar("T")
#: With the time-outs of one request, this is how long it takes until an error says that a store does not answer.
_RETRY_SECONDS = 3
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 1.0
#: How often the log says that the process is waiting
_LOG_SECONDS = 5
logger = logging.getLogger("scrapy_state.state")


def pauses(first_seconds: float, longest_seconds: float) -> Iterator[float]:
    """Yield how many seconds to pause before each further attempt, without end: exponential backoff with jitter.

    Each pause is twice as long as the one before, at most *longest_seconds*; chance takes up to half of it away, so that
    processes that lost a server at the same instant don't all return to it at the same instant.
    """
    pause_seconds = min(first_seconds, longest_seconds)
    while True:
        yield random.uniform(pause_seconds / 2, pause_seconds)
        pause_seconds = min(pause_seconds * 2, longest_seconds)


def patiently(function: Callable[[], T]) -> T:
    """Return what *function* returns. If a store does not answer, try again for a few seconds. Blocks.

    :raises StoreUnreachable: if the last attempt got no answer either; any other error of *function* at once
    """
    deadline = time.monotonic() + _RETRY_SECONDS
    backoff = pauses(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
    while True:
        try:
            return function()
        except StoreUnreachable:
            pause_seconds = next(backoff)
            if time.monotonic() + pause_seconds > deadline:
                raise
            time.sleep(pause_seconds)


def in_thread(function: Callable[[], T]) -> T:
    """Call *function* as :func:`patiently` does, but in a thread: the event loop's thread must not make a store's clients.

    Blocks, together with every other crawl on the event loop of the calling thread. The log says so every few seconds.

    :raises StoreUnreachable: also if no thread can be started
    """
    with ThreadPoolExecutor(1, "scrapy_state") as pool:
        result = submit(pool, lambda: patiently(function))
        began = time.monotonic()
        while not wait([result], _LOG_SECONDS).done:
            logger.info(
                "waiting for a store with checkpoints, for %.0f s so far. Until it answers, everything in this process waits",
                time.monotonic() - began,
            )
        return result.result()
