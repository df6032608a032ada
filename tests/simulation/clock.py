"""Virtual time, and chance from a seed, for everything in this process: import it before Scrapy and scrapy_state.

A module that has imported ``time.monotonic`` before keeps the real clock, and then the simulation tests nothing. So
:func:`real_clocks` looks for such modules.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import os
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

#: When virtual time begins: in seconds since 1970
EPOCH = 1_900_000_000
_NAMES = ("time", "monotonic", "perf_counter", "sleep")
_REAL = {name: getattr(time, name) for name in _NAMES}
_RealDatetime = datetime.datetime
#: modules of these packages must not have the real clock
_WATCHED = ("scrapy", "scrapy_state")


class Clock:
    """The functions that replace the real ones. *now*: the virtual time; *sleep*: what ``time.sleep()`` does."""

    now: float = 0.0
    chance = random.Random(0)
    sleep: Callable[[float], None] = staticmethod(lambda seconds: None)


class _Type(type(_RealDatetime)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _RealDatetime)


class _Datetime(_RealDatetime, metaclass=_Type):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return _RealDatetime.fromtimestamp(EPOCH + Clock.now, tz)


class _Inline(ThreadPoolExecutor):
    """Threads for which somebody waits at once: their calls take place in the thread that waits."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _urandom(size: int) -> bytes:
    return Clock.chance.randbytes(size)


def install() -> None:
    """Replace the clocks, the sources of chance, and the threads that don't belong to an event loop.

    :raises RuntimeError: if something that must not have the real clock is imported already
    """
    if early := sorted({name.partition(".")[0] for name in sys.modules} & set(_WATCHED)):
        raise RuntimeError(f"{', '.join(early)} must not be imported before the clocks are replaced")
    time.time = lambda: EPOCH + Clock.now
    time.monotonic = time.perf_counter = lambda: Clock.now  # type: ignore[assignment]
    time.sleep = lambda seconds: Clock.sleep(seconds)
    datetime.datetime = _Datetime  # type: ignore[misc]
    concurrent.futures.ThreadPoolExecutor = _Inline  # type: ignore[misc]
    os.urandom = random._urandom = _urandom  # type: ignore[attr-defined]  # secrets and uuid use these


def real_clocks() -> list[str]:
    """Return where in Scrapy and scrapy_state a function of the real clock is left."""
    return [
        f"{name}.{attribute}"
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in _WATCHED
        for attribute, value in list(vars(module).items())
        if value is _RealDatetime or any(value is real for real in _REAL.values())
    ]


def real_seconds() -> float:
    """Return the real monotonic clock."""
    return float(_REAL["monotonic"]())
