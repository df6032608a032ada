"""The verb frontier: the requests of a crawl, in its checkpoints or in Redis."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.settings import Settings

from ...exceptions import StateSettingsError
from ...frontier.codec import PUSHED, Codec, Unreadable, unpacked
from ...model.checkpoint import Checkpoint
from ...model.json_values import as_text
from ...model.requests import Requests
from ...model.times import in_words
from ...model.words import size
from ...redis.settings import RedisSettings
from ...report import FailedPage
from ..change import store_by_hand
from ..state import NO, OK
from ..target import Target, find_crawler, find_target, is_in_redis, names_spider, no_checkpoint, target_of
from ..terminal import confirm, out, out_json, say, table
from .kept_requests import (
    PendingPage,
    StoredCookie,
    cookies,
    counts,
    failed_and_held,
    failed_pages,
    pending_and_seen,
    pending_pages,
    with_requests,
)

_SHOWN_BYTES = 80
_PENDING_COLUMNS = ("method", "page", ">priority", "callback", "", ">deaths")
_FAILED_COLUMNS = ("reason", "", "page")
_COOKIE_COLUMNS = ("jar", "domain", "name", "path", "expires")
#: Options for one kind of frontier only
_FOR_CHECKPOINTS, _FOR_REDIS = ("pending", "failed", "cookies", "at"), ("unreadable", "fatal", "put_back")


def frontier(options: Namespace, settings: Settings) -> int:
    """Show the requests of a crawl, in its checkpoints or in Redis; or list, clear or put back some of them."""
    if not names_spider(options.target):
        return _in_checkpoints(options, find_target(options.target, settings, options.arguments))
    crawler = find_crawler(options.target, settings, options.arguments)
    if is_in_redis(crawler):
        _refuse(options, _FOR_CHECKPOINTS, "requests in checkpoints, but this spider has its frontier in Redis", "--fatal")
        return _in_redis(options, crawler)
    return _in_checkpoints(options, target_of(crawler))


def _refuse(options: Namespace, names: Iterable[str], why: str, instead: str) -> None:
    for name in names:
        if getattr(options, name):
            option = "--" + name.replace("_", "-")
            raise StateSettingsError(f"{option} is for {why}", remedy=f"see {instead}")


def _in_checkpoints(options: Namespace, target: Target) -> int:
    """Print what a checkpoint says about requests; or list pending or failed ones, or the cookies; or clear them."""
    _refuse(options, _FOR_REDIS, "a frontier in Redis, but this target has requests in its checkpoints", "--pending, --failed")
    if options.clear and options.at is not None:
        raise StateSettingsError("--clear is about the newest checkpoint", remedy="leave out --at")
    newest = target.resolution().checkpoint
    if newest is None:
        return no_checkpoint(target)
    checkpoint = with_requests(target, newest) if options.failed else newest
    if checkpoint is None or checkpoint.requests is None:
        over = f": crawl {newest.crawl} is over ({newest.reason})" if newest.is_over else ""
        say(f"checkpoint {newest.id} has no requests{over}")
        return NO
    if options.clear:
        return _clear(options, target, checkpoint, checkpoint.requests)
    if options.pending:
        return _list(_PENDING_COLUMNS, pending_pages(target, checkpoint), _pending_row, options.json, "no pending request")
    if options.failed:
        return _list(_FAILED_COLUMNS, failed_pages(target, checkpoint), _failed_row, options.json, "no failed page")
    if options.cookies:
        return _list(_COOKIE_COLUMNS, cookies(target, checkpoint), _cookie_row, options.json, "no cookie")
    _print_summary(target, checkpoint, checkpoint.requests, options.json)
    return OK


def _print_summary(target: Target, checkpoint: Checkpoint, requests: Requests, as_json: bool) -> None:
    found, uri = counts(requests), target.store.uri(target.template.key(checkpoint.id or 0))
    bytes = sum(segment.bytes for segment in requests.segments)
    if as_json:
        out_json({
            "checkpoint": checkpoint.id, "uri": uri, "crawl": checkpoint.crawl, **found,
            "start_state": requests.start_state, "segments": len(requests.segments), "bytes": bytes,
        })  # fmt: skip
        return
    out(f"{pending_and_seen(found)}, in checkpoint {checkpoint.id} ({uri}, crawl {checkpoint.crawl})")
    if requests.failed or requests.held:
        out(f"{failed_and_held(found)}: see --failed")
    began = requests.start_state
    out("start() had ended" if began is None else f"start() had not ended; it began with STATE {as_text(began)}")
    out(f"{len(requests.segments):,} segment{'' if len(requests.segments) == 1 else 's'}, {size(bytes)}")


def _list(
    columns: tuple[str, ...], found: Iterable[Any], row: Callable[[Any], tuple[str, ...]], as_json: bool, none: str
) -> int:
    """Print what was *found* as a table or as JSON, and return the exit code. *none*: what to say if nothing was found."""
    if as_json:
        listed = [each._asdict() for each in found]
        out_json(listed)
        return OK if listed else NO
    objects = iter(found)
    first = next(objects, None)
    if first is None:
        say(f"there is {none}")
        return NO
    table(columns, map(row, chain([first], objects)))
    return OK


def _pending_row(page: PendingPage) -> tuple[str, ...]:
    notes = ", ".join(word for word, applies in (("in flight", page.in_flight), ("held", page.held)) if applies)
    return page.method, page.url, str(page.priority), page.callback or "", notes, str(page.deaths or "")


def _failed_row(page: FailedPage) -> tuple[str, ...]:
    return page.reason, "held" if page.held else "skipped", page.url


def _cookie_row(cookie: StoredCookie) -> tuple[str, ...]:
    jar = "" if cookie.jar is None else as_text(cookie.jar)
    return jar, cookie.domain, cookie.name, cookie.path, cookie.expires or "with the session"


def _clear(options: Namespace, target: Target, checkpoint: Checkpoint, requests: Requests) -> int:
    """Store a checkpoint without requests: the next run calls start() from the same state."""
    what = f"Leave {pending_and_seen(counts(requests))}, behind?"
    if not confirm(f"{what} The next run calls start() from STATE {as_text(checkpoint.state)}.", options.yes):
        return NO
    return store_by_hand(target, checkpoint.state, options, "set", ends_crawl=True)


def _in_redis(options: Namespace, crawler: Crawler) -> int:
    from ...redis import clear_frontier, put_back, read_frontier  # if redis-py is missing, this says what to install

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
    from ...redis import read_set_aside

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
