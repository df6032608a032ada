"""redis-py's clients for a URL (one Redis, a Sentinel, a cluster), and its errors translated into this package's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ssl import SSLError
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TimeoutError,
    TryAgainError,
)  # fmt: skip

from ..exceptions import StateSettingsError, StoreError, StoreRefused, StoreUnreachable
from ..model.web_docs import docs_url
from .settings import redacted, unusable

#: What a client of a cluster raises, besides RedisError and OSError, when it can't reach anything
CLUSTER_ERRORS = (RedisClusterException,)
_CONNECT_SECONDS = 5.0
#: If an exchange takes longer, Redis counts as away.
_ANSWER_SECONDS = 10.0
#: How Redis says "later": busy, can't write to its disk, no replicas, cluster in trouble. Before version 7, an error
#: within a script begins with other words.
_LATER = re.compile(r"(^|.*: -)(BUSY|MISCONF|NOREPLICAS|TRYAGAIN|CLUSTERDOWN)\b")
#: How it says that it is not (or no longer) the node to ask: the same address may lead to another node now.
_ELSEWHERE = re.compile(r"(^|.*: -)(READONLY|MASTERDOWN|MOVED|ASK|LOADING)\b")
#: redis-py's errors for these no longer contain Redis's first word.
_LATER_ERRORS = (ClusterDownError, TryAgainError)
_ELSEWHERE_ERRORS = (ReadOnlyError, MasterDownError, MovedError, AskError, BusyLoadingError)
#: The remedy if nothing answers
CHECK_REDIS = "check STATE_REDIS_URL, whether Redis runs there, and whether it wants TLS (rediss://) or not"
_SENTINEL_PORT, _PORT = 26379, 6379
_TIMEOUTS = {"socket_connect_timeout": _CONNECT_SECONDS, "socket_timeout": _ANSWER_SECONDS}


@dataclass(frozen=True)
class _Address:
    """The parts of a URL with several hosts.

    :param nodes: the sentinels, or some nodes of the cluster
    :param service: the name of the primary at the sentinels
    :param options: the arguments of redis-py's clients, as for a URL with one host
    :param sentinel_options: the same for the sentinels themselves
    """

    nodes: list[tuple[str, int]]
    service: str
    options: dict[str, Any]
    sentinel_options: dict[str, Any]


def async_client(url: str) -> Any:
    """Return the client for *url*. It doesn't connect yet, and retries nothing.

    :raises StateSettingsError: if *url* can't be used
    """
    return _client(url, redis.asyncio, redis.asyncio.sentinel.Sentinel, redis.asyncio.cluster, True)


def blocking_client(url: str) -> Any:
    """Return the blocking client for *url*.

    :raises StateSettingsError: if *url* can't be used
    :raises RedisError: if a cluster can't be reached, or for another reason
    """
    return _client(url, redis, redis.sentinel.Sentinel, redis.cluster, False)


async def close_client(client: Any) -> None:
    """Close a client of :func:`async_client`."""
    await client.aclose()
    sentinel = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for client_of_sentinel in getattr(sentinel, "sentinels", ()):
        await client_of_sentinel.aclose()


async def drop_connections(client: Any) -> None:
    """Have a client of :func:`async_client` find its server again, on a new connection, for the next command."""
    if is_cluster(client):
        await client.aclose()  # it finds its nodes again by itself
    else:
        await client.connection_pool.disconnect(inuse_connections=False)


def is_cluster(client: Any) -> bool:
    """Whether *client* is that of a cluster."""
    return isinstance(client, (redis.cluster.RedisCluster, redis.asyncio.cluster.RedisCluster))


def on_node_of(client: Any, key: str) -> dict[str, Any]:
    """Return the arguments that send a command without keys (TIME, SCAN, …) to the node that has *key*."""
    return {"target_nodes": client.get_node_from_key(key)} if is_cluster(client) else {}


def is_elsewhere(error: RedisError) -> bool:
    """Whether Redis says that it is not the node to ask, so this connection must not be used again."""
    return isinstance(error, _ELSEWHERE_ERRORS) or _ELSEWHERE.match(str(error)) is not None


def translated(error: RedisError, url: str) -> StoreError:
    """Return this package's error for one of redis-py's."""
    uri, says = redacted(url), str(error).partition("\n")[0]
    if isinstance(error, (AuthenticationError, AuthorizationError)) or "WRONGPASS" in says or "NOAUTH" in says:
        return StoreRefused(f"wrong user or password ({says})", uri=uri, remedy="correct STATE_REDIS_URL")
    if isinstance(error, NoPermissionError) or "NOPERM" in says:
        remedy = f"give the user of STATE_REDIS_URL its rights: see {docs_url('redis', 'before-the-first-request')}"
        return StoreRefused(f"the user may not do what a frontier needs ({says})", uri=uri, remedy=remedy)
    if "DB index" in says or "invalid DB" in says:
        return StoreRefused(f"the database does not exist ({says})", uri=uri, remedy="correct STATE_REDIS_URL")
    if isinstance(error, ReadOnlyError) or "READONLY" in says:
        return StoreUnreachable(f"it is read-only now ({says})", uri=uri)
    if is_elsewhere(error):
        return StoreUnreachable(f"it can't serve the frontier just now ({says or type(error).__name__})", uri=uri)
    if isinstance(error, OutOfMemoryError) or says.startswith("OOM"):
        return StoreUnreachable(f"it is full ({says})", uri=uri, remedy="raise its maxmemory")
    if isinstance(error, (*_LATER_ERRORS, NoScriptError)) or _LATER.match(says):
        return StoreUnreachable(says, uri=uri)
    cause = error.__cause__ or error.__context__
    if isinstance(cause, SSLError):  # not every version of redis-py includes the reason
        reason = getattr(cause, "verify_message", "") or cause.reason or says
        remedy = "if the certificate is your own, add ?ssl_ca_certs=/path to STATE_REDIS_URL"
        return StoreUnreachable(f"no secure connection ({reason})", uri=uri, remedy=remedy)
    if isinstance(error, (ConnectionError, TimeoutError)):
        return StoreUnreachable(says.rstrip(".") or type(error).__name__, uri=uri, remedy=CHECK_REDIS)
    return StoreRefused(says or type(error).__name__, uri=uri)


def _client(url: str, module: Any, sentinel_class: Any, cluster_module: Any, once: bool) -> Any:
    retry = {"retry": Retry(NoBackoff(), 0)} if once else {}
    try:
        kind = urlsplit(url).scheme.partition("+")[2]
        if not kind:
            client = module.Redis.from_url(url, **_TIMEOUTS, **retry)
            client.connection_pool.connection_kwargs["decode_responses"] = False  # whatever the URL says
            return client
        address = _read(url, kind)
        if kind == "cluster":
            nodes = [cluster_module.ClusterNode(host, port) for host, port in address.nodes]
            return cluster_module.RedisCluster(startup_nodes=nodes, **address.options, **retry)
        sentinel = sentinel_class(address.nodes, sentinel_kwargs={**address.sentinel_options, **retry})
        return sentinel.master_for(address.service, **address.options, **retry)
    except (ValueError, TypeError) as error:
        raise unusable(url) from error


def _read(url: str, kind: str) -> _Address:
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[0]
    user, _, hosts = parts.netloc.rpartition("@")
    _, service, database, *_ = (*unquote(parts.path).split("/"), "", "")
    if kind == "cluster":
        service, database = "", service
    elif not service:
        raise StateSettingsError(
            f"STATE_REDIS_URL is {redacted(url)!r}, which does not name the primary",
            remedy="write redis+sentinel://host:26379,host:26379/name/0",
        )
    query = dict(parse_qsl(parts.query))
    own = {name: query.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in query}
    options: dict[str, Any] = dict(parse_url(f"{scheme}://{user}@host/{database or 0}?{urlencode(query)}"))  # type: ignore[no-untyped-call]
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    options.update(_TIMEOUTS, decode_responses=False)
    tls = {"ssl": True, **{name: value for name, value in options.items() if name.startswith("ssl_")}}
    sentinel_options = {**_TIMEOUTS, **own, **(tls if scheme == "rediss" else {})}
    if scheme == "rediss":
        options["ssl"] = True
    if kind == "cluster" and options.pop("db", 0):
        raise StateSettingsError(
            f"STATE_REDIS_URL is {redacted(url)!r}", remedy="a cluster has only database 0: leave the number out"
        )
    port = _PORT if kind == "cluster" else _SENTINEL_PORT
    nodes = [_node(each, port) for each in hosts.split(",")]
    return _Address(nodes, service, options, sentinel_options)


def _node(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a node has no name")
    return parts.hostname, parts.port or port
