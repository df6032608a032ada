"""The verb that looks at a frontier in Redis, and removes it."""

from __future__ import annotations

from argparse import Namespace

from scrapy.settings import Settings

from ..model.times import in_words
from ..redis.options import RedisSettings
from .state import NO, OK
from .target import find_crawler
from .terminal import confirm, out, out_json, say, table


def frontier(options: Namespace, settings: Settings) -> int:
    """Print what is pending, leased and seen; with ``--clear``, remove it."""
    from ..redis import clear_frontier, read_frontier  # says what to install where redis-py is missing

    crawler = find_crawler(options.target, settings, options.arguments)
    assert crawler.spider is not None
    chosen = RedisSettings.from_settings(crawler.settings, crawler.spider)
    found = read_frontier(chosen.url, chosen.prefix)
    if options.clear:
        if not confirm(
            f"Remove the frontier {chosen.prefix} ({found.pending:,} requests pending, {sum(found.leased.values()):,} leased, "
            f"{found.seen:,} seen)? Workers that are at it end with an error.",
            options.yes,
        ):
            return NO
        removed = clear_frontier(chosen.url, chosen.prefix)
        out_json({"keys_removed": removed}) if options.json else out(f"the frontier {chosen.prefix} is removed")
        return OK
    if options.json:
        out_json({"prefix": chosen.prefix, **vars(found)})
    elif found.pending or found.leased or found.seen:
        out(f"{chosen.prefix} {found.pending:,} requests pending, {sum(found.leased.values()):,} leased, {found.seen:,} seen")
        table(
            ["priority", ">pending"], [(str(priority), f"{count:,}") for priority, count in found.pending_by_priority.items()]
        )
        table(
            ["worker", ">leased", "lease"],
            [_worker(name, count, found.seconds_left[name]) for name, count in found.leased.items()],
        )
    if not (found.pending or found.leased or found.seen):
        say(f"there is no frontier {chosen.prefix}")
        return NO
    return OK


def _worker(name: str, leased: int, seconds_left: float) -> tuple[str, str, str]:
    lease = f"{in_words(seconds_left)} left" if seconds_left > 0 else f"ran out {in_words(-seconds_left)} ago"
    return name, f"{leased:,}", lease
