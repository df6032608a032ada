"""A frontier in Redis for a world: a real redis-server, but its clock is virtual, and each call is a crash point.

A call takes effect at once, in a single moment between two delays. When a world forks, its child goes on with the same server;
so the parent first keeps what is in it, and puts that back afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import redis

from scrapy_state.redis import connection

from .clock import EPOCH
from .world import World

_TIME = "call('TIME')"


class Frontier:
    """The frontier of *world*, in the server at *url*.

    :param fault: the chance that a call gets no answer: half of those calls have taken effect
    """

    def __init__(self, world: World, url: str, fault: float) -> None:
        self.url = url
        self.world = world
        self.fault = fault
        self._connect()
        self.server.flushall()
        #: when keys expire; by Redis's own clock they never do
        self.expires: dict[str, float] = {}
        world.at_death.append(self._connect)
        world.keepers.append(self._keep)
        connection.async_client = lambda url: _Client(self)
        connection.Heartbeat.start = lambda heartbeat: None  # type: ignore[method-assign]  # a real thread; nothing blocks here

    def script(self, text: str) -> str:
        """Return a script that takes the world's time for Redis's."""
        seconds, rest = divmod(EPOCH + self.world.now, 1)
        assert _TIME in text or "TIME" not in text
        return text.replace(f"redis.{_TIME}", _TIME).replace(_TIME, f"{{'{int(seconds)}', '{int(rest * 1e6)}'}}")

    def expire(self) -> None:
        """Delete what has expired."""
        for key, when in list(self.expires.items()):
            if when <= self.world.now:
                self.server.delete(key)
                del self.expires[key]

    def _connect(self) -> None:
        self.server = redis.Redis.from_url(self.url)  # not the one of the parent: both would read the same replies

    def _keep(self) -> Callable[[], None]:
        kept = {key: self.server.dump(key) for key in self.server.scan_iter(count=1000)}

        def put_back() -> None:
            with self.server.pipeline() as pipe:
                pipe.flushall()
                for key, content in kept.items():
                    pipe.restore(key, 0, content)
                pipe.execute()

        return put_back


class _Client:
    """What redis.asyncio.Redis is for the package."""

    def __init__(self, frontier: Frontier) -> None:
        self._frontier = frontier

    def register_script(self, text: str) -> Callable[..., Any]:
        def run(keys: list[str], args: list[Any]) -> Any:
            return self._call(lambda server: server.eval(self._frontier.script(text), len(keys), *keys, *args))

        return run

    def set(self, key: str, value: Any, nx: bool = False, px: int = 0) -> Any:
        def effect(server: Any) -> Any:
            done = server.set(key, value, nx=nx)
            if done:
                self._frontier.expires[key] = self._frontier.world.now + px / 1000
            return done

        return self._call(effect)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._call(lambda server: getattr(server, name)(*args, **kwargs))

    async def aclose(self) -> None:
        pass

    async def _call(self, effect: Callable[[Any], Any]) -> Any:
        frontier, world = self._frontier, self._frontier.world
        world.crash_point()
        await asyncio.sleep(world.chance.expovariate(50))
        fails = world.chance.random() < frontier.fault
        if fails and world.chance.random() < 0.5:
            raise redis.ConnectionError("no answer")
        frontier.expire()
        result = effect(frontier.server)
        world.changes += 1
        world.crash_point()
        await asyncio.sleep(world.chance.expovariate(50))
        if fails:
            raise redis.ConnectionError("the reply was lost")
        return result
