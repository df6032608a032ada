"""The verbs that look at a crawl from outside while it runs: watch follows it, check says whether it is well."""

from __future__ import annotations

import time
from argparse import Namespace
from collections import deque
from collections.abc import Iterator
from itertools import islice

from scrapy.settings import Settings

from ..exceptions import CheckpointError, StoreUnreachable
from ..lineage.chain import ancestors, read_checkpoint
from ..lineage.resolve import resolve
from ..model.checkpoint import Checkpoint
from ..model.json_values import as_text
from ..model.times import in_words
from ..model.words import about
from .contents.kept_requests import with_requests
from .state import NO, OK
from .target import Target, find_target
from .terminal import age, live, out, out_json, out_json_line, say, seconds_since, totals_in_words

#: Rates cover the newest checkpoints: at most this many seconds, and at most this many checkpoints
_WINDOW_SECONDS, _WINDOW_CHECKPOINTS = 600, 200
#: A crawl is silent after this many seconds, and after this many times the usual time between two checkpoints
_SILENT_SECONDS, _TIMES_USUAL = 60, 5


def watch(options: Namespace, settings: Settings) -> int:
    """Print each new checkpoint (on a terminal: keep a few lines up to date) until the user interrupts."""
    target = find_target(options.target, settings, options.arguments)
    window: deque[Checkpoint] = deque(maxlen=_WINDOW_CHECKPOINTS)
    seen, said_nothing = 0, False
    with live() as draw:
        for checkpoint in _checkpoints(target, options.every, window):
            if checkpoint is not None:
                window.append(checkpoint)
                seen += 1
            if draw is not None:
                draw(_picture(window, target))
            elif checkpoint is not None:
                _line(window, options.json)
            elif not window and not said_nothing:
                said_nothing = True
                say(f"no checkpoint yet at {target.store.uri(target.template.prefix)}")
            if seen == options.n:
                break
    return OK


def _checkpoints(target: Target, every_seconds: float, window: deque[Checkpoint]) -> Iterator[Checkpoint | None]:
    """Yield the newest checkpoint, then each new one, and None whenever there is no new one. Puts older ones into *window*."""
    store, template, newest_id, newest = target.store, target.template, 0, None
    while True:
        try:
            if newest is None or not template.writable:
                resolution = resolve(store, template, target.spider)
                if resolution.checkpoint not in (None, newest):
                    if newest is None and resolution.checkpoint is not None:
                        before = list(islice(ancestors(store, template, resolution.checkpoint), 1, _WINDOW_CHECKPOINTS))
                        window.extend(older for older in reversed(before) if _is_recent(older))
                    newest, newest_id = resolution.checkpoint, resolution.newest_id
                    yield newest
                    continue
            elif (next_one := read_checkpoint(store, template, template.key(newest_id + 1))) is not None:
                newest, newest_id = next_one, newest_id + 1
                yield newest
                continue
        except CheckpointError as error:
            newest_id += 1
            say(f"warning: {store.uri(template.key(newest_id))} is skipped: {error}", "yellow")
        except StoreUnreachable as error:
            say(f"warning: {error}", "yellow")
        yield None
        time.sleep(every_seconds)


def _is_recent(checkpoint: Checkpoint) -> bool:
    seconds = seconds_since(checkpoint.time)
    return seconds is not None and seconds < _WINDOW_SECONDS


def _rates(window: deque[Checkpoint]) -> tuple[float, float]:
    """Return items and checkpoints per minute, over the last minutes of the crawl."""
    newest = window[-1]
    age_of_newest = seconds_since(newest.time) or 0
    recent = [checkpoint for checkpoint in window if (seconds_since(checkpoint.time) or 0) - age_of_newest < _WINDOW_SECONDS]
    minutes = ((seconds_since(recent[0].time) or 0) - age_of_newest) / 60
    if minutes <= 0:
        return 0, 0
    return (newest.items - recent[0].items) / minutes, (len(recent) - 1) / minutes


def _line(window: deque[Checkpoint], as_json: bool) -> None:
    newest, (items, checkpoints) = window[-1], _rates(window)
    if as_json:
        out_json_line(
            {
                **newest.to_json(),
                "age_seconds": seconds_since(newest.time),
                "items_per_minute": round(items, 2),
                "checkpoints_per_minute": round(checkpoints, 2),
            }
        )
    else:
        out(
            f"checkpoint {newest.id} ({age(newest.time)}): STATE {as_text(newest.state)}, items: {newest.items:,}, "
            f"{about(items)} items/min, {about(checkpoints)} checkpoints/min{_requests(newest, ', ')}{_units(newest, ', ')}"
            f"{_totals(newest, ', ')}{_reason(newest)}"
        )


