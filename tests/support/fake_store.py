"""A store in memory, threads that a test can hold inside it, and event loops with a clock that the test moves.

Nothing here happens by itself: a test decides the outcome of every call, and when each answer arrives. Only one thread runs
at any time, so a test that makes the same decisions sees the same results.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, tzinfo
from functools import partial
from types import SimpleNamespace
from typing import IO, Any

import pytest

from scrapy_state.exceptions import KeyTaken, StoreRefused, StoreUnreachable

URI = "s3://bucket/"
#: outcomes of a call. lost: the write took, the reply did not arrive; late: held on the way there; late reply: on the way back
OUTCOMES = ("ok", "unreachable", "refused", "lost", "late", "late reply")


class Killed(BaseException):
    """Raised in a thread whose process was killed."""


class Clock:
    """Replaces the module ``time``; it stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Loop(asyncio.SelectorEventLoop):
    """The event loop of one run, on *clock*. It never waits."""

    def __init__(self, clock: Clock, run: Any) -> None:
        super().__init__()
        self.run = run
        self._clock = clock

    def time(self) -> float:
        return self._clock.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        async def call() -> Any:
            if self.run.dead:
                raise asyncio.CancelledError
            call = Call(partial(function, *args), self.run, self.create_future())
            call.begin()
            await asyncio.sleep(0)
            return await call._future

        return self.create_task(call())

    def settle(self) -> None:
        """Run until nothing is left to do at this time."""
        for _ in range(10_000):
            self.call_soon(self.stop)
            self.run_forever()
            if not self._ready:  # type: ignore[attr-defined]
                return
        raise AssertionError("the event loop never comes to rest")


class Call(threading.Thread):
    """A call in a thread of *run*. The store can hold it on the way there or on the way back."""

    def __init__(self, function: Callable[[], Any], run: Any, future: asyncio.Future[Any]) -> None:
        super().__init__(daemon=True)
        self.run_of = run
        #: what it is held with: (key, content) on its way, None on its way back
        self.sent: tuple[str, bytes] | None = None
        self._function = function
        self._future = future
        self._answer = ""
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._ended = False
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        self._ended = True
        self._stopped.release()

    def hold(self, sent: tuple[str, bytes] | None) -> str:
        """Called in the thread: wait for the answer."""
        self.sent = sent
        self.run_of.held.append(self)
        self._stopped.release()
        self._go.acquire()
        if self._answer == "killed":
            raise Killed
        return self._answer

    def begin(self) -> None:
        self.start()
        self._until_it_stops()

    def release(self, answer: str) -> None:
        """Continue it with *answer*; return when it is held again or has ended."""
        self.run_of.held.remove(self)
        self._answer = answer
        self._go.release()
        self._until_it_stops()

    def _until_it_stops(self) -> None:
        self._stopped.acquire()
        if not self._ended:
            return
        self.join()
        if self._future.done():  # nobody waits any more
            return
        if isinstance(self._error, Exception):
            self._future.set_exception(self._error)
            self._future.exception()  # not asyncio's business if nobody looks
        elif self._error is None:
            self._future.set_result(self._result)


class FakeStore:
    """The server: create-only, shared by all runs.

    :param stored: called with every new key and its content as soon as it can be read
    :param wrong: called with what must never happen
    """

    def __init__(self, stored: Callable[[str, bytes], None], wrong: Callable[[str], None]) -> None:
        self.objects: dict[str, bytes] = {}
        #: (key, content) of PUTs whose sender is dead, and that may still arrive
        self.in_flight: list[tuple[str, bytes]] = []
        self.atomic = True
        #: the outcomes of the next calls; after them every call succeeds
        self.next: dict[str, deque[str]] = {kind: deque() for kind in ("items", "states", "reads")}
        #: the run that works outside these threads
        self.at_work: Any = None
        self._stored = stored
        self._wrong = wrong

    def put(self, key: str, content: bytes) -> None:
        """Handle a create-only PUT as the server does, even if nobody waits for the answer."""
        there = self.objects.get(key)
        if there is None:
            self.objects[key] = content
            self._stored(key, content)
        elif there != content:
            if not key.startswith("states/") or _own(there, content):
                self._wrong(f"P2: {key} would have been overwritten by its own run")
            raise KeyTaken(f"{URI}{key} is taken")

    def land(self, key: str, content: bytes) -> None:
        """Let a PUT arrive whose sender is dead."""
        with suppress(KeyTaken):
            self.put(key, content)

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return every checkpoint, oldest first."""
        return [json.loads(self.objects[key])[0] for key in sorted(self.objects) if key.startswith("states/")]

    def uri(self, key: str) -> str:
        return URI + key

    ordered = True

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        self._answer("reads")
        yield from [key for key in sorted(self.objects) if key.startswith(prefix) and key > after][:limit]

    def read(self, key: str) -> bytes | None:
        self._answer("reads")
        return self.objects.get(key)

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        content = self.read(key)
        return None if content is None else content[begin:][:size]

    def create(self, key: str, file: IO[bytes]) -> None:
        file.seek(0)
        content = file.read()
        answer = self._answer(key.partition("/")[0], (key, content))
        try:
            self.put(key, content)
        except KeyTaken:
            self._run().troubled = True
            raise
        if answer == "late reply" and isinstance(call := threading.current_thread(), Call):
            answer = call.hold(None)
        if answer not in ("ok", "late reply"):
            raise StoreUnreachable(f"{URI}{key}: the reply was lost")

    def probe(self, key: str) -> None:
        pass

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def _answer(self, kind: str, sent: tuple[str, bytes] | None = None) -> str:
        call = threading.current_thread()
        answer = self.next[kind].popleft() if self.next[kind] else "ok"
        if answer != "ok":
            self._run().troubled = True
        if answer == "late":
            answer = call.hold(sent) if isinstance(call, Call) else "ok"
        if answer == "unreachable":
            raise StoreUnreachable(f"{URI}: no answer")
        if answer == "refused":
            raise StoreRefused(f"{URI}: no")
        return answer

    def _run(self) -> Any:
        call = threading.current_thread()
        return call.run_of if isinstance(call, Call) else self.at_work


def _own(there: bytes, content: bytes) -> bool:
    """Return whether a run would have overwritten its own checkpoint. (It may retry an opening whose reply was lost.)"""
    [old], [new] = json.loads(there), json.loads(content)
    return old["run"] == new["run"] and {**old, "time": 0, "digest": 0} != {**new, "time": 0, "digest": 0}


def install(monkeypatch: pytest.MonkeyPatch, world: Any) -> None:
    """Make the package use ``world().store``, ``world().clock`` and these threads."""

    def opener(uri: str, settings: Any) -> tuple[FakeStore, str]:
        assert uri.startswith(URI), uri
        return world().store, uri.removeprefix(URI)

    clock = SimpleNamespace(
        monotonic=lambda: world().clock.monotonic(),
        time=lambda: world().clock.time(),
        sleep=lambda seconds: world().clock.sleep(seconds),
    )

    class FakeDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.fromtimestamp(world().clock.now, tz)

    for name, module in list(sys.modules.items()):
        if not name.startswith("scrapy_state.") or name.startswith("scrapy_state.stores"):
            continue
        for opened in {"open_reader", "open_writer"} & vars(module).keys():
            monkeypatch.setattr(module, opened, opener)
        if vars(module).get("time") is time:
            monkeypatch.setattr(module, "time", clock)
        if vars(module).get("datetime") is datetime:
            monkeypatch.setattr(module, "datetime", FakeDatetime)
