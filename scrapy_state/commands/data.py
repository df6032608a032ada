"""The verbs that read the data set: items, verify."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from itertools import chain, starmap
from typing import Any

from scrapy.settings import Settings

from ..dataset.decode import Decoder
from ..dataset.item_files import Lineage, crawl_of, items_of, lineage_of
from ..dataset.moved import Moved
from ..dataset.verify import Problem, Verification, home_of
from ..exceptions import StoreError
from ..lineage.resolve import Resolution
from ..model.item_file import ItemFile
from ..model.words import size
from .contents.stored import stored_problems
from .state import NO, OK
from .target import Target, find_target, no_checkpoint
from .terminal import out, out_json, out_json_line, out_json_list, progress, say


def items(options: Namespace, settings: Settings) -> int:
    """List the item files of the lineage, oldest first, or stream the items in them."""
    target = find_target(options.target, settings, options.arguments)
    newest = target.resolution().checkpoint
    if newest is None:
        return no_checkpoint(target)
    crawl = crawl_of(newest) if options.crawl == "last" else options.crawl
    with progress("checkpoints") as step:
        lineage = lineage_of(target.store, target.template, newest, step, crawl)
    if not lineage.checkpoints:
        say(f"there is no crawl {crawl}; the newest is crawl {crawl_of(newest)}")
        return NO
    files = _chosen(lineage, Moved(options.map), options.only)
    first = next(files, None)
    if first is None:
        pattern = "" if options.only is None else f" whose URI matches {options.only}"
        say(f"the {lineage.checkpoints:,} checkpoints name no item file{pattern}")
        if options.json:
            out_json([])
        return _report_completeness(lineage) or (OK if options.only is None else NO)
    files = chain([first], files)
    if options.cat:
        with _pointing_to_map(target):
            _print_items(files, Decoder(options.format), target, lineage.items)
    elif options.json:
        out_json_list(map(_as_json, files))
    else:
        _print_files(files, options.manifest)
    return _report_completeness(lineage)


def _chosen(lineage: Lineage, moved: Moved, only: str | None) -> Iterator[ItemFile]:
    files = (moved.file(file) for file in lineage.files())
    return (file for file in files if only is None or fnmatch(file.uri, only))


def _print_items(files: Iterable[ItemFile], decoder: Decoder, target: Target, count: int) -> None:
    write = sys.stdout.buffer.write
    with progress("items", count, shown=not sys.stdout.isatty()) as step:
        for file, items_of_file in items_of(files, decoder, target.crawler.settings):
            for item in items_of_file:
                write(item)
            step(file.counted)
    sys.stdout.buffer.flush()


def _print_files(files: Iterable[ItemFile], as_manifest: bool) -> None:
    for file in files:
        if as_manifest:
            out_json_line(_as_json(file))
        else:
            out(file.uri)
        if file.skip:
            skipped = file.items - file.counted
            say(
                f"warning: {skipped} of the {file.items} items in {file.uri} do not belong to the lineage; --cat skips them",
                "yellow",
            )


def _as_json(file: ItemFile) -> dict[str, Any]:
    return {**file.to_json(), "skip": [list(pair) for pair in file.skip]}


def _report_completeness(lineage: Lineage) -> int:
    """Warn of overlaps, report a missing parent, and return the exit code."""
    if lineage.overlaps:
        ids = ", ".join(map(str, lineage.overlaps))
        say(
            f"warning: overlap: the run that began with checkpoint {ids} did not start where its parent ended. Items may "
            "appear twice, or be missing",
            "yellow",
        )
    if lineage.parent_missing is not None:
        say(
            f"error: checkpoint {lineage.parent_missing} is missing, and with it all files that it and its ancestors name",
            "red",
        )
        return NO
    return OK


def verify_lineage(options: Namespace, settings: Settings) -> int:
    """Check every checkpoint of the lineage, and every file it names."""
    target = find_target(options.target, settings, options.arguments)
    resolution = target.resolution()
    for uri, why in resolution.skipped:
        say(f"warning: {uri} is skipped: {why}", "yellow")
    if resolution.checkpoint is None:
        return no_checkpoint(target)
    verification = Verification(
        target.store, target.template, target.crawler.settings, Moved(options.map), options.deep, options.format
    )
    problems = []
    with progress("checkpoints and files") as step, _pointing_to_map(target):
        stored = stored_problems(target, resolution.checkpoint, options.deep)
        for problem in chain(verification.problems(resolution.checkpoint), starmap(_stored_problem, stored)):
            step()
            if problem is not None:
                problems.append(problem)
                if not options.json:
                    out(f"{problem.uri} {problem.why}")
    _say_where(verification.homes, home_of(target.store.uri(target.template.prefix)))
    if options.json:
        _print_verification(verification, problems, resolution)
    else:
        deep = f", counted in {verification.counted:,} files" if options.deep else ""
        out(
            f"{verification.checkpoints:,} checkpoints, {verification.files:,} files ({size(verification.bytes)}), "
            f"{verification.items:,} items{deep}: {f'{len(problems):,} wrong' if problems else 'all right'}"
        )
    return NO if problems else OK


@contextmanager
def _pointing_to_map(target: Target) -> Iterator[None]:
    """Let the error about a store other than the checkpoints' say what to do if the files are no longer there."""
    try:
        yield
    except StoreError as error:
        here, there = home_of(target.store.uri(target.template.prefix)), home_of(error.uri)
        if there != here:
            error.remedy += f"; if the files have been moved to the checkpoints, add --map {there}/={here}/"
        raise


def _say_where(homes: set[str], here: str) -> None:
    """Say that item files are elsewhere than the checkpoints: somebody may have copied both, and mean the copies."""
    for home in sorted(homes - {here}):
        say(
            f"note: item files were read from {home}, and the checkpoints are in {here}. If you have copied the files, "
            f"too, check the copies with --map {home}/={here}/"
        )


def _stored_problem(uri: str, reason: str | None) -> Problem | None:
    return None if reason is None else Problem(uri, reason.removeprefix("the segment ").removeprefix("the file "))


def _print_verification(verification: Verification, problems: list[Problem], resolution: Resolution) -> None:
    numbers = {name: value for name, value in vars(verification).items() if not name.startswith("_")}
    numbers["homes"] = sorted(verification.homes)
    out_json({
        **numbers,
        "problems": [{"uri": problem.uri, "problem": problem.why} for problem in problems],
        "passed_over": [list(pair) for pair in resolution.skipped],
    })  # fmt: skip
