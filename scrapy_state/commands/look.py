"""The verbs that show states and checkpoints: show, get, from-log, log."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from itertools import islice
from tempfile import TemporaryFile
from typing import Any

from scrapy.settings import Settings

from ..dataset.decode import decompressed
from ..exceptions import StateSettingsError
from ..extension import SpiderSettingsState, StateResolver
from ..lineage.history import Run, StateFile, newest_first, runs, tree
from ..lineage.resolve import Resolution
from ..model.checkpoint import Checkpoint
from ..model.json_values import as_text
from ..model.requests import Requests
from ..resume.sources import last_state, state_in_log
from ..stores import open_reader
from ..stores.retry import in_thread
from ..units.watermark import what_is_missing
from .contents.kept_requests import in_words, next_run, run_json
from .state import NO, OK
from .target import Target, find_target, is_in_redis, no_checkpoint
from .terminal import out, out_json, out_json_list, progress, say, seconds_since, stepping, table, totals_in_words


def show(options: Namespace, settings: Settings) -> int:
    """Print what a run started now would resume from, and why."""
    target = find_target(options.target, settings, options.arguments)
    resolver, resolution = _resolved(target)
    checkpoint = resolution.checkpoint
    following = None if checkpoint is None else next_run(resolver, checkpoint)
    if options.json:
        out_json({
            "state": resolver.state,
            "origin": resolver.origin,
            "uri": resolution.uri,
            "checkpoint": None if checkpoint is None else checkpoint.to_json(),
            "age_seconds": None if checkpoint is None else seconds_since(checkpoint.time),
            "next_run": following,
            "passed_over": [{"uri": uri, "why": why} for uri, why in resolution.skipped],
        })  # fmt: skip
    elif target.spider is not None or checkpoint is not None:
        out(f"STATE {as_text(resolver.state)} {resolver.origin}")
        if checkpoint is not None and checkpoint.missing_units:
            out(f"units: {what_is_missing(checkpoint)}")
        if checkpoint is not None and following is not None and not (checkpoint.crawl is None or is_in_redis(target.crawler)):
            for line in in_words(following, checkpoint):
                out(line)
    return _exit_code(target, resolution)


def get(options: Namespace, settings: Settings) -> int:
    """Print only the state."""
    target = find_target(options.target, settings, options.arguments)
    resolver, resolution = _resolved(target)
    if target.spider is not None or resolution.checkpoint is not None:
        out(as_text(resolver.state))
    return _exit_code(target, resolution)


def _resolved(target: Target) -> tuple[SpiderSettingsState, Resolution]:
    resolver = target.resolved()
    return resolver, resolver.found if isinstance(resolver, StateResolver) else Resolution()


def _exit_code(target: Target, resolution: Resolution) -> int:
    if target.spider is None and resolution.checkpoint is None:
        return no_checkpoint(target)
    return OK


def from_log(options: Namespace, settings: Settings) -> int:
    """Print the last state in the last log that has one."""
    for name in reversed(options.logs):
        state = last_state(decompressed(sys.stdin.buffer)) if name == "-" else _state_in_log(name, settings)
        if state is not None:
            out(as_text(state))
            return OK
    say(f"no state to resume from in {', '.join(options.logs)}. A log shortens a long state, and then it can't be read back")
    return NO


def _state_in_log(name: str, settings: Settings) -> dict[str, Any] | None:
    store, key = open_reader(name, settings)
    if in_thread(lambda: store.read_part(key, 0, 1)) is None:
        raise StateSettingsError("this log does not exist", uri=store.uri(key), remedy="correct the URI")
    return in_thread(lambda: state_in_log(store, key))


def log(options: Namespace, settings: Settings) -> int:
    """Print the history: a tree of runs, newest first."""
    target = find_target(options.target, settings, options.arguments)
    newest = target.resolution().checkpoint
    state_files = _warn_of_damage(newest_first(target.store, target.template))
    if options.checkpoints:
        checkpoints = (file.checkpoint for file in state_files if file.checkpoint is not None)
        some = _print_checkpoints(islice(checkpoints, options.n), options.json)
    else:
        with progress("checkpoints read") as step:
            listed = runs(stepping(state_files, step), newest, options.n)
        some = bool(listed)
        if options.json:
            out_json([run_json(run) for run in listed])
        else:
            more = _REQUEST_COLUMNS if any(run.requests is not None for run in listed) else ()
            columns = ("=", "=ids", "began (UTC)", "=run", "job", ">items", *more, "ended", "state")
            blank = [""] * (len(columns) - 1)
            _log_totals(newest)
            table(
                columns,
                [(lanes, *(blank if run is None else _run_row(run, bool(more)))) for lanes, run in tree(listed)],
                spare="began (UTC)",
            )
    return OK if some else no_checkpoint(target)


def _log_totals(newest: Checkpoint | None) -> None:
    if newest is not None and newest.totals is not None and newest.totals.seconds:
        say(f"along the lineage: {newest.items:,} items, {totals_in_words(newest.totals)}")


#: The columns about requests; they are there if any checkpoint has some
_REQUEST_COLUMNS = (">crawl", ">pending", ">seen", ">failed")


def _request_cells(crawl: int | None, newest: Requests | None, known: Requests | None) -> tuple[str, ...]:
    """Return the cells for _REQUEST_COLUMNS. *known*: the newest requests, also if the *newest* checkpoint has none."""
    pending = "" if newest is None else f"{newest.pending:,}"
    seen_and_failed = ("", "") if known is None else (f"{known.seen:,}", f"{known.failed + known.held:,}")
    return ("" if crawl is None else str(crawl), pending, *seen_and_failed)


def _warn_of_damage(state_files: Iterable[StateFile]) -> Iterator[StateFile]:
    """Pass on each state file; warn about those that are not checkpoints."""
    for file in state_files:
        if file.checkpoint is None:
            say(f"warning: {file.uri} is skipped: {file.why}", "yellow")
        yield file


def _run_row(run: Run, with_requests: bool) -> tuple[str, ...]:
    first, last = run.first, run.last
    ids = f"{first.id}" if first.id == last.id else f"{first.id}-{last.id}"
    if run.parent is not None and first.parent != run.parent.last.id:
        ids += f" (after {first.parent})"  # it did not continue from the end of that run
    ended = run.ended or ("running or killed" if run.may_be_alive else "killed")
    items = f"{last.items:,}" if run.items == last.items else f"{last.items:,} (+{run.items:,})"
    requests = _request_cells(last.crawl, last.requests, run.requests) if with_requests else ()
    return ids, _to_the_second(first.time), last.run or "", last.job or "", items, *requests, ended, as_text(last.state)


def _print_checkpoints(checkpoints: Iterable[Checkpoint], as_json: bool) -> bool:
    if as_json:
        return out_json_list(checkpoint.to_json() for checkpoint in checkpoints)
    some = some_requests = False
    with TemporaryFile("w+") as rows:  # the last one may show which columns there are
        for checkpoint in checkpoints:
            row = _checkpoint_row(checkpoint)
            rows.write(json.dumps(row) + "\n")
            some, some_requests = True, some_requests or bool(row[1][1])
        rows.seek(0)
        more = _REQUEST_COLUMNS if some_requests else ()
        columns = (">id", "time (UTC)", "run", ">items", ">files", *more, "", "state")
        table(columns, ((*before, *requests[: len(more)], *after) for before, requests, after in map(json.loads, rows)))
    return some


def _checkpoint_row(checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the cells before those about requests, those, and the cells after them."""
    time, items, files = _to_the_second(checkpoint.time), f"{checkpoint.items:,}", str(len(checkpoint.files))
    requests = _request_cells(checkpoint.crawl, checkpoint.requests, checkpoint.requests)
    before = str(checkpoint.id), time, checkpoint.run or "", items, files
    return before, requests, (checkpoint.reason or "", as_text(checkpoint.state))


def _to_the_second(time: str | None) -> str:
    return (time or "")[:19].replace("T", " ")
