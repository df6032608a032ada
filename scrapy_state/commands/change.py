"""The verbs that store or delete state files: set, copy, prune."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import islice
from typing import Any

from scrapy.settings import Settings

from ..delta.memory import next_crawl
from ..exceptions import StateError, StateSettingsError
from ..lineage.chain import ancestors, find_checkpoint
from ..lineage.history import newest_first, runs
from ..lineage.prune import Pruned, leave_signpost, prunable, roll_up
from ..lineage.resolve import Resolution, resolve
from ..lineage.writer import CheckpointWriter, new_run_id
from ..model.checkpoint import Checkpoint
from ..model.json_values import as_text, json_object
from ..model.requests import Requests
from ..stores.retry import in_thread
from .contents.stored import copy_memories, copy_segments, drop_stored
from .state import NO, OK
from .target import Target, find_target, no_checkpoint
from .terminal import confirm, out, out_json, progress, say

#: How many checkpoints back it is worth looking for an earlier state
_NEAR_CHECKPOINTS = 100


def set_state(options: Namespace, settings: Settings) -> int:
    """Store a checkpoint by hand, as a child of the newest one or of ``--parent``."""
    target = find_target(options.target, settings, options.arguments)
    try:
        state = json_object(json.loads(options.state))
    except (TypeError, ValueError) as error:
        raise StateSettingsError(
            f"{options.state!r} is not a state: {error}", remedy="give a JSON object, such as '{\"t\": 1}'"
        ) from error
    _check(target, state)
    warning = _overlap(target, state, options.parent)
    code = store_by_hand(target, state, options, "set")
    if code == OK and warning:
        say(f"warning: {warning}", "yellow")
    return code


def _overlap(target: Target, state: dict[str, Any], parent_id: int | None) -> str:
    """Return which items will appear twice, or be missing, because *state* is not where its parent ended; empty if none."""
    parent = in_thread(lambda: _resolve(target, parent_id)).checkpoint
    if parent is None or parent.state == state:
        return ""
    near = islice(ancestors(target.store, target.template, parent), _NEAR_CHECKPOINTS)
    earlier = in_thread(lambda: next((each for each in near if each.state == state), None))
    if earlier is None:
        return (
            f"checkpoint {parent.id} has another state, {as_text(parent.state)}. If {as_text(state)} comes before it, "
            "items will appear twice; if it comes after it, items will be missing"
        )
    count = parent.items - earlier.items
    if not count:
        return ""
    return (
        f"this is the state of checkpoint {earlier.id}. The next run repeats what follows it, so the {count:,} items stored "
        f"since will appear twice; with --parent {earlier.id} only the new ones count"
    )


def copy(options: Namespace, settings: Settings) -> int:
    """Store the state of the newest checkpoint of one target as a new checkpoint of another target."""
    source = find_target(options.source, settings, {})
    resolution = source.resolution()
    target = find_target(options.target, settings, options.arguments)
    if source.store.uri(source.template.prefix) == target.store.uri(target.template.prefix):
        raise StateSettingsError(
            f"{options.source} and {options.target} are the same place, {target.store.uri(target.template.prefix)}",
            remedy="name another target; to go back to an earlier checkpoint: scrapy state set … --parent ID",
        )
    original = resolution.checkpoint
    if original is None:
        return no_checkpoint(source)
    _check(target, original.state)
    extra = {"copied_from": {"uri": resolution.uri, "run": original.run, "digest": original.digest}}

    def copy_files(run: str) -> tuple[Requests | None, Mapping[str, Any]]:
        crawl = next_crawl(_resolve(target, options.parent).checkpoint)
        return copy_segments(source, target, original, run), copy_memories(source, target, original, crawl)

    return store_by_hand(target, original.state, options, "copied", extra, original, copy_files)


def prune(options: Namespace, settings: Settings) -> int:
    """Pack older state files into roll-ups and delete them."""
    target = find_target(options.target, settings, options.arguments)
    writer = target.writer()
    store = None if options.dry_run else writer
    resolution = in_thread(lambda: resolve(target.store, target.template, target.spider))
    newest = resolution.checkpoint
    if newest is None or newest.id is None:
        return no_checkpoint(target)
    before = None
    if options.older_than is not None:
        before = datetime.now(timezone.utc) - timedelta(seconds=options.older_than)
    keys = prunable(target.store, target.template, newest.id, keep=options.keep, before=before)
    if store is None or not (keys or options.json):
        return _would_prune(target, keys, options.json)
    pruned = Pruned()
    with progress("checkpoints", len(keys)) as step:
        roll_up(store, target.template, keys, pruned, step, partial(drop_stored, target, keys, pruned))
    if resolution.newest_id == newest.id:
        leave_signpost(store, target.template, newest)
    if options.json:
        out_json(vars(pruned))
        return OK
    for uri, why in pruned.left:
        say(f"warning: {uri} stays where it is: {why}", "yellow")
    for uri in pruned.rollups:
        out(uri)
    also = f", and {pruned.stored:,} other file{'' if pruned.stored == 1 else 's'} that only they name" if pruned.stored else ""
    out(f"{pruned.deleted:,} state files deleted, {pruned.rolled_up:,} of them rolled up now{also}")
    return OK


def _would_prune(target: Target, keys: Sequence[str], as_json: bool) -> int:
    """Print which state files a prune would pack and delete. Changes nothing."""
    uri = target.store.uri
    if as_json:
        out_json({"would_delete": [uri(key) for key in keys]})
    elif not keys:
        out("nothing to prune: no state file is old enough")
    else:
        many = f"{uri(keys[0])} to {uri(keys[-1])}" if len(keys) > 1 else uri(keys[0])
        out(f"{len(keys):,} state file{'' if len(keys) == 1 else 's'} would be packed and deleted: {many}")
    return OK


def _check(target: Target, state: dict[str, Any]) -> None:
    """Check *state* as a run of the spider does when it starts."""
    assert target.crawler.spider is not None
    try:
        target.resolver_class()(target.crawler).validate_state(deepcopy(state), target.crawler.spider)
    except StateError:
        raise
    except Exception as error:  # the project's validate_state() may raise anything
        raise StateSettingsError(f"the spider refuses {as_text(state)}: {type(error).__name__}: {error}") from error


def store_by_hand(
    target: Target,
    state: dict[str, Any],
    options: Namespace,
    reason: str,
    extra: Mapping[str, Any] | None = None,
    start: Checkpoint | None = None,
    copy_files: Callable[[str], tuple[Requests | None, Mapping[str, Any]]] = lambda run: (None, {}),
    ends_crawl: bool = False,
) -> int:
    """Store *state* as a new checkpoint, unless the user, asked about a run that may be alive, says no. Return the exit code.

    :param options: of the command line: parent, yes, json
    :param reason: the checkpoint's; *extra*: what else it contains
    :param start: the checkpoint whose state it is, with the units finished beyond it
    :param copy_files: given the id of a run, stores what it names; returns the requests that the checkpoint contains, and its
        memories, if they are not its parent's
    :param ends_crawl: whether the next run begins a new crawl
    """
    store = target.writer()
    resolution = in_thread(lambda: _resolve(target, options.parent))
    newest = runs(newest_first(target.store, target.template), None, limit=1)
    if newest and newest[0].may_be_alive and not confirm(
        f"Run {newest[0].last.run} has stored no last checkpoint. It was killed, or it is alive and will stop with "
        "state_conflict if you go on. Store a checkpoint anyway?",
        options.yes,
    ):  # fmt: skip
        return NO
    name = target.spider or (resolution.checkpoint.spider if resolution.checkpoint else None)
    run = new_run_id()
    writer = CheckpointWriter(store, target.template, format=target.format, spider=name, run=run, job=None)
    again = partial(_resolve, target, options.parent)
    requests, memories = in_thread(lambda: copy_files(run))
    opening = partial(writer.open, state, resolution, again, reason=reason, extra=extra, start=start)
    stored = in_thread(lambda: opening(requests=requests, memories=memories, ended=ends_crawl))
    assert stored.id is not None
    uri = store.uri(target.template.key(stored.id))
    left = resolution.checkpoint.requests if resolution.checkpoint is not None and stored.requests is None else None
    if options.json:
        out_json({"uri": uri, "checkpoint": stored.to_json(), "left_behind": 0 if left is None else left.pending})
    else:
        after = "" if stored.parent is None else f", after checkpoint {stored.parent}"
        out(f"checkpoint {stored.id} stored: STATE {as_text(state)} ({uri}{after})")
        if left is not None:
            out(f"{left.pending:,} pending requests of checkpoint {stored.parent} are left behind")
    return OK


def _resolve(target: Target, parent_id: int | None) -> Resolution:
    resolution = resolve(target.store, target.template, target.spider)
    if parent_id is None:
        return resolution
    parent: Checkpoint | None = find_checkpoint(target.store, target.template, parent_id)
    if parent is None:
        raise StateSettingsError(
            f"--parent {parent_id}: this checkpoint does not exist", remedy="scrapy state log --checkpoints lists them"
        )
    return replace(resolution, checkpoint=parent)
