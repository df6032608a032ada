"""The verb report: writing the page."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from scrapy.settings import Settings

from ..dataset.moved import Moved
from ..exceptions import StateError, StateSettingsError
from ..lineage.history import StateFile, newest_first, runs
from ..lineage.orphans import AllOrphans
from ..report import Page, Series, render
from .data import nothing_at, unnamed
from .state import OK
from .target import Target, find_target
from .terminal import out, out_json, progress, stepping


def report(options: Namespace, settings: Settings) -> int:
    """Write one HTML page that shows how the crawl is doing, and its history."""
    target = find_target(options.target, settings, options.arguments)
    page = _page(target, Moved(options.map), options.orphans)
    html = render(page)
    if options.page == "-":
        out(html.rstrip("\n"))
        return OK if page.runs else nothing_at(target)
    path = _write(Path(options.page), html)
    kinds = [page.kind(each) for each in page.runs]
    if options.json:
        out_json({
            "page": str(path), "checkpoints": page.series.checkpoints, "runs": len(kinds),
            "newest_run": kinds[0] if kinds else None, "damaged": page.series.damaged_count,
            "failed_runs": sum(each in ("failed", "killed", "silent") for each in kinds),
            "orphans": None if page.orphans is None else len(page.orphans),
        })  # fmt: skip
    else:
        out(str(path))
    return OK if page.runs else nothing_at(target)


def _page(target: Target, moved: Moved, with_orphans: bool) -> Page:
    newest = target.resolution().checkpoint
    series = Series(newest)
    with progress("checkpoints read") as step:
        found = series.noting(stepping(newest_first(target.store, target.template), step))
        every = AllOrphans(_valid(found), moved.uri, newest) if with_orphans else None
        listed = every.runs if every is not None else runs(found, newest)
    page = Page(target.store.uri(target.template.prefix), target.spider, time.time(), newest, series, listed)
    left_out: list[str] = []
    if every is None:
        page.orphans_why = "the report was made with --no-orphans."
    elif series.damaged_count:
        page.orphans_why = "some state files can't be read, and they may name any item file. Move them away first."
    else:
        try:
            files = unnamed(target, every, moved, False, left_out.append)
        except StateError as error:  # the rest of the page needs no orphans
            page.orphans_why = str(error)
        else:
            page.orphans = [each.uri for each in files if not each.after_last_state]
            page.after_last_state = [each.uri for each in files if each.after_last_state]
    page.left_out = left_out
    return page


def _valid(found: Iterator[StateFile]) -> Iterator[StateFile]:
    return (each for each in found if each.checkpoint is not None)


def _write(path: Path, html: str) -> Path:
    """Replace the old page in one step: someone may be reading it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(html, "utf-8")
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StateSettingsError(f"-o {path}: the page can't be written: {error.strerror}; name another file") from error
    return path