def _picture(window: deque[Checkpoint], target: Target) -> str:
    if not window:
        return f"no checkpoint yet at {target.store.uri(target.template.prefix)}"
    newest, (items, checkpoints) = window[-1], _rates(window)
    silent = _silence(window, checkpoints)
    rate = "" if silent else f", about {about(items)} a minute"
    often = "" if silent else f", about {about(checkpoints)} a minute"
    return (
        f"STATE       {as_text(newest.state)}\n"
        f"items       {newest.items:,}{rate}\n"
        f"{_requests(newest, 'requests    ', chr(10))}"
        f"{_units(newest, 'units       ', chr(10))}"
        f"{_totals(newest, 'in all      ', chr(10))}"
        f"checkpoint  {newest.id}{often}, stored {age(newest.time) or 'at an unknown time'}{_reason(newest)}{silent}\n"
        f"run         {newest.run or 'not known'}{f', job {newest.job}' if newest.job else ''}"
        f"{'' if newest.requests is None else f', crawl {newest.crawl}'}"
    )


def _requests(checkpoint: Checkpoint, before: str, after: str = "") -> str:
    """Return what *checkpoint* says about requests, between *before* and *after*; nothing if it has none."""
    requests = checkpoint.requests
    if requests is None:
        return ""
    failed = requests.failed + requests.held
    return f"{before}{requests.pending:,} pending, {requests.seen:,} seen{f', {failed:,} failed' if failed else ''}{after}"


def _units(checkpoint: Checkpoint, before: str, after: str = "") -> str:
    """Return how many units are done beyond the state, and how many are missing; nothing if there are none."""
    if not (checkpoint.ahead or checkpoint.missing_units):
        return ""
    return f"{before}{len(checkpoint.ahead):,} units done beyond the state, {checkpoint.missing_units:,} missing{after}"


def _totals(checkpoint: Checkpoint, before: str, after: str = "") -> str:
    """Return the totals along the lineage; nothing if they are not known."""
    return "" if checkpoint.totals is None else f"{before}{totals_in_words(checkpoint.totals)}{after}"


def _silence(window: deque[Checkpoint], checkpoints_per_minute: float) -> str:
    """Return how long nothing has been stored, if that is longer than usual or the run has ended: then rates mean nothing."""
    newest, seconds = window[-1], seconds_since(window[-1].time)
    if newest.reason not in (None, "opened") or seconds is None:
        return " " if newest.reason not in (None, "opened") else ""
    usual = 60 / checkpoints_per_minute if checkpoints_per_minute else _SILENT_SECONDS / _TIMES_USUAL
    if seconds < max(_TIMES_USUAL * usual, _SILENT_SECONDS):
        return ""
    return f". Nothing for {in_words(seconds)}: killed or stuck"


def _reason(checkpoint: Checkpoint) -> str:
    return f", {checkpoint.reason}" if checkpoint.reason else ""


def check(options: Namespace, settings: Settings) -> int:
    """Print one line about the newest checkpoint. The exit code says whether it is recent enough, and little has failed."""
    target = find_target(options.target, settings, options.arguments)
    newest = target.resolution().checkpoint
    if newest is None:
        where = f"no checkpoint at {target.store.uri(target.template.prefix)}"
        out_json({"ok": False, "problems": [where]}) if options.json else out(f"not ok: {where}")
        return NO
    failed = _failed(target, newest)
    problems = list(_problems(newest, failed, options.max_age, options.max_failed))
    if options.json:
        out_json({
            "ok": not problems, "problems": problems, "checkpoint": newest.id, "age_seconds": seconds_since(newest.time),
            "items": newest.items, "failed": failed, "reason": newest.reason,
        })  # fmt: skip
    else:
        stored = f"checkpoint {newest.id} ({age(newest.time) or 'of unknown age'}), {newest.items:,} items, {failed:,} failed"
        reason = f", {newest.reason}" if newest.reason else ""
        out(f"{'not ok: ' + '; '.join(problems) if problems else 'ok'}: {stored}{reason}")
    return NO if problems else OK


def _failed(target: Target, newest: Checkpoint) -> int:
    """Return how many pages and items have failed, and how many units are missing because they have."""
    failed = newest.errors + sum(unit.get("reason") is not None for unit in newest.missing) + len(newest.skipped_units)
    checkpoint = with_requests(target, newest)
    requests = None if checkpoint is None else checkpoint.requests
    return failed if requests is None else failed + requests.failed + requests.held


def _problems(newest: Checkpoint, failed: int, max_age_seconds: float, max_failed: int | None) -> Iterator[str]:
    seconds = seconds_since(newest.time)
    if seconds is None:
        yield "its age is unknown"
    elif seconds > max_age_seconds:
        yield f"no checkpoint for {in_words(seconds)}, and --max-age is {in_words(max_age_seconds)}"
    if max_failed is not None and failed > max_failed:
        yield f"{failed:,} failed, and --max-failed is {max_failed:,}"
    if newest.reason is not None and newest.reason.startswith("state_"):
        yield f"the last run failed ({newest.reason})"
