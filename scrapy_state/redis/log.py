"""What the log and the stats say of a frontier."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from scrapy import signals

if TYPE_CHECKING:
    from scrapy import Request, Spider
    from scrapy.crawler import Crawler

    from .frontier import NewRequest, Reply
    from .settings import RedisSettings

logger = logging.getLogger("scrapy_state.state")


def tell_opened(settings: RedisSettings, reply: Reply, seen: int, worker: str, spider: Any) -> None:
    """Say what there is at the start; and why nothing may come of it."""
    logger.info(
        "The frontier %s: %s requests pending, %s requests seen by earlier runs, other workers: %s (this one: %s)",
        settings.prefix, reply.pending, seen, reply.others, worker, extra={"spider": spider},
    )  # fmt: skip
    if seen and not (reply.pending or reply.others or settings.keep_open):
        logger.warning(
            "the crawl of this frontier is finished: nothing is pending, and %s requests were seen by earlier runs. "
            'To crawl these again, set STATE_REDIS_CLEAR to "start" or "finished", or run scrapy state frontier %s --clear',
            seen, spider.name, extra={"spider": spider},
        )  # fmt: skip


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


def tell_sent(reply: Reply, sent: Sequence[NewRequest], crawler: Crawler, dupefilter: Any) -> None:
    """Count the requests that an exchange has *sent*, and tell Scrapy which of them were duplicates."""
    for new, is_duplicate in zip(sent, reply.duplicates, strict=True):
        if is_duplicate:
            dupefilter.log(new.origin, crawler.spider)
            crawler.signals.send_catch_log(signals.request_dropped, request=new.origin, spider=crawler.spider)
        else:
            crawler.stats.inc_value("scheduler/enqueued/redis")
            crawler.stats.inc_value("scheduler/enqueued")


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
    logger.error("the crawl ends: %s", vanished(count, spider), extra={"spider": spider})


def vanished(count: int, spider: Any) -> str:
    """Return what there is to say of *count* requests that are gone."""
    return (
        f"{count} requests have vanished from Redis, so somebody has removed keys of the frontier, or Redis has evicted them. "
        "Started again it goes on without them. To crawl them, remove the frontier (scrapy state frontier "
        f"{spider.name} --clear) and start from the beginning"
    )


def tell_failed(error: Exception, lease_seconds: float, spider: Spider) -> None:
    """Say that the crawl ends because of *error*."""
    logger.error(
        "the crawl ends, because its frontier does: %s. What this worker had leased comes back after "
        "STATE_REDIS_LEASE_TIMEOUT (%g s)", error, lease_seconds, extra={"spider": spider},
    )  # fmt: skip


def tell_unserializable(request: Request, error: ValueError, spider: Spider) -> None:
    """Say once that a request stays in memory."""
    logger.warning(
        "%s can't be stored (%s), so it stays in this worker's memory. The page that it comes from is not done before it is: "
        "if this worker dies, that page is crawled again. Further ones are only counted", request, error,
        extra={"spider": spider},
    )  # fmt: skip


def tell_unstored(count: int, lost: int, spider: Spider) -> None:
    """Say at the end how many requests stayed in memory, and how many of them are gone."""
    if count:
        logger.warning(
            "%s requests could not be stored and stayed in this worker's memory; %s of them are not done, so the pages that "
            "they come from are crawled again", count, lost, extra={"spider": spider},
        )  # fmt: skip


def tell_unreadable(error: Exception, spider: Spider) -> None:
    """Say once that what was leased is no request."""
    logger.error(
        "a request in the frontier can't be read, and is set aside: %s. Further ones are only counted", error,
        extra={"spider": spider},
    )  # fmt: skip


def tell_set_aside(count: int, spider: Spider) -> None:
    """Say at the end how many entries could not be read."""
    if count:
        logger.error(
            "%s requests in the frontier could not be read and are set aside: see scrapy state frontier %s --unreadable. Each "
            "run tries them again", count, spider.name, extra={"spider": spider},
        )  # fmt: skip


def tell_idle(seconds: float, spider: Any) -> None:
    """Say that the crawl ends because nothing was pushed."""
    logger.info("nothing was pushed for STATE_REDIS_IDLE_TIMEOUT (%g s): the crawl ends", seconds, extra={"spider": spider})


def tell_pushed_type(key: str, found: str, spider: Spider) -> None:
    """Say once that nothing can be read where others push."""
    logger.error(
        "the key %s is a %s, so nothing that is pushed there is crawled: remove it, and push to a list, a set or a sorted set",
        key, found, extra={"spider": spider},
    )  # fmt: skip


def tell_feeds(spider: Spider) -> None:
    """Say that requests are acknowledged before a feed holds their items."""
    logger.warning(
        "FEEDS: no feed takes part in checkpoints (or scrapy_state's add-on is not in ADDONS), so requests are "
        "acknowledged before the feeds hold their items: these are lost when the process is killed",
        extra={"spider": spider},
    )  # fmt: skip
