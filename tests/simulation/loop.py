"""An event loop in virtual time: instead of waiting for its next timer, it jumps there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

from .world import STEP_SECONDS, Sleeper, World


class Loop(asyncio.base_events.BaseEventLoop):
    """The event loop of one run in *world*. Every step is a crash point. It has no sockets.

    :ivar newest: the one that was made last
    """

    newest: Loop

    def __init__(self, world: World) -> None:
        super().__init__()
        Loop.newest = self
        self._world = world
        self._selector = self  # asyncio's loop calls self._selector.select()
        self._sleeper: Sleeper | None = None

    def time(self) -> float:
        return self._world.now

    def select(self, timeout: float | None) -> list[Any]:
        self._world.crash_point()
        self._shuffle()
        until = inf if timeout is None else self._world.now + timeout + STEP_SECONDS
        self._sleeper = self._world.sleeper(until)
        self._world.wait(self._sleeper)
        self._sleeper = None
        return []

    def _shuffle(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        if self._world.order is not None and len(ready) > 1:
            shuffled = list(ready)
            self._world.order.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        if self._sleeper is not None:
            self._world.wake(self._sleeper)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, function: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        """Call *function* in a thread of the world. (Each call has its own; nothing here depends on their number.)"""
        if executor is not None and executor._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = self.create_future()

        def finish(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        def call() -> None:
            try:
                result = function(*arguments)
            except BaseException as error:
                self.call_soon_threadsafe(finish, None, error)
            else:
                self.call_soon_threadsafe(finish, result, None)

        self._world.start_thread(call, self._world.chance.uniform(0, 0.002))
        return future
