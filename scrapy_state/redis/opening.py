"""Before the first request: checks whether Redis can keep the frontier, and which other workers use it."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from scrapy import Request

from ..exceptions import StateConflict, StateSettingsError, StoreError, StoreUnreachable
from ..feeds import StateFeed
from ..model.key_template import placeholders
from ..settings import get_settings
from . import log
from .connection import Connection
from .frontier import FrontierClient, FrontierGone, NewRequest
from .inspect import clear_frontier, read_frontier
from .settings import redacted

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

    from ..frontier.codec import Codec
    from .frontier import Reply
    from .leases import Order
    from .settings import RedisSettings

logger = logging.getLogger("scrapy_state.state")
T = TypeVar("T")
#: The start gives up early, because somebody may be watching it. Restarting Redis takes less.
_START_RETRY_SECONDS = 4
_RETRY_PAUSE_SECONDS = 0.5
_LOCK_CHECK_SECONDS = 0.5
_POLL_SECONDS = 0.2
#: meta.version, as exchange.lua writes it
_VERSION = "2"
#: The keys that the test request creates, besides its leases.
_SELFCHECK_PARTS = (
    *("meta", "workers", "busy", "ring", "exchanges", "left", "given", "duplicates", "priorities:selfcheck"),
    *("queue:0:selfcheck", "late", "returning"),
    *(f"seen:0:{number}" for number in range(16)),
)


class Opening:
    """Opens the frontier for one worker, or refuses if other workers or projects must not share it."""

    def __init__(self, crawler: Crawler, settings: RedisSettings, codec: Codec, order: Order) -> None:
        self._crawler = crawler
        self._settings = settings
        self._codec = codec
        self._order = (order.first_out, order.start_first_out)
        self._connection: Connection | None = None
        self._before: dict[str, float] = {}
        #: by when (time.monotonic()) every worker that was alive at the opening has renewed its leases
        self.sure_at = 0.0
        self._watch_seconds = 0.0
        self.worker = _new_name()

    async def open(self) -> tuple[FrontierClient, Reply]:
        """Return the opened frontier and the first reply.

        :raises StateError: if it can't be used; then nothing in it was changed
        """
        settings = self._settings
        connection = self._connection = Connection.acquire(settings.url)
        await self._retry(connection.check)
        if not connection.in_one_slot(settings.prefix, settings.pushed_key):
            raise StateSettingsError(
                f"STATE_REDIS_URLS_KEY is {settings.pushed_key!r}, which lies in another slot of the Redis Cluster than the "
                "frontier",
                remedy=f"put {settings.prefix[settings.prefix.index('{') : -1]!r} into it",
            )
        if get_settings(self._crawler).selfcheck:
            await self._retry(lambda: self._round_trip(connection))
        earlier = await self._retry(lambda: connection.describe(settings.prefix))
        self._refuse_version(earlier.get("version", _VERSION))
        self._refuse_project(earlier.get("project", settings.project))
        before = self._before = await self._deadlines()
        # A worker that was just killed looks alive, but it doesn't renew its leases.
        self._watch_seconds = 2 * settings.heartbeat_seconds + 0.5
        self.sure_at = time.monotonic() + self._watch_seconds
        if before and self._shared_state_feed:
            await asyncio.sleep(self._watch_seconds)
            after = await self._deadlines()
            if any(after.get(name, deadline) > deadline for name, deadline in before.items()):
                raise self._shared_feed_error(self._shared_state_feed)
        if settings.clear == "start":
            async with Clearing(connection, settings, self.worker).lock():
                if await self._nobody_is_alive():
                    await Clearing(connection, settings, self.worker).clear()
                    earlier = {}
                frontier, reply = await self._join(connection)
        else:
            frontier, reply = await self._join(connection)
        if reply.vanished:
            await frontier.exchange("close")
            raise log.vanished_error(reply.vanished, self._crawler.spider)
        if self._shared_state_feed and set(await self._deadlines()) - {*before, self.worker}:
            await frontier.exchange("close")
            raise self._shared_feed_error(self._shared_state_feed)
        log.log_opened(settings, reply, int(earlier.get("seen", 0)), self.worker, self._crawler.spider)
        return frontier, reply

    async def _join(self, connection: Connection) -> tuple[FrontierClient, Reply]:
        """Open the frontier once nobody is removing it."""
        prefix = self._settings.prefix
        await self._retry(lambda: connection.put_back(prefix))
        while True:
            frontier = FrontierClient(
                connection, prefix, self.worker, self._settings.lease_seconds, *self._order, self._settings.most_deliveries,
                self._settings.pushed_key,
            )  # fmt: skip
            # If only the reply was lost, Redis takes the next attempt for a repeat.
            reply = await self._retry(partial(frontier.exchange, "open", hidden=1))
            holder = await self._retry(lambda: connection.lock_holder(prefix))
            if holder in ("", self.worker) and self.worker in await self._deadlines():
                break
            with suppress(FrontierGone):
                await frontier.exchange("close")
            self.worker = _new_name()
            await asyncio.sleep(_LOCK_CHECK_SECONDS)
        try:
            self._refuse_project(await self._retry(lambda: connection.claim(prefix, self._settings.project)))
        except StateSettingsError:
            await frontier.exchange("close")
            raise
        return frontier, reply

    async def _nobody_is_alive(self) -> bool:
        sure_at = time.monotonic() + self._watch_seconds
        while await self._deadlines():
            if not await self.is_alone():
                return False
            if time.monotonic() > sure_at:
                break
            await asyncio.sleep(_LOCK_CHECK_SECONDS)
        return True

    async def clear_if_finished(self) -> None:
        """Remove the frontier if nothing in it is left to do. Call it when this worker has left.

        :raises StoreError: if Redis does not answer, or refuses
        """
        assert self._connection is not None
        await Clearing(self._connection, self._settings, self.worker).clear_if_finished()

    def _refuse_version(self, version: str) -> None:
        if version != _VERSION:
            raise StoreError(
                f"the frontier {self._settings.prefix} has version {version}, but this scrapy_state knows version {_VERSION}",
                uri=redacted(self._settings.url),
                remedy="install the scrapy_state that made it, or remove it (scrapy state frontier … --clear)",
            )

    def _refuse_project(self, project: str) -> None:
        if project != self._settings.project:
            raise StateSettingsError(
                f"the frontier {self._settings.prefix} belongs to the project {project!r}, but this project is "
                f"{self._settings.project!r} (BOT_NAME)",
                uri=redacted(self._settings.url),
                remedy="give one of them another STATE_REDIS_KEY; if it is the same project under a new name: redis-cli HDEL "
                f"'{self._settings.prefix}meta' project",
            )

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what *call* returns. Repeat it for a few seconds if Redis can't be reached: it may be restarting."""
        give_up_at = time.monotonic() + _START_RETRY_SECONDS
        while True:
            try:
                return await call()
            except StoreUnreachable:
                if time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(_RETRY_PAUSE_SECONDS)

    async def is_alone(self) -> bool:
        """Whether no other worker has renewed its leases since this one began to open the frontier.

        :raises StoreError: if Redis does not answer, or refuses
        """
        now = await self._deadlines()
        return not any(deadline > self._before.get(name, 0) for name, deadline in now.items() if name != self.worker)

    async def close(self) -> None:
        """Release the connection."""
        if self._connection is not None:
            await self._connection.release()
            self._connection = None

    @property
    def _shared_state_feed(self) -> str:
        """The state feed that every worker would write to; empty if none."""
        common, feed = get_settings(self._crawler), StateFeed.from_settings(self._crawler.settings)
        if feed is None or common.readonly or not common.enabled or "run_id" in placeholders(feed.uri):
            return ""
        return feed.uri

    async def _round_trip(self, connection: Connection) -> None:
        """Send a test request and lease it again, on keys of its own.

        :raises StoreError: if that fails, or another request comes back
        """
        prefix = f"{self._settings.prefix}selfcheck-{_new_name()}:"  # a new one for each attempt
        parts = (*_SELFCHECK_PARTS, f"leases:{self.worker}", f"done:{self.worker}")
        frontier = FrontierClient(connection, prefix, self.worker, self._settings.lease_seconds, *self._order, expiring=parts)
        sent = Request("https://scrapy-state.invalid/selfcheck?b=2&a=%20", method="POST", body=b"\x00\xff", meta={"depth": 1})
        fingerprint = self._crawler.request_fingerprinter.fingerprint
        new = NewRequest(self._codec.encode(sent), fingerprint(sent), 0, False, "selfcheck")
        try:
            await frontier.exchange("open")
            leased = (await frontier.exchange(new=[new, new], wanted=2)).leased
            same = [fingerprint(self._codec.decode(data)) for _, data in leased] == [fingerprint(sent)]
            refused = (await frontier.exchange("close", acknowledged=[id for id, _ in leased])).refused
        finally:
            await connection.remove([prefix + part for part in parts])
        if not same or refused:
            raise StoreError(
                f"a test request was sent twice: {len(leased)} came back, {'the same' if same else 'not the same'}, and "
                f"{refused} acknowledgements were refused",
                uri=connection.uri,
                remedy="check whether this is a Redis, STATE_REDIS_KEY and REQUEST_FINGERPRINTER_CLASS",
            )

    async def _deadlines(self) -> dict[str, float]:
        connection = self._connection
        assert connection is not None
        return await self._retry(lambda: connection.deadlines(self._settings.prefix))

    def _shared_feed_error(self, feed: str) -> StateConflict:
        return StateConflict(
            f"another worker uses the frontier {self._settings.prefix}, and would store its checkpoints in the same state feed "
            f"{feed!r}",
            remedy="with several workers the frontier is the state: remove the state feed, or give each run its own, with "
            "%(run_id)s in the URI",
        )


