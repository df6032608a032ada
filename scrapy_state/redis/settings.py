"""The STATE_REDIS_* settings, and which DUPEFILTER_CLASS may be used with them."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from typing import Any

from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.dupefilters import BaseDupeFilter, RFPDupeFilter
from scrapy.settings import BaseSettings, default_settings
from scrapy.utils.python import global_object_name

from ..exceptions import StateSettingsError
from ..model.values import get_bool, get_choice, get_number, get_seconds, get_text
from ..settings import get_settings

logger = logging.getLogger("scrapy_state.state")
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_HEARTBEAT_SECONDS = 5.0
#: Packages whose filters store fingerprints, and packages of clients that such a filter has as an attribute
_KEEPERS = ("scrapy_redis", "scrapy_redis_bloomfilter", "scrapy_redis_cluster", "scrapy_redis_sentinel", "scrapy_distributed")
_CLIENTS = ("redis", "rediscluster", "sqlite3", "pymongo", "psycopg", "psycopg2", "sqlalchemy", "plyvel", "lmdb")


@dataclass(frozen=True)
class RedisSettings:
    """The settings of a frontier in Redis.

    :param url: STATE_REDIS_URL
    :param prefix: how all keys of the job begin: STATE_REDIS_KEY, filled in, as a hash tag
    :param lease_seconds: STATE_REDIS_LEASE_TIMEOUT: how long after its last heartbeat a worker's leases expire
    :param prefetch: STATE_REDIS_PREFETCH: how many requests a worker leases ahead
    :param most_deliveries: STATE_REDIS_MAX_DELIVERIES: how many workers may die with a page before it is set aside
    :param pushed_key: STATE_REDIS_URLS_KEY, filled in: the key to which others push URLs
    :param keep_open: STATE_REDIS_KEEP_OPEN: don't end when nothing is pending or running
    :param idle_seconds: STATE_REDIS_IDLE_TIMEOUT: with keep_open, end after so long without anything to do
    :param clear: STATE_REDIS_CLEAR: when the frontier is removed: "start", "finished", "never"
    :param project: distinguishes this project from another one with a spider of the same name
    :param early: STATE_REDIS_ACKNOWLEDGE is "done": acknowledge when the pipelines are done, before items are durable
    :param filter_start: STATE_REDIS_FILTER_START: drop start requests seen before, even with ``dont_filter``
    :param use_pickle: STATE_REDIS_PICKLE: pickle requests that JSON can't hold
    :param retry_seconds: STATE_RETRY_TIMEOUT: how long Redis may be away
    :param close_seconds: STATE_CLOSE_TIMEOUT: the same, once the crawl is closing
    :param interval_seconds: STATE_INTERVAL: the shortest time between two cuts
    """

    url: str
    prefix: str
    lease_seconds: float
    prefetch: int
    most_deliveries: int
    pushed_key: str
    keep_open: bool
    idle_seconds: float
    clear: str
    project: str
    early: bool
    filter_start: bool
    use_pickle: bool
    retry_seconds: float
    close_seconds: float
    interval_seconds: float

    @property
    def heartbeat_seconds(self) -> float:
        """How often a worker renews its leases."""
        return min(_HEARTBEAT_SECONDS, self.lease_seconds / 4)

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> RedisSettings:
        """Read the settings of *crawler*, whose spider has been made.

        :raises StateSettingsError: if a value is of the wrong kind, or STATE_REDIS_URL is missing
        """
        settings, spider = crawler.settings, crawler.spider
        assert spider is not None
        common = get_settings(crawler)
        prefix = key_prefix(get_text(settings, "STATE_REDIS_KEY", "%(name)s"), spider)
        concurrency = settings.getint("CONCURRENT_REQUESTS") or 100
        pushed_key = get_text(settings, "STATE_REDIS_URLS_KEY")
        return cls(
            url=_url(settings),
            prefix=prefix,
            pushed_key=_filled("STATE_REDIS_URLS_KEY", pushed_key, spider) if pushed_key else f"{prefix}urls",
            lease_seconds=get_number(settings, "STATE_REDIS_LEASE_TIMEOUT", 60, minimum=1, expected="a number of seconds"),
            prefetch=int(get_number(settings, "STATE_REDIS_PREFETCH", concurrency, minimum=1)),
            most_deliveries=int(get_number(settings, "STATE_REDIS_MAX_DELIVERIES", 3, minimum=2)),
            keep_open=get_bool(settings, "STATE_REDIS_KEEP_OPEN", False),
            idle_seconds=_idle_seconds(settings),
            clear=get_choice(settings, "STATE_REDIS_CLEAR", "never", "start", "finished"),
            project=_project(settings, spider),
            early=get_choice(settings, "STATE_REDIS_ACKNOWLEDGE", "durable", "done") == "done",
            filter_start=get_bool(settings, "STATE_REDIS_FILTER_START", False),
            use_pickle=get_bool(settings, "STATE_REDIS_PICKLE", False),
            retry_seconds=common.retry_seconds,
            close_seconds=common.close_seconds,
            interval_seconds=common.interval_seconds,
        )


def _url(settings: BaseSettings) -> str:
    url = get_text(settings, "STATE_REDIS_URL")
    if url.partition("://")[0] not in _SCHEMES:
        raise StateSettingsError(
            f"STATE_REDIS_URL is {redacted(url)!r}",
            remedy="it must be a URL like redis://host:6379/0 (or rediss://, unix://, redis+sentinel://, redis+cluster://)",
        )
    return url


def key_prefix(template: str, spider: Spider) -> str:
    """Return how a job's keys begin: STATE_REDIS_KEY filled with the spider's attributes, as a hash tag.

    :raises StateSettingsError: if it can't be filled, is empty, or contains braces
    """
    key = _filled("STATE_REDIS_KEY", template, spider)
    if not key or "{" in key or "}" in key:
        raise StateSettingsError(
            f"STATE_REDIS_KEY is {key!r}",
            remedy="it must not be empty, and must not contain braces: scrapy_state adds them",
        )
    return f"scrapy_state:{{{key}}}:"


def _filled(name: str, template: str, spider: Spider) -> str:
    try:
        return template % _Attributes(spider)
    except (AttributeError, TypeError, ValueError) as error:
        raise StateSettingsError(
            f"{name} is {template!r}, which can't be filled in with the spider's attributes: {error}",
            remedy="give the spider the argument (-a job=…), or use only %(name)s",
        ) from error


class _Attributes(dict[str, Any]):
    """An object's attributes for ``%``. Only those that the template names are read: a property might do something."""

    def __init__(self, whose: Any) -> None:
        super().__init__()
        self._whose = whose

    def __missing__(self, name: str) -> Any:
        return getattr(self._whose, name)


