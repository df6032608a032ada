"""The verbs that show states and checkpoints: show, get, from-log, log."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from scrapy.settings import Settings

from ..dataset.decode import decompressed
from ..exceptions import StateSettingsError
from ..extension import SpiderSettingsState, StateResolver
from ..lineage.history import Run, StateFile, newest_first, runs, tree
from ..lineage.resolve import Resolution
from ..model.checkpoint import Checkpoint
from ..model.json_values import as_text
from ..resume.sources import last_state, state_in_log
from ..stores import open_reader
from ..stores.retry import in_thread
from ..units.watermark import what_is_missing
from .state import NO, OK
from .target import Target, find_target
from .terminal import out, out_json, progress, say, seconds_since, stepping, table


def show(options: Namespace, settings: Settings) -> int:
    """Print what a run started now would resume from, and why."""
    target = find_target(options.target, settings, options.arguments)
    resolver, found = _resolved(target)
    if options.json:
        checkpoint = found.checkpoint
        out_json({
            "state": resolver.state,
            "origin": resolver.origin,
            "uri": found.uri,
            "checkpoint": None if checkpoint is None else checkpoint.to_json(),
            "age_seconds": None if checkpoint is None else seconds_since(checkpoint.time),
            "passed_over": [{"uri": uri, "why": why} for uri, why in found.passed_over],
        })  # fmt: skip
    elif target.spider is not None or found.checkpoint is not None:
        out(f"STATE {as_text(resolver.state)} {resolver.origin}")
        if found.checkpoint is not None and found.checkpoint.missing_units:
            out(f"units: {what_is_missing(found.checkpoint)}")
    return _answer(target, found)


def get(options: Namespace, settings: Settings) -> int:
    """Print the state alone."""
    target = find_target(options.target, settings, options.arguments)
    resolver, found = _resolved(target)
    if target.spider is not None or found.checkpoint is not None:
        out(as_text(resolver.state))
    return _answer(target, found)


def _resolved(target: Target) -> tuple[SpiderSettingsState, Resolution]:
    resolver = target.resolved()
    return resolver, resolver.found if isinstance(resolver, StateResolver) else Resolution()


def _answer(target: Target, found: Resolution) -> int:
    if target.spider is None and found.checkpoint is None:
        return _nothing(target)
    return OK


def from_log(options: Namespace, settings: Settings) -> int:
    """Print the last state in the last log that has one."""
    for name in reversed(options.logs):
        state = last_state(decompressed(sys.stdin.buffer)) if name == "-" else _state_in_log(name, settings)
        if state is not None:
            out(as_text(state))
            return OK
    say(f"no state to resume from in {', '.join(options.logs)}, or the log shortens it because it is long")
    return NO


def _state_in_log(name: str, settings: Settings) -> dict[str, Any] | None:
    store, key = open_reader(name, settings)
    if in_thread(lambda: store.read_part(key, 0, 1)) is None:
        raise StateSettingsError(f"there is no log {store.uri(key)}; correct the URI")
    return in_thread(lambda: state_in_log(store, key))


def log(options: Namespace, settings: Settings) -> int:
    """Print the history: a tree of runs, newest first."""
    target = find_target(options.target, settings, options.arguments)
    newest = target.resolution().checkpoint
    found = told(newest_first(target.store, target.template))
    if options.checkpoints:
        checkpoints = (each.checkpoint for each in found if each.checkpoint is not None)
        some = _print_checkpoints(islice(checkpoints, options.n), options.json)
    else:
        with progress("checkpoints read") as step:
            listed = runs(stepping(found, step), newest, options.n)
        some = bool(listed)
        if options.json:
            out_json([run_json(run) for run in listed])
        else:
            rows = [(place, *([""] * 7 if run is None else _run_row(run))) for place, run in tree(listed)]
            table(("", "ids", "began (UTC)", "run", "job", ">items", "ended", "state"), rows)
    return OK if some else _nothing(target)


def run_json(run: Run) -> dict[str, Any]:
    """Return a run as ``log --json`` prints it."""
    return {
        "run": run.last.run, "job": run.last.job, "spider": run.last.spider,
        "first_id": run.first.id, "last_id": run.last.id, "checkpoints": run.checkpoints,
        "began": run.first.time, "ended": run.last.time, "reason": run.ended, "may_be_alive": run.may_be_alive,
        "state": run.last.state, "items": run.items, "items_in_lineage": run.last.items, "errors": run.last.errors,
        "files": run.files, "bytes": run.bytes, "overlap": run.first.overlap,
        "parent_id": run.first.parent, "parent_run": None if run.parent is None else run.parent.last.run,
        "in_lineage": run.in_lineage,
    }  # fmt: skip


def told(found: Iterable[StateFile]) -> Iterator[StateFile]:
    """Pass on each state file; warn about those that are not checkpoints."""
    for each in found:
        if each.checkpoint is None:
            say(f"warning: {each.uri} is passed over: {each.why}", "yellow")
        yield each


def _run_row(run: Run) -> tuple[str, ...]:
    first, last = run.first, run.last
    ids = f"{first.id}" if first.id == last.id else f"{first.id}-{last.id}"
    if run.parent is not None and first.parent != run.parent.last.id:
        ids += f" (after {first.parent})"  # it started before that run's end
    ended = run.ended or ("running or killed" if run.may_be_alive else "killed")
    items = f"{last.items:,}" if run.items == last.items else f"{last.items:,} (+{run.items:,})"
    return ids, _minute(first.time), last.run or "", last.job or "", items, ended, as_text(last.state)


def _print_checkpoints(checkpoints: Iterable[Checkpoint], as_json: bool) -> bool:
    if as_json:
        found = [each.to_json() for each in checkpoints]
        out_json(found)
        return bool(found)
    rows = [
        (str(each.id), _minute(each.time), each.run or "", f"{each.items:,}", str(len(each.files)), each.reason or "",
         as_text(each.state))
        for each in checkpoints
    ]  # fmt: skip
    table((">id", "time (UTC)", "run", ">items", ">files", "", "state"), rows)
    return bool(rows)


def _minute(time: str | None) -> str:
    return (time or "")[:19].replace("T", " ")


def _nothing(target: Target) -> int:
    say(f"no checkpoint at {target.store.uri(target.template.prefix)}")
    return NO