class Clearing:
    """Removes a job's frontier, while no other worker removes or opens it.

    If workers start at the same moment, a lock keeps one from removing what another has begun.
    """

    def __init__(self, connection: Connection, settings: RedisSettings, worker: str) -> None:
        self._connection = connection
        self._settings = settings
        self._worker = worker

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Wait for the lock, and keep it until the block ends. A lock that nobody releases expires after a minute.

        :raises StoreError: if Redis does not answer, or refuses
        """
        while not await self._connection.lock(self._settings.prefix, self._worker):  # noqa: ASYNC110 - others are elsewhere
            await asyncio.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            await self._connection.unlock(self._settings.prefix, self._worker)

    async def clear(self) -> None:
        """Remove the frontier, but not what was pushed to it. Call it only with the lock.

        :raises StoreError: if Redis does not answer, or refuses
        """
        await asyncio.to_thread(clear_frontier, self._settings.url, self._settings.prefix, kept=[self._settings.pushed_key])

    async def clear_if_finished(self) -> None:
        """Remove the frontier if no worker uses it, and nothing in it is left to do.

        :raises StoreError: if Redis does not answer, or refuses
        """
        settings = self._settings
        async with self.lock():
            content = await asyncio.to_thread(read_frontier, settings.url, settings.prefix, settings.pushed_key)
            if content.seconds_left or content.pending:
                return  # the last worker does it
            if content.unreadable or content.fatal:
                logger.warning(
                    "STATE_REDIS_CLEAR: the frontier %s stays, because %s requests in it are set aside (%s can't be read, "
                    "the workers of %s died)", settings.prefix, content.unreadable + content.fatal, content.unreadable,
                    content.fatal,
                )  # fmt: skip
                return
            await self.clear()
        logger.info("The crawl is finished; its frontier %s has been removed (STATE_REDIS_CLEAR)", settings.prefix)


def _new_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
