"""Before the first request: whether this Redis can keep the frontier, and who else works on it."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time

from scrapy import Request
from scrapy.crawler import Crawler

from ..exceptions import StateConflict, StoreError, StoreUnreachable
from ..feeds import StateFeed
from ..model.key_template import placeholders
from ..settings import get_settings
from .codec import Codec
from .connection import Connection
from .frontier import Frontier, NewRequest, Reply
from .leases import Order
from .options import RedisSettings

logger = logging.getLogger("scrapy_state.state")
#: At start a person may be waiting: a Redis that does not answer is told of soon.
_START_RETRY_SECONDS = 4
#: The keys that the round trip of a made-up request makes, beside its leases.
_SELFCHECK_PARTS = (
    *("meta", "workers", "busy", "ring", "clocks", "duplicates", "priorities:selfcheck", "queue:0:selfcheck"),
    *(f"seen:0:{number}" for number in range(16)),
)


class Opening:
    """Opens the frontier for one worker, or refuses; knows the rules for several."""

    def __init__(self, crawler: Crawler, settings: RedisSettings, codec: Codec, order: Order) -> None:
        self._crawler = crawler
        self._settings = settings
        self._codec = codec
        self._order = (order.first_out, order.start_first_out)
        self._connection: Connection | None = None
        self._before: dict[str, float] = {}
        #: from when on (by time.monotonic()) a worker alive at the opening has given a sign of life since
        self.sure_at = 0.0
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

    async def open(self) -> tuple[Frontier, Reply]:
        """Return the opened frontier and the first reply.

        :raises StateError: if it can't be used; then nothing of it has been changed
        """
        settings = self._settings
        connection = self._connection = Connection.acquire(settings.url)
        await self._check(connection)
        if get_settings(self._crawler).selfcheck:
            await self._round_trip(connection)
        before = self._before = await self._deadlines()
        # A worker that was killed a moment ago looks like one that is alive, but its heart does not beat.
        watch_seconds = 2 * settings.heartbeat_seconds + 0.5
        self.sure_at = time.monotonic() + watch_seconds
        if before and self._shared_state_feed:
            await asyncio.sleep(watch_seconds)
            await self._refuse_company(before)
        frontier = Frontier(connection, settings.prefix, self.worker, settings.lease_seconds, *self._order)
        reply = await frontier.exchange("open", hidden=1)
        if self._shared_state_feed and set(await self._deadlines()) - {*before, self.worker}:
            await frontier.exchange("close")
            raise self._company_error(self._shared_state_feed)
        logger.info(
            "The frontier %s: %s requests pending, other workers: %s (this one: %s)", settings.prefix, reply.pending,
            reply.others, self.worker, extra={"spider": self._crawler.spider},
        )  # fmt: skip
        return frontier, reply

    async def _check(self, connection: Connection) -> None:
        began = time.monotonic()
        while True:
            try:
                return await connection.check()
            except StoreUnreachable:
                if time.monotonic() - began > _START_RETRY_SECONDS:
                    raise
                await asyncio.sleep(0.5)

    async def is_alone(self) -> bool:
        """Whether no other worker has given a sign of life since this one began to open the frontier.

        :raises StoreError: if Redis does not answer, or refuses
        """
        now = await self._deadlines()
        return not any(deadline > self._before.get(name, 0) for name, deadline in now.items() if name != self.worker)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            await self._connection.release()
            self._connection = None

    @property
    def _shared_state_feed(self) -> str:
        """The state feed that every worker would write to; empty if there is none."""
        common, feed = get_settings(self._crawler), StateFeed.from_settings(self._crawler.settings)
        if feed is None or common.readonly or not common.enabled or "run_id" in placeholders(feed.uri):
            return ""
        return feed.uri

    async def _round_trip(self, connection: Connection) -> None:
        """Send a made-up request and lease it again, on keys of their own.

        :raises StoreError: if that can't be done, or what comes back is another request
        """
        prefix = f"{self._settings.prefix}selfcheck-{self.worker}:"
        frontier = Frontier(connection, prefix, self.worker, self._settings.lease_seconds, *self._order)
        sent = Request("https://scrapy-state.invalid/selfcheck?b=2&a=%20", method="POST", body=b"\x00\xff", meta={"depth": 1})
        fingerprint = self._crawler.request_fingerprinter.fingerprint
        new = NewRequest(self._codec.encode(sent), fingerprint(sent), 0, False, "selfcheck")
        try:
            await frontier.exchange("open")
            leased = (await frontier.exchange(new=[new, new], wanted=2)).leased
            same = [fingerprint(self._codec.decode(data)) for _, data in leased] == [fingerprint(sent)]
            refused = (await frontier.exchange("close", acknowledged=[id for id, _ in leased])).refused
        finally:
            await connection.remove([prefix + part for part in (*_SELFCHECK_PARTS, f"leases:{self.worker}")])
        if not same or refused:
            raise StoreError(
                f"STATE_REDIS_URL: of a made-up request sent twice {len(leased)} came back, "
                f"{'the same' if same else 'not the same'}, and {refused} acknowledgements were refused; "
                "is that a Redis, and are REQUEST_FINGERPRINTER_CLASS and the keys what they should be?"
            )

    async def _deadlines(self) -> dict[str, float]:
        assert self._connection is not None
        return await self._connection.deadlines(self._settings.prefix)

    async def _refuse_company(self, before: dict[str, float]) -> None:
        after = await self._deadlines()
        if any(after.get(name, deadline) > deadline for name, deadline in before.items()):
            raise self._company_error(self._shared_state_feed)

    def _company_error(self, feed: str) -> StateConflict:
        return StateConflict(
            f"another worker is at work on the frontier {self._settings.prefix}, and would store its checkpoints in the same "
            f"state feed {feed!r}. With several workers the frontier is the state: take the state feed out, "
            "or give each run its own with %(run_id)s in its URI"
        )
