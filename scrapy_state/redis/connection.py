"""The connection to Redis, which spiders share, and the heartbeat: a thread for when the event loop is blocked."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import resources
from typing import Any, TypeVar

from redis.exceptions import NoPermissionError, NoScriptError, RedisError, ResponseError
from scrapy import Spider

from ..exceptions import StoreError, StoreRefused, StoreUnreachable
from .clients import (
    CHECK_REDIS,
    CLUSTER_ERRORS,
    async_client,
    close_client,
    drop_connections,
    is_cluster,
    is_elsewhere,
    translated,
)
from .settings import RedisSettings, redacted

logger = logging.getLogger("scrapy_state.state")
T = TypeVar("T")

_START_SECONDS = 12.0
_LOCK_MILLISECONDS = 60_000
#: How often to send a script that Redis has forgotten right after redis-py loaded it.
_SCRIPT_ATTEMPTS = 3
_SCRIPTS = resources.files(__package__)
_PARTS = ("exchange.lua", "queues.lua", "returning.lua", "steps.lua")
EXCHANGE = "\n".join(_SCRIPTS.joinpath(part).read_text() for part in _PARTS)
PUT_BACK = _SCRIPTS.joinpath("put_back.lua").read_text()
#: Renews a worker's leases in one step, by the clock of the node that has the key.
_RENEW = """local time = redis.call('TIME')
return redis.call('ZADD', KEYS[1], 'XX', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], ARGV[1])"""


class Connection:
    """A client that several spiders of one process may share.

    :param url: STATE_REDIS_URL
    :raises StateSettingsError: if it can't be used
    """

    _open: dict[tuple[str, int], Connection] = {}  # noqa: RUF012 - shared on purpose

    def __init__(self, url: str) -> None:
        self.client = async_client(url)
        self.url = url
        self._users = 0
        exchange, renew, put_back = (self.client.register_script(script) for script in (EXCHANGE, _RENEW, PUT_BACK))
        self._exchange, self._renew, self._put_back = exchange, renew, put_back

    @classmethod
    def acquire(cls, url: str) -> Connection:
        """Return the connection for *url*; :meth:`release` it after use. Call it in the event loop. It sends nothing yet."""
        key = (url, id(asyncio.get_running_loop()))
        connection = cls._open.get(key)
        if connection is None:
            connection = cls._open[key] = cls(url)
        connection._users += 1
        return connection

    async def release(self) -> None:
        """Close the connection if this was its last user."""
        self._users -= 1
        if not self._users:
            type(self)._open = {key: each for key, each in self._open.items() if each is not self}
            await self.close()

    async def close(self) -> None:
        """Close a connection that you made without :meth:`acquire`."""
        await close_client(self.client)

    @property
    def uri(self) -> str:
        """The URL without its password, for logs and errors."""
        return redacted(self.url)

    async def exchange(self, keys: list[str], arguments: list[Any]) -> list[Any]:
        """Run exchange.lua with *keys* and *arguments*, return its reply.

        :raises StoreUnreachable: if Redis does not answer, or can't do it now
        :raises StoreRefused: if Redis refuses
        """
        return list(await self._run(self._exchange, keys, arguments))

    async def renew(self, prefix: str, worker: str, lease_seconds: float) -> None:
        """Extend *worker*'s leases to *lease_seconds* from now, unless they have expired and been taken.

        :raises StoreError: as :meth:`exchange`
        """
        await self._run(self._renew, [f"{prefix}workers"], [worker, int(lease_seconds * 1000)])

    async def put_back(self, prefix: str) -> None:
        """Put requests that an earlier run could not read back into the queue.

        :raises StoreError: as :meth:`exchange`
        """
        await self._run(self._put_back, *put_back_arguments(prefix, "unreadable"))

    async def deadlines(self, prefix: str) -> dict[str, float]:
        """Return when each worker's leases expire, by Redis's clock, in milliseconds.

        :raises StoreError: as :meth:`exchange`
        """
        found = await self._translate_errors(self.client.zrange(f"{prefix}workers", 0, -1, withscores=True))
        return {name.decode(): deadline for name, deadline in found}

    async def describe(self, prefix: str) -> dict[str, str]:
        """Return the frontier's version, its project and how many requests it has seen; {} if there is no frontier.

        :raises StoreError: as :meth:`exchange`
        """
        names = ("version", "project", "seen")
        found = await self._translate_errors(self.client.hmget(f"{prefix}meta", names))
        return {name: value.decode() for name, value in zip(names, found, strict=True) if value is not None}

    async def claim(self, prefix: str, project: str) -> str:
        """Register the frontier for *project*, unless it has a project; return the project that it has.

        :raises StoreError: as :meth:`exchange`
        """
        await self._translate_errors(self.client.hsetnx(f"{prefix}meta", "project", project))
        return (await self.describe(prefix)).get("project", project)

    async def lock(self, prefix: str, worker: str) -> bool:
        """Lock the frontier for *worker*, for a minute at most; return False if another worker has locked it.

        :raises StoreError: as :meth:`exchange`
        """
        key = _lock_key(prefix)
        return bool(await self._translate_errors(self.client.set(key, worker, nx=True, px=_LOCK_MILLISECONDS)))

    async def lock_holder(self, prefix: str) -> str:
        """Return which worker has the lock; empty if none has.

        :raises StoreError: as :meth:`exchange`
        """
        return (await self._translate_errors(self.client.get(_lock_key(prefix))) or b"").decode()

    async def unlock(self, prefix: str, worker: str) -> None:
        """Release the lock.

        :raises StoreError: as :meth:`exchange`
        """
        if await self.lock_holder(prefix) == worker:
            await self._translate_errors(self.client.delete(_lock_key(prefix)))

    async def remove(self, keys: list[str]) -> None:
        """Remove *keys*.

        :raises StoreError: as :meth:`exchange`
        """
        await self._translate_errors(self.client.delete(*keys))

    def in_one_slot(self, *keys: str) -> bool:
        """Whether one script may use all of *keys*: in a cluster they must be in one slot."""
        return not is_cluster(self.client) or len({self.client.keyslot(key) for key in keys}) == 1

    async def check(self) -> None:
        """Check that this Redis can keep a frontier.

        :raises StoreUnreachable: if it does not answer, within 12 seconds
        :raises StoreRefused: if it can't, or refuses
        """
        try:
            node = await self._in_time(self._any_node())
            await self._in_time(self.client.ping(**node))
            info: dict[str, Any] = await self._in_time(self.client.info(**node))
        except ResponseError as error:
            if "NOPERM" in str(error) or isinstance(error, NoPermissionError):
                return  # a managed Redis may forbid INFO; the next exchange will tell
            raise translated(error, self.url) from error
        except RedisError as error:
            raise translated(error, self.url) from error
        except (*CLUSTER_ERRORS, OSError, asyncio.TimeoutError) as error:
            reason = f"no answer ({str(error) or type(error).__name__})"
            raise StoreUnreachable(reason, uri=self.uri, remedy=CHECK_REDIS) from error
        if info.get("role") == "slave":
            raise StoreRefused("it is a read-only replica", uri=self.uri, remedy="set STATE_REDIS_URL to the primary's URL")
        if info.get("maxmemory") and str(info.get("maxmemory_policy", "")).startswith("allkeys"):
            raise StoreRefused(
                f"its maxmemory-policy is {info['maxmemory_policy']}, so it would throw requests away when it is full",
                uri=self.uri,
                remedy="set it to noeviction, or STATE_REDIS_URL to another Redis",
            )
        if not info.get("aof_enabled") and not await self._saves(node):
            logger.warning("%s: it keeps nothing on disk (no appendonly, no save), so a restart loses the frontier", self.uri)

    async def _any_node(self) -> dict[str, Any]:
        if not is_cluster(self.client):
            return {}
        await self.client.initialize()
        return {"target_nodes": self.client.get_default_node()}

    async def _saves(self, node: dict[str, Any]) -> bool:
        try:
            return bool((await self._in_time(self.client.config_get("save", **node))).get("save"))
        except (RedisError, OSError, asyncio.TimeoutError):
            return True  # many managed Redis services forbid CONFIG

    async def _run(self, script: Any, keys: list[str], arguments: list[Any]) -> Any:
        for _ in range(_SCRIPT_ATTEMPTS - 1):
            with suppress(NoScriptError):  # a failover, or SCRIPT FLUSH, after redis-py had loaded it
                return await self._translate_errors(script(keys=keys, args=arguments), NoScriptError)
        return await self._translate_errors(script(keys=keys, args=arguments))

    async def _translate_errors(self, call: Awaitable[T], *but: type[RedisError]) -> T:
        try:
            return await call
        except but:
            raise
        except RedisError as error:
            if is_elsewhere(error):
                await drop_connections(self.client)
            raise translated(error, self.url) from error
        except (*CLUSTER_ERRORS, OSError) as error:
            raise StoreUnreachable(str(error), uri=self.uri, remedy=CHECK_REDIS) from error

    async def _in_time(self, call: Awaitable[T]) -> T:
        return await asyncio.wait_for(call, _START_SECONDS / 2)


class Heartbeat:
    """Renews a worker's leases while the event loop is blocked and sends no exchanges, which renew them otherwise.

    C code that keeps the interpreter's lock blocks this thread as well.

    :param last: returns when the reply to the worker's last exchange came, by time.monotonic()
    """

    def __init__(self, settings: RedisSettings, worker: str, spider: Spider, last: Callable[[], float]) -> None:
        self._settings = settings
        self._worker = worker
        self._spider = spider
        self._last = last
        self._stopped = threading.Event()
        self._loop_thread = threading.get_ident()
        self._logged_at = 0.0
        self._thread = threading.Thread(target=self._run, name="scrapy_state heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread. Call it in the event loop's thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, without waiting for it."""
        self._stopped.set()

    def _run(self) -> None:
        every = self._settings.heartbeat_seconds
        while not self._stopped.wait(every / 2):
            last = self._last()
            silent_seconds = time.monotonic() - last
            if silent_seconds < 1.5 * every:
                continue
            with suppress(StoreError):  # Redis is away: the worker logs it, once it can
                asyncio.run(self._beat())
            if silent_seconds >= self._settings.lease_seconds and self._logged_at != last:
                self._logged_at = last
                self._warn(silent_seconds)

    async def _beat(self) -> None:
        connection = Connection(self._settings.url)
        try:
            await connection.renew(self._settings.prefix, self._worker, self._settings.lease_seconds)
        finally:
            await connection.close()

    def _warn(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown"
        logger.warning(
            "no exchange with Redis for %.0f s: something blocks the event loop (now at %s), or Redis does not answer. "
            "Meanwhile this worker keeps its leases", seconds, where, extra={"spider": self._spider},
        )  # fmt: skip


def put_back_arguments(prefix: str, which: str) -> tuple[list[str], list[str]]:
    """Return the keys and the arguments with which PUT_BACK puts back what is set aside as *which*: "fatal" or "unreadable"."""
    name = secrets.token_hex(8)
    return [prefix + part for part in ("meta", "returning", which, f"returning:{name}")], [name]


def _lock_key(prefix: str) -> str:
    return prefix.rstrip(":")  # not one of the frontier's keys, so it stays while these are removed
