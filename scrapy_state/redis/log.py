"""The log lines and stats of a frontier in Redis."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from scrapy import signals

from ..exceptions import StoreError

if TYPE_CHECKING:
    from scrapy import Request, Spider
    from scrapy.crawler import Crawler

    from .frontier import NewRequest, Reply
    from .settings import RedisSettings

logger = logging.getLogger("scrapy_state.state")


def log_opened(settings: RedisSettings, reply: Reply, seen: int, worker: str, spider: Any) -> None:
    """Log what is in the frontier at the start, and warn if nothing in it is left to crawl."""
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


def count_reply(reply: Reply, stats: Any, spider: Spider) -> None:
    """Count an exchange, and log what is unusual in its reply."""
    stats.inc_value("state/redis/exchanges")
    for name in ("refused", "come_back", "lost", "vanished"):
        if getattr(reply, name):
            stats.inc_value(f"state/redis/{name}", int(getattr(reply, name)))
    if reply.come_back:
        logger.info("%s leases of a dead worker were returned to the queue", reply.come_back, extra={"spider": spider})
    if reply.refused:
        logger.warning(
            "%s acknowledgements came too late: another worker had already finished these pages", reply.refused,
            extra={"spider": spider},
        )  # fmt: skip


def count_sent(reply: Reply, sent: Sequence[NewRequest], crawler: Crawler, dupefilter: Any) -> None:
    """Count the requests that an exchange has *sent*, and send ``request_dropped`` for the duplicates."""
    for new, is_duplicate in zip(sent, reply.duplicates, strict=True):
        if is_duplicate:
            dupefilter.log(new.origin, crawler.spider)
            crawler.signals.send_catch_log(signals.request_dropped, request=new.origin, spider=crawler.spider)
        else:
            crawler.stats.inc_value("scheduler/enqueued/redis")
            crawler.stats.inc_value("scheduler/enqueued")


def log_lost(lease_seconds: float, spider: Spider) -> None:
    """Log that other workers have this worker's leases now."""
    logger.warning(
        "this worker was away for more than STATE_REDIS_LEASE_TIMEOUT (%g s), so other workers have its requests; some "
        "are crawled twice. Whichever worker finishes a page first counts", lease_seconds, extra={"spider": spider},
    )  # fmt: skip


def count_fatal(pages: Iterable[str], deliveries: int, stats: Any, spider: Spider) -> None:
    """Count the pages that are set aside, and log for each that it may have killed its workers."""
    for page in pages:
        stats.inc_value("state/redis/fatal")
        logger.error(
            "%s is set aside: %s workers died while they had it, so it may have killed them (memory?). scrapy state frontier "
            "%s --fatal shows such pages, and --put-back puts them back into the queue", page, deliveries, spider.name,
            extra={"spider": spider},
        )  # fmt: skip


def log_fatal_count(count: int, spider: Spider) -> None:
    """Log at the end how many pages are set aside, by this run or an earlier one."""
    if count:
        logger.error(
            "%s pages were not crawled, because their workers died each time: see scrapy state frontier %s --fatal", count,
            spider.name, extra={"spider": spider},
        )  # fmt: skip


def log_waiting(count: int, spider: Spider) -> None:
    """Log that this worker has nothing left to crawl, but waits for other workers."""
    logger.info(
        "nothing is left to crawl; this worker waits until others have made the items of %s pages durable. If they die, "
        "it crawls these again", count, extra={"spider": spider},
    )  # fmt: skip


def log_vanished(count: int, spider: Spider) -> None:
    """Log that requests have vanished from Redis."""
    logger.error("the crawl ends: %s", vanished_error(count, spider), extra={"spider": spider})


def vanished_error(count: int, spider: Any) -> StoreError:
    """Return the error for *count* requests that have vanished."""
    return StoreError(
        f"{count} requests have vanished from Redis: somebody removed keys of the frontier, or Redis evicted them",
        remedy="if you start again, the crawl continues without them; to crawl them, remove the frontier (scrapy state "
        f"frontier {spider.name} --clear) and start from the beginning",
    )


def log_end(error: Exception, lease_seconds: float, spider: Spider) -> None:
    """Log that the crawl ends because of *error*."""
    logger.error(
        "the crawl ends, because it can't use its frontier any more: %s. This worker's leases expire after "
        "STATE_REDIS_LEASE_TIMEOUT (%g s)", error, lease_seconds, extra={"spider": spider},
    )  # fmt: skip


def log_unserializable(request: Request, error: ValueError, spider: Spider) -> None:
    """Log once that a request stays in memory."""
    logger.warning(
        "%s can't be stored (%s), so it stays in this worker's memory. The page that yielded it is done only when this "
        "request is: if this worker dies, that page is crawled again. Further ones are only counted", request, error,
        extra={"spider": spider},
    )  # fmt: skip


def log_unstored_count(count: int, lost: int, spider: Spider) -> None:
    """Log at the end how many requests stayed in memory, and how many of them were lost."""
    if count:
        logger.warning(
            "%s requests could not be stored and stayed in this worker's memory; %s of them are not done, so the pages that "
            "yielded them are crawled again", count, lost, extra={"spider": spider},
        )  # fmt: skip


def log_unreadable(error: Exception, spider: Spider) -> None:
    """Log once that something leased can't be read as a request."""
    logger.error(
        "a request in the frontier can't be read, and is set aside: %s. Further ones are only counted", error,
        extra={"spider": spider},
    )  # fmt: skip


def log_unreadable_count(count: int, spider: Spider) -> None:
    """Log at the end how many entries could not be read."""
    if count:
        logger.error(
            "%s requests in the frontier could not be read and are set aside: see scrapy state frontier %s --unreadable. Each "
            "run tries them again", count, spider.name, extra={"spider": spider},
        )  # fmt: skip


def log_idle(seconds: float, spider: Any) -> None:
    """Log that the crawl ends because nobody pushed anything."""
    logger.info("nothing was pushed for STATE_REDIS_IDLE_TIMEOUT (%g s): the crawl ends", seconds, extra={"spider": spider})


def log_pushed_type(key: str, found: str, spider: Spider) -> None:
    """Log that the key for pushed URLs has a type that can't be read."""
    logger.error(
        "the key %s is a %s, so nothing in it is crawled: remove it, and push to a list, a set or a sorted set",
        key, found, extra={"spider": spider},
    )  # fmt: skip


def warn_about_feeds(spider: Spider) -> None:
    """Warn that requests are acknowledged before a feed has stored their items."""
    logger.warning(
        "FEEDS: no feed takes part in checkpoints (or scrapy_state's add-on is not in ADDONS), so requests are "
        "acknowledged before the feeds have stored their items. If the process is killed, these items are lost",
        extra={"spider": spider},
    )  # fmt: skip