def check_dupefilter(dupefilter: Any, spider: Spider) -> None:
    """Warn if the filter is not Scrapy's own.

    :raises StateSettingsError: if it stores fingerprints: when a page is crawled again after a kill, its links would be dropped
    """
    cls = type(dupefilter)
    if cls in (RFPDupeFilter, BaseDupeFilter):
        return
    name = f"DUPEFILTER_CLASS is {global_object_name(cls)!r}"
    keeper = next((base for base in cls.__mro__ if _package(base) in _KEEPERS), None)
    client = next((each for each in getattr(dupefilter, "__dict__", {}).values() if _package(type(each)) in _CLIENTS), None)
    if keeper is not None or client is not None:
        raise StateSettingsError(
            f"{name}, which remembers what it has seen after the process has ended: if a worker is killed and its page is "
            "crawled again, this filter would drop the page's links",
            remedy="remove the setting: the frontier in Redis keeps the fingerprints together with the requests",
        )
    logger.warning(
        "%s: each worker filters by itself, and the frontier in Redis keeps no fingerprints. If this class remembers "
        "anything after the process has ended, pages are lost after a kill. Without the setting, Redis filters for all", name,
        extra={"spider": spider},
    )  # fmt: skip


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def redacted(url: str) -> str:
    """Return *url* without its password, for logs and errors."""
    url = re.sub(r"(://[^:/@?#]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"([?&](?:ssl_|sentinel_)?password=)[^&#]*", r"\1***", url)


def unusable(url: str) -> StateSettingsError:
    """Return the error for a *url* that redis-py can't read. redis-py's own message may contain a part of the password."""
    return StateSettingsError(
        f"STATE_REDIS_URL is {redacted(url)!r}, which redis-py can't use",
        remedy="check the port, the options, and whether special characters of the password are percent-encoded (# is %23, "
        "/ is %2F, ? is %3F, [ is %5B)",
    )


def _project(settings: BaseSettings, spider: Spider) -> str:
    """Return the project's name; without one the spider's top-level package."""
    name: str = settings["BOT_NAME"]
    return type(spider).__module__.partition(".")[0] if name == default_settings.BOT_NAME else name


def _idle_seconds(settings: BaseSettings) -> float:
    """Return STATE_REDIS_IDLE_TIMEOUT; infinity if it is not set."""
    if not get_text(settings, "STATE_REDIS_IDLE_TIMEOUT"):
        return math.inf
    return get_seconds(settings, "STATE_REDIS_IDLE_TIMEOUT", 0)
