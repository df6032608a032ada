"""A world for whole crawls: its time, its threads, its chances, and death.

One seed makes one world. Nothing in it depends on the real clock or on the machine, so the same seed gives the same crawl,
to the microsecond. Threads are real, but only one of them runs: the one whose time comes first. Whoever sleeps, or waits for
a store or for the event loop's next timer, lets the others run.

Death is a fork. At every crash point the world forks: the child is the world after the process has died. Nothing of the
dead crawl runs any more, no ``finally`` and no thread, and all that is left is what was stored. The parent waits for the child,
and lives on to the next crash point. So every crash point of a crawl costs one resuming run, and none costs the way there.
"""

from __future__ import annotations

import contextvars
import gc
import os
import random
import signal
import threading
import zlib
from asyncio import _set_running_loop
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Any

from .clock import Clock

#: A loop that does nothing else takes this long for a step: otherwise float time would stand still.
STEP_SECONDS = 1e-6
#: The exit code of a world in which something is wrong
BAD = 3
#: A world that hangs is ended after so many real seconds, with all the worlds that come after it.
_REAL_SECONDS = 600


@dataclass(order=True)
class Sleeper:
    """A thread that sleeps until *time*, in virtual seconds."""

    time: float
    number: int
    lock: Any = field(compare=False)


@dataclass(frozen=True)
class Crashes:
    """At which crash points to die.

    :param path: only there: the number of the crash point in the first run, then in the one that resumes, …
    :param one_of: for each run: die at one of so many crash points; 1: at all of them, 0: at none
    :param until_bad: whether to stop at the first that is bad
    :param alike: whether to die also where nothing is different from the crash point before: the next run would do the same,
        only at another time
    """

    path: tuple[int, ...] = ()
    one_of: tuple[int, ...] = (1,)
    alike: bool = False
    until_bad: bool = False

    @property
    def depth(self) -> int:
        """How often a world may die."""
        return len(self.path) or len(self.one_of)

    def here(self, path: tuple[int, ...], seed: object) -> bool:
        """Whether to die at *path*."""
        if self.path:
            return path == self.path[: len(path)]
        return self.one_of[len(path) - 1] > 0 and zlib.crc32(f"{seed} {path}".encode()) % self.one_of[len(path) - 1] == 0


class World:
    """One virtual world.

    :param after_death: what goes on after a death, in the child; returns whether all is well. Then the child ends
    :param wrong: is told what is wrong
    :param longest_seconds: after so much virtual time it is clear that a crawl never ends
    """

    #: returns what a crash would leave: if it is equal at two crash points, so are the worlds after these
    remains: Callable[[], object] = staticmethod(lambda: object())

    def __init__(
        self,
        seed: object,
        crashes: Crashes,
        after_death: Callable[[], bool],
        wrong: Callable[[str], None],
        longest_seconds: float = 4 * 3600.0,
    ) -> None:
        self.seed = seed
        self.chance = random.Random(f"{seed}")
        #: in which order event loops call what is ready; None: in the order in which it became ready, as asyncio promises
        self.order: random.Random | None = None
        self.crashes = crashes
        #: the crash points at which this world has died
        self.path: tuple[int, ...] = ()
        #: how many crash points there have been since the last death
        self.points = 0
        #: a checksum of all that has happened: the same seed must give the same
        self.trace = 0
        #: called at a death, before anything goes on
        self.at_death: list[Callable[[], None]] = []
        #: called before a death; each returns what is to be called afterwards, where the world goes on that has not died
        self.keepers: list[Callable[[], Callable[[], None]]] = []
        #: how much has changed outside the store: see :attr:`remains`
        self.changes = 0
        self.wrong = wrong
        self._longest_seconds = longest_seconds
        self._after_death = after_death
        self._last_remains: object = None
        self._sleepers: list[Sleeper] = []
        self._numbers = count()
        Clock.now, Clock.sleep = 1000.0, self.sleep  # type: ignore[assignment]
        Clock.chance = random.Random(f"{seed} urandom")
        random.seed(f"{seed} random")

    @property
    def now(self) -> float:
        return Clock.now

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for *seconds*; others go on."""
        self.wait(self.sleeper(self.now + seconds))

    def sleeper(self, time: float) -> Sleeper:
        """Return a new entry for :meth:`wait`; :meth:`wake` may change its time."""
        lock = threading.Lock()
        lock.acquire()
        return Sleeper(time, next(self._numbers), lock)

    def wait(self, sleeper: Sleeper) -> None:
        """Block the calling thread until the time of *sleeper*."""
        self._sleepers.append(sleeper)
        self._let_first_run(sleeper)

    def wake(self, sleeper: Sleeper) -> None:
        """End the sleep of *sleeper* now."""
        sleeper.time = min(sleeper.time, self.now)

    def start_thread(self, function: Callable[[], object], after_seconds: float = 0.0) -> None:
        """Call *function* in a thread of its own."""
        begins = self.sleeper(self.now + after_seconds)

        def run() -> None:
            begins.lock.acquire()
            function()
            self._let_first_run(None)

        self._sleepers.append(begins)
        threading.Thread(target=run, daemon=True).start()

    def rest(self) -> None:
        """Let all threads end, as a process does before it exits."""
        while self._sleepers:
            self.sleep(1)

    def crash_point(self) -> None:
        """Die here, in a child, if the plan says so."""
        self.points += 1
        self.trace = zlib.crc32(repr(self.now).encode(), self.trace)
        path = (*self.path, self.points)
        if len(path) > self.crashes.depth or not self._differs() or not self.crashes.here(path, self.seed):
            return
        put_back = [keep() for keep in self.keepers]
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            for each in put_back:
                each()
            if os.waitstatus_to_exitcode(status) not in (0, BAD):
                self.wrong(f"the world after crash point {'.'.join(map(str, path))} ended with status {status}")
            if status and self.crashes.until_bad:
                os._exit(BAD)
            return
        try:
            self._die(path)
            is_well = contextvars.Context().run(self._after_death)
        except BaseException as error:
            self.wrong(f"the simulation itself has failed: {type(error).__name__}: {error}")
            is_well = False
        os._exit(0 if is_well else BAD)

    def _differs(self) -> bool:
        if self.crashes.path or self.crashes.alike:
            return True
        last, self._last_remains = self._last_remains, self.remains()
        return last != self._last_remains

    def _die(self, path: tuple[int, ...]) -> None:
        signal.alarm(_REAL_SECONDS)
        gc.disable()  # or it would end the coroutines of the dead
        gc.freeze()
        _set_running_loop(None)
        self._sleepers.clear()
        self.path, self.points, self._last_remains = path, 0, None
        for each in self.at_death:
            each()

    def _let_first_run(self, me: Sleeper | None) -> None:
        first = min(self._sleepers, default=None)
        if first is None or first.time == inf or first.time > self._longest_seconds:
            self.wrong("nothing will ever happen any more" if first is None or first.time == inf else "it never ends")
            os._exit(BAD)
        self._sleepers.remove(first)
        Clock.now = max(Clock.now, first.time)
        if first is me:
            return
        first.lock.release()
        if me is not None:
            me.lock.acquire()
