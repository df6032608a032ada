"""Look at a job's frontier, or remove it: for ``scrapy state frontier``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from ..exceptions import StoreUnreachable
from .clients import CHECK_REDIS, CLUSTER_ERRORS, blocking_client, on_node_of
from .connection import PUT_BACK, put_back_arguments
from .settings import redacted

_BATCH = 1000


@dataclass(frozen=True)
class Frontier:
    """A job's frontier, as it was a moment ago.

    :param pending: how many requests wait, pushed URLs among them
    :param pending_by_priority: the same by priority, highest first, without pushed URLs
    :param leased: how many requests each worker has leased, including done ones
    :param seconds_left: by worker: how long until its leases expire, unless it renews them; negative: it is dead
    :param seen: how many fingerprints the frontier has
    :param fatal: how many pages are set aside, because their workers died: see :func:`read_set_aside`
    :param unreadable: how many requests are set aside, because no worker could read them
    """

    pending: int
    pending_by_priority: dict[int, int]
    leased: dict[str, int]
    seconds_left: dict[str, float]
    seen: int
    fatal: int = 0
    unreadable: int = 0


@dataclass(frozen=True)
class SetAside:
    """A request that nobody crawls.

    :param data: the request as stored; a pushed one: "+" and what was pushed
    :param deliveries: how many workers died before they finished it
    """

    data: bytes
    deliveries: int


def read_frontier(url: str, prefix: str, pushed_key: str = "") -> Frontier:
    """Return what is in the frontier whose keys begin with *prefix*. Blocks.

    :param url: STATE_REDIS_URL
    :param prefix: as ``scrapy_state.redis.settings.key_prefix(STATE_REDIS_KEY, spider)`` returns it
    :param pushed_key: STATE_REDIS_URLS_KEY, filled in; empty: the prefix and "urls"
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
        seconds, micros = client.time(**on_node_of(client, prefix))
        workers = client.zrange(f"{prefix}workers", 0, -1, withscores=True)
        return Frontier(
            pending=int(meta.get(b"pending", 0)) + _pushed(client, pushed_key or f"{prefix}urls"),
            pending_by_priority=dict(sorted(by_priority.items(), reverse=True)),
            leased={name.decode(): client.hlen(prefix.encode() + b"leases:" + name) for name, _ in workers},
            seconds_left={name.decode(): deadline / 1000 - seconds - micros / 1e6 for name, deadline in workers},
            seen=int(meta.get(b"seen", 0)),
            fatal=client.hlen(f"{prefix}fatal"),
            unreadable=client.hlen(f"{prefix}unreadable"),
        )


def read_set_aside(url: str, prefix: str, which: str) -> Iterator[SetAside]:
    """Yield the requests that are set aside, in no order. One may come twice if more are set aside meanwhile. Blocks.

    :param url: STATE_REDIS_URL
    :param prefix: as for :func:`read_frontier`
    :param which: "fatal": their workers died; "unreadable": no worker could read them
    :raises StoreUnreachable: if Redis does not answer, or refuses
    """
    with _client(url) as client:
        for _, element in client.hscan_iter(f"{prefix}{which}", count=_BATCH):
            head, _, data = element.partition(b"\n")
            deliveries = head.split(b" ")[0].split(b"/")[2:]
            yield SetAside(data, int(deliveries[0]) if deliveries else 0)


def put_back(url: str, prefix: str) -> int:
    """Put the requests that are set aside back into the queue, as if no worker had tried them. Blocks.

    :param url: STATE_REDIS_URL
    :param prefix: as for :func:`read_frontier`
    :return: how many there were
    :raises StoreUnreachable: if Redis does not answer, or refuses
    """
    with _client(url) as client:
        script = client.register_script(PUT_BACK)
        return sum(int(script(*put_back_arguments(prefix, which))) for which in ("fatal", "unreadable"))


def _pushed(client: Any, key: str) -> int:
    kind = client.type(key)
    counts = {b"list": client.llen, b"set": client.scard, b"zset": client.zcard}
    return int(counts[kind](key)) if kind in counts else 0


def clear_frontier(url: str, prefix: str, *, kept: Collection[str] = ()) -> int:
    """Remove the frontier whose keys begin with *prefix*: pending requests, leases, seen fingerprints. Blocks.

    Workers that use it end with an error.

    :param url: STATE_REDIS_URL
    :param prefix: as for :func:`read_frontier`
    :param kept: keys to keep: those to which others push URLs
    :return: how many keys were removed
    :raises StoreUnreachable: if Redis does not answer, or refuses
    """
    with _client(url) as client:
        removed = int(client.delete(f"{prefix}meta"))  # first, so that no worker continues with a part
        batch = []
        for key in client.scan_iter(match=_pattern(prefix), count=_BATCH, **on_node_of(client, prefix)):
            if key.decode(errors="surrogateescape") not in kept:
                batch.append(key)
            if len(batch) == _BATCH:
                removed += client.delete(*batch)
                batch = []
        if batch:
            removed += client.delete(*batch)
    return removed


def _many(client: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
    """Send *commands*, many in each round trip; return the replies."""
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
    client = None
    try:
        client = blocking_client(url)
        yield client
    except (RedisError, *CLUSTER_ERRORS, OSError) as error:
        raise StoreUnreachable(str(error), uri=redacted(url), remedy=CHECK_REDIS) from error
    finally:
        if client is not None:
            client.close()
