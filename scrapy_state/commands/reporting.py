"""The verb report: collect what the page shows, and write it."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scrapy.settings import Settings

from ..dataset.moved import Moved
from ..exceptions import StateError, StateSettingsError
from ..lineage.history import StateFile, newest_first, runs
from ..lineage.orphans import AllOrphans
from ..model.checkpoint import Checkpoint
from ..report import Page, Series, headline, render, troubles
from ..stores.replacing import replace_file
from .contents.kept_requests import counts, failed_pages, run_json
from .orphans import unnamed_files
from .state import OK
from .target import Target, find_target, no_checkpoint
from .terminal import out, out_json, progress, stepping


def report(options: Namespace, settings: Settings) -> int:
    """Write one HTML page that shows how the crawl is doing, and its history; or print the same as JSON."""
    target = find_target(options.target, settings, options.arguments)
    page = _page(target, Moved(options.map), options.orphans)
    if options.json:
        out_json(_as_json(page))
        return OK if page.runs else no_checkpoint(target)
    html = render(page)
    if options.page == "-":
        out(html.rstrip("\n"))
        return OK if page.runs else no_checkpoint(target)
    out(str(_write(Path(options.page), html)))
    return OK if page.runs else no_checkpoint(target)


def _as_json(page: Page) -> dict[str, Any]:
    """Return what the page shows."""
    kinds, series = [page.kind(run) for run in page.runs], page.series
    newest = page.newest or Checkpoint({})
    return {
        "uri": page.uri, "spider": page.spider or newest.spider, "headline": headline(page)[1] if page.runs else None,
        "newest_run": kinds[0] if kinds else None,
        "newest": None if page.newest is None else page.newest.to_json(), "age_seconds": page.age_seconds,
        "items_per_minute": series.items_per_minute, "seconds_between_checkpoints": series.typical_seconds,
        "worth_a_look": troubles(page) if page.runs else [],
        "checkpoints": series.checkpoints, "runs": [{**run_json(run), "kind": page.kind(run)} for run in page.runs],
        "failed_runs": sum(kind in ("failed", "killed", "silent") for kind in kinds),
        "damaged": series.damaged_count, "damaged_files": [{"uri": uri, "why": why} for uri, why in series.damaged],
        "gaps": [gap._asdict() for gap in series.gaps],
        "orphans": None if page.orphans is None else list(page.orphans), "orphans_unknown": page.orphans_why or None,
        "after_last_state": list(page.after_last_state), "left_out": list(page.left_out),
        "failed_pages": [failed._asdict() for failed in page.failed_pages],
        "crawl": newest.crawl, **counts(newest.requests, page.requests),
        "units_done": len(newest.ahead), "units_missing": newest.missing_units,
    }  # fmt: skip


def _page(target: Target, moved: Moved, with_orphans: bool) -> Page:
    newest = target.resolution().checkpoint
    series = Series(newest)
    with progress("checkpoints read") as step:
        state_files = series.noting(stepping(newest_first(target.store, target.template), step))
        all_orphans = AllOrphans(_valid(state_files), moved.uri, newest) if with_orphans else None
        listed = all_orphans.runs if all_orphans is not None else runs(state_files, newest)
    page = Page(target.store.uri(target.template.prefix), target.spider, time.time(), newest, series, listed)
    left_out: list[str] = []
    if all_orphans is None:
        page.orphans_why = "the report was made with --no-orphans."
    elif series.damaged_count:
        page.orphans_why = "some state files can't be read, and they may name any item file. Move them away first."
    else:
        try:
            files = unnamed_files(target, all_orphans, moved, False, left_out.append)
        except StateError as error:  # the rest of the page is still worth showing
            page.orphans_why = str(error)
        else:
            page.orphans = [file.uri for file in files if not file.after_last_state]
            page.after_last_state = [file.uri for file in files if file.after_last_state]
    page.left_out = left_out
    _add_failed_pages(page, target)
    return page


def _add_failed_pages(page: Page, target: Target) -> None:
    checkpoint, requests = page.series.with_requests, page.requests
    if checkpoint is None or requests is None or not requests.failed + requests.held:
        return
    try:
        page.failed_pages = failed_pages(target, checkpoint)
    except StateError as error:  # the rest of the page is still worth showing
        page.failed_pages_why = str(error)


def _valid(state_files: Iterator[StateFile]) -> Iterator[StateFile]:
    return (file for file in state_files if file.checkpoint is not None)


def _write(path: Path, html: str) -> Path:
    """Write the page in one step: someone may be reading the old one."""
    try:
        replace_file(path, html)
    except OSError as error:
        raise StateSettingsError(f"-o {path}: can't write the page: {error.strerror}", remedy="name another file") from error
    return path
