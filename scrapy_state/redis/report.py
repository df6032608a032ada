"""What is in a job's frontier, and removing it. For ``scrapy state frontier``."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import RedisError

from ..exceptions import StoreUnreachable
from .options import redacted, unusable

_BATCH = 1000


@dataclass(frozen=True)
class Frontier:
    """A job's frontier, as it was a moment ago.

    :param pending: how many requests wait, pushed URLs among them
    :param pending_by_priority: the same by priority, highest first, without pushed URLs
    :param leased: how many requests each worker has, done ones among them
    :param seconds_left: by worker: how long until its leases come back, unless its heart beats; negative: it is dead
    :param seen: how many fingerprints have been seen
    :param fatal: how many pages are set aside, because their workers died: see :func:`read_fatal`
    """

    pending: int
    pending_by_priority: dict[int, int]
    leased: dict[str, int]
    seconds_left: dict[str, float]
    seen: int
    fatal: int = 0


@dataclass(frozen=True)
class FatalPage:
    """A page that is set aside, because its workers died.

    :param data: the request, as it is stored
    :param deliveries: how many workers have died before they were done with it
    """

    data: bytes
    deliveries: int


def read_frontier(url: str, prefix: str) -> Frontier:
    """Return what is in the frontier whose keys begin with *prefix*. Blocks.

    :param url: STATE_REDIS_URL
    :param prefix: as ``scrapy_state.redis.options.key_prefix(STATE_REDIS_KEY, spider)`` returns it
    :raises StoreUnreachable: if Redis does not answer, or refuses
    """
    with _client(url) as client:
        meta = client.hgetall(f"{prefix}meta")
        start, by_priority = prefix.encode(), Counter[int]()
        slots = client.zrange(f"{prefix}ring", 0, -1)
        members = _many(client, [("zrange", start + b"priorities:" + slot, 0, -1) for slot in slots])
        queues = [(member, slot) for slot, found in zip(slots, members, strict=True) for member in found]
        lengths = _many(client, [("llen", start + b"queue:" + member + b":" + slot) for member, slot in queues])
        for (member, _), length in zip(queues, lengths, strict=True):
            by_priority[int(member.rstrip(b"s"))] += length
        seconds, micros = client.time()
        workers = client.zrange(f"{prefix}workers", 0, -1, withscores=True)
        return Frontier(
            pending=int(meta.get(b"pending", 0)) + client.llen(f"{prefix}urls"),
            pending_by_priority=dict(sorted(by_priority.items(), reverse=True)),
            leased={name.decode(): client.hlen(prefix.encode() + b"leases:" + name) for name, _ in workers},
            seconds_left={name.decode(): deadline / 1000 - seconds - micros / 1e6 for name, deadline in workers},
            seen=int(meta.get(b"seen", 0)),
            fatal=client.hlen(f"{prefix}fatal"),
        )


def read_fatal(url: str, prefix: str) -> list[FatalPage]:
    """Return the pages that were set aside because their workers died, one after the other. Blocks.

    :param url: STATE_REDIS_URL
    :param prefix: as for :func:`read_frontier`
    :raises StoreUnreachable: if Redis does not answer, or refuses
    """
    with _client(url) as client:
        elements = [element.partition(b"\n") for _, element in sorted(client.hgetall(f"{prefix}fatal").items())]
        return [FatalPage(data, int(head.split(b" ")[0].split(b"/")[2])) for head, _, data in elements]


def put_back_fatal(url: str, prefix: str) -> int:
    """Have the pages that were set aside crawled again, as if they had never been tried. Blocks.

    :param url: STATE_REDIS_URL
    :param prefix: as for :func:`read_frontier`
    :return: how many there were
    :raises StoreUnreachable: if Redis does not answer, or refuses
    """
    name = secrets.token_hex(8)

    def move(pipe: Any) -> None:
        count = pipe.hlen(f"{prefix}fatal")
        pipe.multi()
        if count:  # they come back like the leases of a worker that has left: see returning.lua
            pipe.rename(f"{prefix}fatal", f"{prefix}returning:{name}")
            pipe.rpush(f"{prefix}returning", f"{name} anew")
            pipe.hincrby(f"{prefix}meta", "pending", count)
        pipe.hlen(f"{prefix}returning:{name}")

    with _client(url) as client:
        return int(client.transaction(move, f"{prefix}fatal")[-1])


def clear_frontier(url: str, prefix: str) -> int:
    """Remove the frontier whose keys begin with *prefix*: pending requests, leases, seen fingerprints. Blocks.

    Workers that are at it end with an error.

    :param url: STATE_REDIS_URL
    :param prefix: as for :func:`read_frontier`
    :return: how many keys were removed
    :raises StoreUnreachable: if Redis does not answer, or refuses
    """
    with _client(url) as client:
        removed = int(client.delete(f"{prefix}meta"))  # first, so that no worker goes on with a part
        batch = []
        for key in client.scan_iter(match=_pattern(prefix), count=_BATCH):
            batch.append(key)
            if len(batch) == _BATCH:
                removed += client.delete(*batch)
                batch = []
        if batch:
            removed += client.delete(*batch)
    return removed


def _many(client: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
    """Send *commands*, many with each round trip; return the replies."""
    replies = []
    for begin in range(0, len(commands), _BATCH):
        with client.pipeline(transaction=False) as pipe:
            for command in commands[begin : begin + _BATCH]:
                pipe.execute_command(*command)
            replies += pipe.execute()
    return replies


def _pattern(prefix: str) -> str:
    return re.sub(r"([\[\]*?\\^])", r"\\\1", prefix) + "*"


@contextmanager
def _client(url: str) -> Iterator[Any]:
    try:
        client = redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=10)
    except (ValueError, TypeError) as error:
        raise unusable(url) from error
    try:
        yield client
    except (RedisError, OSError) as error:
        raise StoreUnreachable(f"STATE_REDIS_URL {redacted(url)}: {error}") from error
    finally:
        client.close()
