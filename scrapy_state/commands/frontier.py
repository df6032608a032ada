"""The verb that looks at a frontier in Redis, and removes it."""

from __future__ import annotations

import json
from argparse import Namespace

from scrapy import Spider
from scrapy.settings import Settings

from ..durations import in_words
from ..redis.codec import PUSHED, Codec, Unreadable, unpacked
from ..redis.options import RedisSettings
from .output import confirm, out, out_json, say, table
from .state import NO, OK
from .target import find_crawler

_SHOWN_BYTES = 80


def frontier(options: Namespace, settings: Settings) -> int:
    """Print what is pending, leased and seen; with ``--clear``, remove it; with ``--unreadable``, list what can't be read."""
    from ..redis import clear_frontier, read_frontier  # says what to install where redis-py is missing

    crawler = find_crawler(options.target, settings, options.arguments)
    assert crawler.spider is not None
    chosen = RedisSettings.from_settings(crawler.settings, crawler.spider)
    if options.unreadable:
        return _unreadable(chosen, crawler.spider, options.json)
    found = read_frontier(chosen.url, chosen.prefix, chosen.pushed_key)
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
    elif found.pending or found.leased or found.seen or found.unreadable:
        out(f"{chosen.prefix} {found.pending:,} requests pending, {sum(found.leased.values()):,} leased, {found.seen:,} seen")
        if found.unreadable:
            out(f"{found.unreadable:,} requests could not be read; --unreadable lists them")
        table(
            ["priority", ">pending"], [(str(priority), f"{count:,}") for priority, count in found.pending_by_priority.items()]
        )
        table(
            ["worker", ">leased", "lease"],
            [_worker(name, count, found.seconds_left[name]) for name, count in found.leased.items()],
        )
    if not (found.pending or found.leased or found.seen or found.unreadable):
        say(f"there is no frontier {chosen.prefix}")
        return NO
    return OK


def _unreadable(chosen: RedisSettings, spider: Spider, as_json: bool) -> int:
    from ..redis.report import read_unreadable

    codec = Codec(spider)
    rows = [(_why(codec, data), _shown(data)) for data in read_unreadable(chosen.url, chosen.prefix)]
    if as_json:
        out_json([{"reason": reason, "request": request} for reason, request in rows])
    elif rows:
        table(["reason", "request"], rows)
    else:
        say(f"there is nothing in the frontier {chosen.prefix} that can't be read")
    return OK


def _why(codec: Codec, data: bytes) -> str:
    try:
        codec.decode_pushed(data[1:]) if data[:1] == PUSHED else codec.decode(data)
    except Unreadable as error:
        return str(error)
    return "it can be read now; the next run tries it again"


def _shown(data: bytes) -> str:
    """Return the URL; of what was pushed and has none, how it begins. No headers, no cookies."""
    is_pushed = data[:1] == PUSHED
    try:
        return str(json.loads(data[1:] if is_pushed else unpacked(data))["url"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return repr(data[1:_SHOWN_BYTES].decode(errors="replace")) if is_pushed else f"{len(data):,} bytes"


def _worker(name: str, leased: int, seconds_left: float) -> tuple[str, str, str]:
    lease = f"{in_words(seconds_left)} left" if seconds_left > 0 else f"ran out {in_words(-seconds_left)} ago"
    return name, f"{leased:,}", lease
