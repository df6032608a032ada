"""The verb that looks at a frontier in Redis, and removes it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from scrapy.settings import Settings

from ..durations import in_words
from ..redis.codec import Codec, Unreadable
from ..redis.options import RedisSettings
from .output import confirm, out, out_json, say, table
from .state import NO, OK
from .target import find_crawler

if TYPE_CHECKING:
    from ..redis import FatalPage


def frontier(options: Namespace, settings: Settings) -> int:
    """Print what is pending, leased and seen; with ``--clear``, remove it; ``--fatal`` and ``--put-back``: pages set aside."""
    # These say what to install where redis-py is missing.
    from ..redis import clear_frontier, put_back_fatal, read_fatal, read_frontier

    crawler = find_crawler(options.target, settings, options.arguments)
    assert crawler.spider is not None
    chosen = RedisSettings.from_settings(crawler.settings, crawler.spider)
    if options.put_back:
        count = put_back_fatal(chosen.url, chosen.prefix)
        out_json({"pages_put_back": count}) if options.json else out(f"{count:,} pages are put back, and will be crawled again")
        return OK if count else NO
    if options.fatal:
        return _fatal(read_fatal(chosen.url, chosen.prefix), Codec(crawler.spider, chosen.use_pickle), options)
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
        if found.fatal:
            out(f"{found.fatal:,} set aside, because their workers died: see --fatal")
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


def _fatal(pages: list[FatalPage], codec: Codec, options: Namespace) -> int:
    rows = [(_request(codec, page.data), page.deliveries) for page in pages]
    if options.json:
        out_json([{"request": request, "deliveries": deliveries} for request, deliveries in rows])
    else:
        table(["request", ">workers died"], [(request, f"{deliveries:,}") for request, deliveries in rows])
    return OK if pages else NO


def _request(codec: Codec, data: bytes) -> str:
    try:
        return str(codec.decode(data))
    except Unreadable as error:
        return f"a request that can't be read ({error})"


def _worker(name: str, leased: int, seconds_left: float) -> tuple[str, str, str]:
    lease = f"{in_words(seconds_left)} left" if seconds_left > 0 else f"ran out {in_words(-seconds_left)} ago"
    return name, f"{leased:,}", lease
