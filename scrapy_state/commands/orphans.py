"""The verb orphans: the item files that no checkpoint names."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from scrapy.settings import Settings

from ..dataset.moved import Moved
from ..feeds import all_item_feeds, item_feeds, open_template, segments_feed
from ..lineage.history import newest_first
from ..lineage.orphans import AllOrphans, files_left_out
from ..model.key_template import KeyTemplate, placeholders, without_credentials
from ..stores import StoreReader, StoreWriter, open_reader, open_writer
from .state import NO, OK
from .target import Target, find_target, no_checkpoint
from .terminal import confirm, out, out_json, progress, say, stepping


class UnnamedFile(NamedTuple):
    """An item file that no checkpoint names.

    :param after_last_state: whether its run ended, so that it is the user's: what the run yielded after its last state item.
        Otherwise it is an orphan
    :param store: can delete the file if :func:`unnamed_files` was asked for that
    """

    uri: str
    run: str | None
    after_last_state: bool
    store: StoreReader | StoreWriter
    key: str


def orphans(options: Namespace, settings: Settings) -> int:
    """List the item files that killed runs stored and no checkpoint names, or delete them."""
    target = find_target(options.target, settings, options.arguments)
    moved = Moved(options.map)
    with progress("checkpoints") as step:
        all_orphans = AllOrphans(stepping(newest_first(target.store, target.template), step), moved.uri)
    if not all_orphans.runs:
        return no_checkpoint(target)
    files = unnamed_files(target, all_orphans, moved, options.delete, say)
    for file in files:
        if file.after_last_state:
            say(f"{file.uri} is no orphan: run {file.run} ended, and stored it after its last state")
    found = [file for file in files if not file.after_last_state]
    if options.json:
        out_json([file.uri for file in found])
    else:
        for file in found:
            out(file.uri)
    if not found and not options.json:
        say("no orphans")
    if not found or not options.delete:
        return NO if found else OK
    if not confirm(f"Delete {len(found)} file{'s' if len(found) > 1 else ''}?", options.yes):
        return NO
    _delete(found)
    return OK


def _delete(files: list[UnnamedFile]) -> None:
    with progress("deleted", len(files)) as step:
        for file in files:
            assert hasattr(file.store, "delete")
            file.store.delete(file.key)
            step()
    say(f"deleted: {len(files)}")


def unnamed_files(
    target: Target, all_orphans: AllOrphans, moved: Moved, delete: bool, warn: Callable[[str], None]
) -> list[UnnamedFile]:
    """Return the item files that no checkpoint names. Blocks.

    :param delete: whether their stores must be able to delete them
    :param warn: called with a sentence about each run and each feed that is left out
    """
    for run in all_orphans.runs:
        if (run.last.run or "") not in all_orphans.over:
            why = "it may be alive" if run.may_be_alive else "not all of its checkpoints are there"
            warn(f"run {run.last.run} is left out: {why}")
    settings = target.crawler.settings
    feeds = dict(item_feeds(settings))
    others = [*(feed for feed in all_item_feeds(settings) if feed[0] not in feeds), *segments_feed(settings)]
    left_out = files_left_out(others, target.spider or "", settings["FEED_URI_PARAMS"])
    unnamed: dict[str, UnnamedFile] = {}  # by URI: two feeds may list the same file
    for run, files, no_telling in all_orphans.among(_feed_keys(target, all_orphans, moved, delete, feeds, warn), left_out):
        for store, key in files:
            uri = store.uri(key)
            unnamed[uri] = UnnamedFile(uri, run.last.run, run.ended is not None, store, key)
        for uri in no_telling:
            warn(
                f"run {run.last.run} is left out of {uri.rpartition('/')[0]}/: its checkpoints name none of its files there. "
                "If the files were renamed, give --map OLD=NEW"
            )
    return list(unnamed.values())


def _feed_keys(
    target: Target,
    all_orphans: AllOrphans,
    moved: Moved,
    delete: bool,
    feeds: Mapping[str, Any],
    warn: Callable[[str], None],
) -> Iterator[tuple[StoreReader | StoreWriter, KeyTemplate]]:
    """Yield where item files may be: first where the checkpoints name some, then where *feeds* of the settings store them."""
    opener = open_writer if delete else open_reader
    settings = target.crawler.settings
    for prefix, rest in all_orphans.templates():
        store, key = opener(prefix, settings)
        yield store, KeyTemplate(key, rest)
    for uri, params_function in feeds.items():
        if "run_id" not in placeholders(uri):
            warn(
                f"{without_credentials(uri)} is left out: its file names do not say which run stored them. Put %(run_id)s "
                "into the URI"
            )
            continue
        store, template = open_template(target.crawler, uri, params_function, opener)
        stored = store.uri(template.prefix + "x").removesuffix("x")  # without the x, a folder's slash would be lost
        if (now := moved.uri(stored)) != stored:
            store, prefix = opener(now, settings)
            template = template.under(prefix)
        yield store, template
