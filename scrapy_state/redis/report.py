"""What is in a job's frontier, and removing it. For ``scrapy state frontier``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from redis.exceptions import RedisError

from ..exceptions import StoreUnreachable
from .clients import CLUSTER_ERRORS, blocking_client, on_node_of
from .options import redacted

_BATCH = 500


@dataclass(frozen=True)
class Frontier:
    """A job's frontier, as it was a moment ago.

    :param pending: how many requests wait, pushed URLs among them
    :param pending_by_priority: the same by priority, highest first, without pushed URLs
    :param leased: how many requests each worker has, done ones among them
    :param seconds_left: by worker: how long until its leases come back, unless its heart beats; negative: it is dead
    :param seen: how many fingerprints have been seen
    :param unreadable: how many requests could not be read, and are set aside
    """

    pending: int
    pending_by_priority: dict[int, int]
    leased: dict[str, int]
    seconds_left: dict[str, float]
    seen: int
    unreadable: int = 0


def read_frontier(url: str, prefix: str, pushed_key: str = "") -> Frontier:
    """Return what is in the frontier whose keys begin with *prefix*. Blocks.

    :param url: STATE_REDIS_URL
    :param prefix: as ``scrapy_state.redis.options.key_prefix(STATE_REDIS_KEY, spider)`` returns it
    :param pushed_key: STATE_REDIS_URLS_KEY, filled in; empty: the prefix and "urls"
    :raises StoreUnreachable: if Redis does not answer, or refuses
    """
    with _client(url) as client:
        meta = client.hgetall(f"{prefix}meta")
        by_priority: dict[int, int] = {}
        for slot in client.zrange(f"{prefix}ring", 0, -1):
            for member in client.zrange(prefix.encode() + b"priorities:" + slot, 0, -1):
                length = client.llen(prefix.encode() + b"queue:" + member + b":" + slot)
                priority = int(member.rstrip(b"s"))
                by_priority[priority] = by_priority.get(priority, 0) + length
        seconds, micros = client.time(**on_node_of(client, prefix))
        workers = client.zrange(f"{prefix}workers", 0, -1, withscores=True)
        return Frontier(
            pending=int(meta.get(b"pending", 0))
            + client.llen(f"{prefix}back")
            + _pushed(client, pushed_key or f"{prefix}urls"),
            pending_by_priority=dict(sorted(by_priority.items(), reverse=True)),
            leased={name.decode(): client.hlen(prefix.encode() + b"leases:" + name) for name, _ in workers},
            seconds_left={name.decode(): deadline / 1000 - seconds - micros / 1e6 for name, deadline in workers},
            seen=int(meta.get(b"seen", 0)),
            unreadable=client.llen(f"{prefix}unreadable"),
        )


def read_unreadable(url: str, prefix: str) -> Iterator[bytes]:
    """Yield the requests that could not be read, as they were stored or pushed. Blocks.

    :raises StoreUnreachable: if Redis does not answer, or refuses
    """
    with _client(url) as client:
        for begin in count(0, _BATCH):
            found = client.lrange(f"{prefix}unreadable", begin, begin + _BATCH - 1)
            yield from (element.partition(b"\n")[2] for element in found)
            if len(found) < _BATCH:
                return


def _pushed(client: Any, key: str) -> int:
    kind = client.type(key)
    counts = {b"list": client.llen, b"set": client.scard, b"zset": client.zcard}
    return int(counts[kind](key)) if kind in counts else 0


def clear_frontier(url: str, prefix: str, *, keep_pushed: bool = False) -> int:
    """Remove the frontier whose keys begin with *prefix*: pending requests, leases, seen fingerprints. Blocks.

    Workers that are at it end with an error.

    :param url: STATE_REDIS_URL
    :param prefix: as for :func:`read_frontier`
    :param keep_pushed: leave what others have pushed and nobody has taken yet
    :return: how many keys were removed
    :raises StoreUnreachable: if Redis does not answer, or refuses
    """
    with _client(url) as client:
        removed = int(client.delete(f"{prefix}meta"))  # first, so that no worker goes on with a part
        batch = []
        kept = {f"{prefix}urls".encode()} if keep_pushed else set()
        for key in client.scan_iter(match=_pattern(prefix), count=_BATCH, **on_node_of(client, prefix)):
            if key not in kept:
                batch.append(key)
            if len(batch) == _BATCH:
                removed += client.delete(*batch)
                batch = []
        if batch:
            removed += client.delete(*batch)
    return removed


def _pattern(prefix: str) -> str:
    return re.sub(r"([\[\]*?\\^])", r"\\\1", prefix) + "*"


@contextmanager
def _client(url: str) -> Iterator[Any]:
    client = None
    try:
        client = blocking_client(url)
        yield client
    except (RedisError, *CLUSTER_ERRORS, OSError) as error:
        raise StoreUnreachable(f"STATE_REDIS_URL {redacted(url)}: {error}") from error
    finally:
        if client is not None:
            client.close()
