"""The verbs about item files: items, verify, orphans."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from typing import Any, NamedTuple

from scrapy.settings import Settings

from ..dataset.decode import Decoder
from ..dataset.item_files import Lineage, items_of, lineage_of
from ..dataset.moved import Moved
from ..dataset.verify import Verification
from ..feeds import all_item_feeds, item_feeds, open_template
from ..lineage.history import newest_first
from ..lineage.orphans import AllOrphans, files_left_out
from ..model.checkpoint import Checkpoint, ItemFile
from ..model.key_template import KeyTemplate, placeholders, without_credentials
from ..stores import StoreReader, StoreWriter, open_reader, open_writer
from .state import NO, OK
from .target import Target, find_target
from .terminal import confirm, out, out_json, out_json_line, progress, say, size, stepping


def items(options: Namespace, settings: Settings) -> int:
    """List the item files of the lineage, oldest first, or stream the items in them."""
    target = find_target(options.target, settings, options.arguments)
    newest = target.resolution().checkpoint
    if newest is None:
        return nothing_at(target)
    with progress("checkpoints") as step:
        lineage = lineage_of(target.store, target.template, newest, step)
    files = _chosen(lineage, Moved(options.map), options.only)
    if options.cat:
        _cat(files, Decoder(options.format), target, newest)
    elif options.json:
        out_json([{**each.to_json(), "skip": [list(pair) for pair in each.skip]} for each in files])
    else:
        for each in files:
            if options.manifest:
                out_json_line({**each.to_json(), "skip": [list(pair) for pair in each.skip]})
            else:
                out(each.uri)
            if each.skip:
                skipped = each.items - each.counted
                say(
                    f"warning: {skipped} of the {each.items} items in {each.uri} are no part of it; --cat leaves them out",
                    "yellow",
                )
    return _whole(lineage)


def _chosen(lineage: Lineage, moved: Moved, only: str | None) -> Iterator[ItemFile]:
    files = (moved.file(each) for each in lineage.files())
    return (each for each in files if only is None or fnmatch(each.uri, only))


def _cat(files: Iterator[ItemFile], decoder: Decoder, target: Target, newest: Checkpoint) -> None:
    write = sys.stdout.buffer.write
    with progress("items", newest.items, shown=not sys.stdout.isatty()) as step:
        for file, found in items_of(files, decoder, target.crawler.settings):
            for item in found:
                write(item)
            step(file.counted)
    sys.stdout.buffer.flush()


def _whole(lineage: Lineage) -> int:
    if lineage.overlaps:
        ids = ", ".join(map(str, lineage.overlaps))
        say(
            f"warning: overlap: what began with checkpoint {ids} did not start where the one before ended, so items may stand "
            "twice, or be missing",
            "yellow",
        )
    if lineage.parent_missing is not None:
        say(f"error: checkpoint {lineage.parent_missing} is not there: what it and those before it name is missing", "red")
        return NO
    return OK


def verify_lineage(options: Namespace, settings: Settings) -> int:
    """Check every checkpoint of the lineage, and every file it names."""
    target = find_target(options.target, settings, options.arguments)
    resolution = target.resolution()
    for uri, why in resolution.passed_over:
        say(f"warning: {uri} is passed over: {why}", "yellow")
    newest = resolution.checkpoint
    if newest is None:
        return nothing_at(target)
    settings, problems = target.crawler.settings, []
    verification = Verification(target.store, target.template, settings, Moved(options.map), options.deep, options.format)
    with progress("checkpoints and files") as step:
        for problem in verification.problems(newest):
            step()
            if problem is not None:
                problems.append(problem)
                if not options.json:
                    out(f"{problem.uri} {problem.why}")
    if options.json:
        found = [{"uri": each.uri, "problem": each.why} for each in problems]
        numbers = {name: value for name, value in vars(verification).items() if not name.startswith("_")}
        out_json({**numbers, "problems": found, "passed_over": [list(each) for each in resolution.passed_over]})
    else:
        deep = f", counted in {verification.counted:,} files" if options.deep else ""
        out(
            f"{verification.checkpoints:,} checkpoints, {verification.files:,} files ({size(verification.bytes)}), "
            f"{verification.items:,} items{deep}: {f'{len(problems):,} wrong' if problems else 'all right'}"
        )
    return NO if problems else OK


def orphans(options: Namespace, settings: Settings) -> int:
    """List the item files that killed runs stored and no checkpoint names, or delete them."""
    target = find_target(options.target, settings, options.arguments)
    moved = Moved(options.map)
    with progress("checkpoints") as step:
        every = AllOrphans(stepping(newest_first(target.store, target.template), step), moved.uri)
    listed = unnamed(target, every, moved, options.delete, say)
    for each in listed:
        if each.after_last_state:
            say(f"{each.uri} is no orphan: run {each.run}, which ended, stored it after the last state")
    found = [each for each in listed if not each.after_last_state]
    if options.json:
        out_json([each.uri for each in found])
    else:
        for each in found:
            out(each.uri)
    if not found or not options.delete:
        return NO if found else OK
    if not confirm(f"Delete {len(found)} file{'s' if len(found) > 1 else ''}?", options.yes):
        return NO
    with progress("deleted", len(found)) as step:
        for each in found:
            assert hasattr(each.store, "delete")
            each.store.delete(each.key)
            step()
    say(f"deleted: {len(found)}")
    return OK


class UnnamedFile(NamedTuple):
    """An item file that no checkpoint names: an orphan, unless it lies *after_last_state* of a run that ended."""

    uri: str
    run: str | None
    after_last_state: bool
    store: StoreReader | StoreWriter
    key: str


def unnamed(target: Target, every: AllOrphans, moved: Moved, delete: bool, tell: Callable[[str], None]) -> list[UnnamedFile]:
    """Return the files that no checkpoint names, each with its store, which can *delete*; *tell* what is left out. Blocks."""
    for run in every.runs:
        if (run.last.run or "") not in every.over:
            why = "it may be alive" if run.may_be_alive else "not all of its checkpoints are there"
            tell(f"run {run.last.run} is left out: {why}")
    settings = target.crawler.settings
    taking_part = dict(item_feeds(settings))
    others = [each for each in all_item_feeds(settings) if each[0] not in taking_part]
    left_out = files_left_out(others, target.spider or "", settings["FEED_URI_PARAMS"])
    found: dict[str, UnnamedFile] = {}
    for run, files, no_telling in every.among(_item_keys(target, every, moved, delete, taking_part, tell), left_out):
        for store, key in files:
            uri = store.uri(key)
            found[uri] = UnnamedFile(uri, run.last.run, run.ended is not None, store, key)
        for uri in no_telling:
            tell(
                f"run {run.last.run} is left out of {uri.rpartition('/')[0]}/: its checkpoints name none of its files there; "
                "if they were renamed, --map OLD=NEW says how"
            )
    return list(found.values())


def _item_keys(
    target: Target,
    every: AllOrphans,
    moved: Moved,
    delete: bool,
    feeds: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Iterator[tuple[StoreReader | StoreWriter, KeyTemplate]]:
    """Where item files may lie: what the names of those that are there say, and what FEEDS says."""
    opener = open_writer if delete else open_reader
    settings = target.crawler.settings
    for prefix, rest in every.templates():
        store, key = opener(prefix, settings)
        yield store, KeyTemplate(key, rest)
    for uri, params_function in feeds.items():
        if "run_id" not in placeholders(uri):
            tell(f"{without_credentials(uri)} is left out: its files do not say which run stored them; put %(run_id)s into it")
            continue
        store, template = open_template(target.crawler, uri, params_function, opener)
        stored = store.uri(template.prefix + "x").removesuffix("x")  # a folder's slash would be lost
        if (now := moved.uri(stored)) != stored:
            store, prefix = opener(now, settings)
            template = template.under(prefix)
        yield store, template


def nothing_at(target: Target) -> int:
    """Say that there is no checkpoint; return the exit code for it."""
    say(f"no checkpoint at {target.store.uri(target.template.prefix)}")
    return NO
