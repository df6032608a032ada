"""The verb watch: follow what a crawl stores, wherever it runs."""

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
from .state import OK
from .target import Target, find_target
from .terminal import age, live, out, out_json_line, say, seconds_since

#: Rates cover the newest checkpoints: at most this many seconds, and at most this many checkpoints
_WINDOW_SECONDS, _WINDOW_CHECKPOINTS = 600, 200


def watch(options: Namespace, settings: Settings) -> int:
    """Print each new checkpoint (on a terminal: keep a few lines up to date) until the user interrupts."""
    target = find_target(options.target, settings, options.arguments)
    window: deque[Checkpoint] = deque(maxlen=_WINDOW_CHECKPOINTS)
    seen = 0
    with live() as draw:
        for checkpoint in _checkpoints(target, options.every, window):
            if checkpoint is not None:
                window.append(checkpoint)
                seen += 1
            if draw is not None:
                draw(_picture(window))
            elif checkpoint is not None:
                _line(window, options.json)
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
            f"{items:.0f} items/min, {checkpoints:.1f} checkpoints/min{_requests(newest, ', ')}{_reason(newest)}"
        )


def _picture(window: deque[Checkpoint]) -> str:
    if not window:
        return "no checkpoint yet"
    newest, (items, checkpoints) = window[-1], _rates(window)
    old = seconds_since(newest.time)
    return (
        f"STATE       {as_text(newest.state)}\n"
        f"items       {newest.items:,}, {items:.0f} a minute\n"
        f"{_requests(newest, 'requests    ', chr(10))}"
        f"checkpoint  {newest.id}, {checkpoints:.1f} a minute, the newest {'' if old is None else in_words(old)} old"
        f"{_reason(newest)}\n"
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


def _reason(checkpoint: Checkpoint) -> str:
    return f", {checkpoint.reason}" if checkpoint.reason else ""
