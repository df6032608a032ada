"""The verb frontier: look at the frontier in Redis, or remove it."""

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
    from ..redis import clear_frontier, read_frontier  # if redis-py is missing, this says what to install

    crawler = find_crawler(options.target, settings, options.arguments)
    assert crawler.spider is not None
    chosen = RedisSettings.from_settings(crawler.settings, crawler.spider)
    contents = read_frontier(chosen.url, chosen.prefix)
    leased = sum(contents.leased.values())
    counts = f"{contents.pending:,} requests pending, {leased:,} leased, {contents.seen:,} seen"
    if options.clear:
        question = f"Remove the frontier {chosen.prefix} ({counts})? Workers that use it will stop with an error."
        if not confirm(question, options.yes):
            return NO
        removed = clear_frontier(chosen.url, chosen.prefix)
        out_json({"keys_removed": removed}) if options.json else out(f"removed the frontier {chosen.prefix}")
        return OK
    if options.json:
        out_json({"prefix": chosen.prefix, **vars(contents)})
    elif contents.pending or leased or contents.seen:
        out(f"{chosen.prefix} {counts}")
        table(
            ["priority", ">pending"],
            [(str(priority), f"{count:,}") for priority, count in contents.pending_by_priority.items()],
        )
        table(
            ["worker", ">leased", "lease"],
            [_worker_row(name, count, contents.seconds_left[name]) for name, count in contents.leased.items()],
        )
    if not (contents.pending or leased or contents.seen):
        say(f"there is no frontier {chosen.prefix}")
        return NO
    return OK


def _worker_row(name: str, leased: int, seconds_left: float) -> tuple[str, str, str]:
    lease = f"{in_words(seconds_left)} left" if seconds_left > 0 else f"expired {in_words(-seconds_left)} ago"
    return name, f"{leased:,}", lease
