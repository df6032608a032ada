"""The verb that looks at a frontier in Redis, and removes it."""

from __future__ import annotations

import json
from argparse import Namespace

from scrapy import Spider
from scrapy.settings import Settings

from ..frontier.codec import PUSHED, Codec, Unreadable, unpacked
from ..model.times import in_words
from ..redis.settings import RedisSettings
from .state import NO, OK
from .target import find_crawler
from .terminal import confirm, out, out_json, say, table

_SHOWN_BYTES = 80


def frontier(options: Namespace, settings: Settings) -> int:
    """Print what is pending, leased, seen and set aside; or remove it, list what is set aside, put that back."""
    from ..redis import clear_frontier, put_back, read_frontier  # if redis-py is missing, this says what to install

    crawler = find_crawler(options.target, settings, options.arguments)
    assert crawler.spider is not None
    chosen = RedisSettings.from_crawler(crawler)
    if options.unreadable or options.fatal:
        return _set_aside(chosen, crawler.spider, "unreadable" if options.unreadable else "fatal", options.json)
    if options.put_back:
        count = put_back(chosen.url, chosen.prefix)
        out_json({"put_back": count}) if options.json else out(f"put {count:,} requests back; they will be crawled again")
        return OK if count else NO
    found = read_frontier(chosen.url, chosen.prefix, chosen.pushed_key)
    if options.clear:
        if not confirm(
            f"Remove the frontier {chosen.prefix} ({found.pending:,} requests pending, {sum(found.leased.values()):,} leased, "
            f"{found.seen:,} seen)? Workers that use it will stop with an error.",
            options.yes,
        ):
            return NO
        removed = clear_frontier(chosen.url, chosen.prefix)
        out_json({"keys_removed": removed}) if options.json else out(f"removed the frontier {chosen.prefix}")
        return OK
    exists = bool(found.pending or found.leased or found.seen or found.unreadable or found.fatal)
    if options.json:
        out_json({"prefix": chosen.prefix, **vars(found)})
    elif exists:
        out(f"{chosen.prefix} {found.pending:,} requests pending, {sum(found.leased.values()):,} leased, {found.seen:,} seen")
        if found.unreadable:
            out(f"{found.unreadable:,} requests are set aside because they can't be read: see --unreadable, --put-back")
        if found.fatal:
            out(f"{found.fatal:,} requests are set aside because their workers died: see --fatal, --put-back")
        table(
            ["priority", ">pending"], [(str(priority), f"{count:,}") for priority, count in found.pending_by_priority.items()]
        )
        table(
            ["worker", ">leased", "lease"],
            [_worker(name, count, found.seconds_left[name]) for name, count in found.leased.items()],
        )
    if not exists:
        say(f"there is no frontier {chosen.prefix}")
        return NO
    return OK


def _set_aside(chosen: RedisSettings, spider: Spider, which: str, as_json: bool) -> int:
    from ..redis import read_set_aside

    codec, rows = Codec(spider, chosen.use_pickle), []
    for each in read_set_aside(chosen.url, chosen.prefix, which):
        url, unreadable = _read(codec, each.data)
        if which == "fatal":
            reason = f"{each.deliveries:,} workers died while they had it"
        else:
            reason = unreadable or "it can be read now; the next run tries it again"
        rows.append((reason, url))
    if as_json:
        out_json([{"reason": reason, "request": url} for reason, url in rows])
    elif rows:
        table(["reason", "request"], rows)
    else:
        say(f"the frontier {chosen.prefix} has no {which} requests")
    return OK if rows else NO


def _read(codec: Codec, data: bytes) -> tuple[str, str]:
    """Return the URL, and why this is no request; of what was pushed and has no URL, how it begins. No headers, no cookies."""
    try:
        return codec.decode_any(data).url, ""
    except Unreadable as error:
        reason = str(error)
    is_pushed = data[:1] == PUSHED
    try:
        return str(json.loads(data[1:] if is_pushed else unpacked(data))["url"]), reason
    except (ValueError, TypeError, LookupError, RecursionError):
        shown = repr(data[1:_SHOWN_BYTES].decode(errors="replace")) if is_pushed else f"{len(data):,} bytes"
        return shown, reason


def _worker(name: str, leased: int, seconds_left: float) -> tuple[str, str, str]:
    lease = f"{in_words(seconds_left)} left" if seconds_left > 0 else f"expired {in_words(-seconds_left)} ago"
    return name, f"{leased:,}", lease
