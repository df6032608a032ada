"""What the log and the stats say of a frontier."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from scrapy import Request, Spider

from .frontier import Reply

logger = logging.getLogger("scrapy_state.state")


def tell_reply(reply: Reply, stats: Any, spider: Spider) -> None:
    """Count an exchange, and say what in its reply is out of the ordinary."""
    stats.inc_value("state/redis/exchanges")
    for name in ("refused", "come_back", "lost", "vanished"):
        if getattr(reply, name):
            stats.inc_value(f"state/redis/{name}", int(getattr(reply, name)))
    if reply.come_back:
        logger.info("%s leases of a worker that is gone came back", reply.come_back, extra={"spider": spider})
    if reply.refused:
        logger.warning(
            "%s acknowledgements came too late: another worker has finished these pages too", reply.refused,
            extra={"spider": spider},
        )  # fmt: skip


def tell_lost(lease_seconds: float, spider: Spider) -> None:
    """Say that this worker's leases were given to others."""
    logger.warning(
        "this worker was away for more than STATE_REDIS_LEASE_TIMEOUT (%g s), and its requests were given to others; some are "
        "crawled twice. What it finishes before they do counts", lease_seconds, extra={"spider": spider},
    )  # fmt: skip


def tell_fatal(pages: Iterable[str], deliveries: int, stats: Any, spider: Spider) -> None:
    """Count the pages that are set aside, and say of each that it may have killed its workers."""
    for page in pages:
        stats.inc_value("state/redis/fatal")
        logger.error(
            "%s is set aside: %s workers died while they had it, so it may have killed them (memory?). scrapy state frontier "
            "%s --fatal shows such pages, and --put-back has them crawled again", page, deliveries, spider.name,
            extra={"spider": spider},
        )  # fmt: skip


def tell_all_fatal(count: int, spider: Spider) -> None:
    """Say at the end how many pages were not crawled, by whichever run they were set aside."""
    if count:
        logger.error(
            "%s pages were not crawled, because their workers died each time: see scrapy state frontier %s --fatal", count,
            spider.name, extra={"spider": spider},
        )  # fmt: skip


def tell_waiting(count: int, spider: Spider) -> None:
    """Say that this worker could end but for others."""
    logger.info(
        "nothing is left to crawl; this worker waits until others have made the items of %s pages durable. If they die it "
        "crawls these again", count, extra={"spider": spider},
    )  # fmt: skip


def tell_vanished(count: int, spider: Spider) -> None:
    """Say that requests are gone."""
    logger.error(
        "the crawl ends: %s requests have vanished from Redis, so somebody has removed keys of the frontier, or Redis has "
        "evicted them. Started again it goes on without them. To crawl them, remove the frontier (scrapy state frontier %s "
        "--clear) and start from the beginning", count, spider.name, extra={"spider": spider},
    )  # fmt: skip


def tell_failed(error: Exception, lease_seconds: float, spider: Spider) -> None:
    """Say that the crawl ends because of *error*."""
    logger.error(
        "the crawl ends, because its frontier does: %s. What this worker had leased comes back after "
        "STATE_REDIS_LEASE_TIMEOUT (%g s)", error, lease_seconds, extra={"spider": spider},
    )  # fmt: skip


def tell_unserializable(request: Request, error: ValueError, spider: Spider) -> None:
    """Say once that a request stays in memory, as Scrapy's scheduler does."""
    logger.warning(
        "Unable to serialize request: %s - reason: %s. It stays in this worker's memory, and is lost if that dies. "
        "No more of them are logged, they are counted", request, error, extra={"spider": spider},
    )  # fmt: skip


def tell_unreadable(error: ValueError, stats: Any, spider: Spider) -> None:
    """Count and say that what was leased is no request."""
    stats.inc_value("state/redis/unreadable")
    logger.error("a request can't be read, it stays in the frontier: %s", error, extra={"spider": spider})


def tell_feeds(spider: Spider) -> None:
    """Say that requests are acknowledged before a feed holds their items."""
    logger.warning(
        "FEEDS: no feed takes part in checkpoints (or scrapy_state's add-on is not in ADDONS), so requests are "
        "acknowledged before the feeds hold their items: these are lost when the process is killed",
        extra={"spider": spider},
    )  # fmt: skip
