"""Clients of Redis, shared by URL, and what is looked at before the first request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from importlib import resources
from ssl import SSLError
from typing import Any, TypeVar

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)  # fmt: skip

from ..exceptions import StoreError, StoreRefused, StoreUnreachable
from .clients import CLUSTER_ERRORS, async_client, close_client, is_cluster
from .options import redacted

logger = logging.getLogger("scrapy_state.state")
T = TypeVar("T")

_START_SECONDS = 12.0
_LOCK_MILLISECONDS = 60_000
#: What Redis says when it may do it later: loading, busy, can't write to its disk, no replicas, cluster in trouble.
_LATER = ("LOADING", "BUSY", "MISCONF", "NOREPLICAS", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN")
_HINT = "see whether Redis runs there and can be reached, and whether it wants TLS (rediss://) or not"
_SCRIPTS = resources.files(__package__)
EXCHANGE = _SCRIPTS.joinpath("exchange.lua").read_text()
_ASIDE = _SCRIPTS.joinpath("aside.lua").read_text()


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
        self._script: Any = self.client.register_script(EXCHANGE)
        self._aside: Any = self.client.register_script(_ASIDE)

    @classmethod
    def acquire(cls, url: str) -> Connection:
        """Return the one for *url*; :meth:`release` it after use. To be called in the event loop; sends nothing yet."""
        key = (url, id(asyncio.get_running_loop()))
        found = cls._open.get(key)
        if found is None:
            found = cls._open[key] = cls(url)
        found._users += 1
        return found

    async def release(self) -> None:
        """Close it, if this was its last user."""
        self._users -= 1
        if not self._users:
            type(self)._open = {key: each for key, each in self._open.items() if each is not self}
            await close_client(self.client)

    async def exchange(self, keys: list[str], arguments: list[Any]) -> list[Any]:
        """Run exchange.lua with *keys* and *arguments*, return its reply.

        :raises StoreUnreachable: no answer, or one that means "later"
        :raises StoreRefused: Redis said no
        """
        return list(await self._translating(self._script(keys=keys, args=arguments)))

    async def set_aside(self, keys: list[str], ids: Sequence[int]) -> None:
        """Run aside.lua.

        :raises StoreError: as :meth:`exchange`
        """
        await self._translating(self._aside(keys=keys, args=ids))

    async def put_back(self, prefix: str) -> None:
        """Have what an earlier run could not read tried once more.

        :raises StoreError: as :meth:`exchange`
        """
        unreadable = f"{prefix}unreadable"
        if await self._translating(self.client.exists(unreadable)):
            with suppress(ResponseError):  # another worker was faster: there is no such key any more
                await self.client.renamenx(unreadable, f"{prefix}back")

    async def deadlines(self, prefix: str) -> dict[str, float]:
        """Return until when each worker's leases hold, by Redis's clock in milliseconds.

        :raises StoreError: as :meth:`exchange`
        """
        found = await self._translating(self.client.zrange(f"{prefix}workers", 0, -1, withscores=True))
        return {name.decode(): deadline for name, deadline in found}

    async def described(self, prefix: str) -> dict[str, str]:
        """Return the frontier's version, its project and how many requests it has seen; {} if there is none.

        :raises StoreError: as :meth:`exchange`
        """
        names = ("version", "project", "seen")
        found = await self._translating(self.client.hmget(f"{prefix}meta", names))
        return {name: value.decode() for name, value in zip(names, found, strict=True) if value is not None}

    async def claim(self, prefix: str, project: str) -> str:
        """Say that the frontier is of *project*, unless somebody else has said so; return whose it is.

        :raises StoreError: as :meth:`exchange`
        """
        await self._translating(self.client.hsetnx(f"{prefix}meta", "project", project))
        return (await self.described(prefix)).get("project", project)

    async def lock(self, prefix: str, worker: str) -> bool:
        """Lock the frontier for *worker*, for a minute at most; return whether nobody else has.

        :raises StoreError: as :meth:`exchange`
        """
        key = _lock_key(prefix)
        return bool(await self._translating(self.client.set(key, worker, nx=True, px=_LOCK_MILLISECONDS)))

    async def lock_holder(self, prefix: str) -> str:
        """Return who has the lock; empty if nobody has.

        :raises StoreError: as :meth:`exchange`
        """
        return (await self._translating(self.client.get(_lock_key(prefix))) or b"").decode()

    async def unlock(self, prefix: str, worker: str) -> None:
        """Let go of the lock.

        :raises StoreError: as :meth:`exchange`
        """
        if await self.lock_holder(prefix) == worker:
            await self._translating(self.client.delete(_lock_key(prefix)))

    async def remove(self, keys: list[str]) -> None:
        """Remove *keys*.

        :raises StoreError: as :meth:`exchange`
        """
        await self._translating(self.client.delete(*keys))

    def in_one_slot(self, *keys: str) -> bool:
        """Whether one script may touch all of *keys*."""
        return not is_cluster(self.client) or len({self.client.keyslot(key) for key in keys}) == 1

    async def check(self) -> None:
        """See whether this Redis can keep a frontier.

        :raises StoreUnreachable: if it does not answer, within 12 seconds
        :raises StoreRefused: if it can't, or says no
        """
        where = f"STATE_REDIS_URL {redacted(self.url)}"
        try:
            node = await self._in_time(self._a_node())
            await self._in_time(self.client.ping(**node))
            found: dict[str, Any] = await self._in_time(self.client.info(**node))
        except ResponseError as error:
            if "NOPERM" in str(error) or isinstance(error, NoPermissionError):
                return  # a managed Redis may forbid INFO; the exchange that follows tells
            raise _translated(error, self.url) from error
        except RedisError as error:
            raise _translated(error, self.url) from error
        except (*CLUSTER_ERRORS, OSError, asyncio.TimeoutError) as error:
            raise StoreUnreachable(f"{where}: no answer ({str(error) or type(error).__name__}); {_HINT}") from error
        if found.get("role") == "slave":
            raise StoreRefused(f"{where}: it is a read-only replica; give the URL of the primary")
        if found.get("maxmemory") and str(found.get("maxmemory_policy", "")).startswith("allkeys"):
            raise StoreRefused(
                f"{where}: its maxmemory-policy is {found['maxmemory_policy']}, so that it would throw requests away when it "
                "is full; set it to noeviction"
            )
        if not found.get("aof_enabled") and not await self._saves(node):
            logger.warning(
                "%s: it keeps nothing on disk (no appendonly, no save): the frontier is gone when it is restarted", where
            )

    async def _a_node(self) -> dict[str, Any]:
        if not is_cluster(self.client):
            return {}
        await self.client.initialize()
        return {"target_nodes": self.client.get_default_node()}

    async def _saves(self, node: dict[str, Any]) -> bool:
        try:
            return bool((await self._in_time(self.client.config_get("save", **node))).get("save"))
        except (RedisError, OSError, asyncio.TimeoutError):
            return True  # CONFIG is forbidden on many a managed Redis: nobody knows

    async def _translating(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except RedisError as error:
            raise _translated(error, self.url) from error
        except (*CLUSTER_ERRORS, OSError) as error:
            raise StoreUnreachable(f"STATE_REDIS_URL {redacted(self.url)}: {error}") from error

    async def _in_time(self, call: Awaitable[T]) -> T:
        return await asyncio.wait_for(call, _START_SECONDS / 2)


def _lock_key(prefix: str) -> str:
    return prefix.rstrip(":")  # not one of the frontier's keys, so that it lasts while these are removed


def _translated(error: RedisError, url: str) -> StoreError:
    where, says = f"STATE_REDIS_URL {redacted(url)}", str(error).partition("\n")[0]
    if isinstance(error, (AuthenticationError, AuthorizationError)) or "WRONGPASS" in says or "NOAUTH" in says:
        return StoreRefused(f"{where}: wrong user or password ({says})")
    if isinstance(error, NoPermissionError) or "NOPERM" in says:
        return StoreRefused(f"{where}: the user may not do what a frontier needs ({says})")
    if "DB index" in says or "invalid DB" in says:
        return StoreRefused(f"{where}: there is no such database ({says})")
    if isinstance(error, ReadOnlyError) or "READONLY" in says:
        return StoreUnreachable(f"{where}: it is read-only now ({says})")
    if isinstance(error, OutOfMemoryError) or says.startswith("OOM"):
        return StoreUnreachable(f"{where}: it is full, give it more maxmemory ({says})")
    if isinstance(error, BusyLoadingError) or says.startswith(_LATER):
        return StoreUnreachable(f"{where}: {says}")
    cause = error.__cause__ or error.__context__
    if isinstance(cause, SSLError):  # not every redis-py tells its reason
        reason = getattr(cause, "verify_message", "") or cause.reason or says
        own = "if its certificate is one of your own, name the authority by ?ssl_ca_certs=/path"
        return StoreUnreachable(f"{where}: no secure connection ({reason}); {own}")
    if isinstance(error, (ConnectionError, TimeoutError)):
        return StoreUnreachable(f"{where}: {says.rstrip('.') or type(error).__name__}; {_HINT}")
    return StoreRefused(f"{where}: {says or type(error).__name__}")
