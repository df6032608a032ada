"""The tables of the report: runs, failures, gaps, orphans, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from ..lineage.history import Run
from ..model.requests import Requests
from ..model.times import in_words, moment
from ..model.words import count_of
from .page import KINDS, Page, time_of
from .svg import clean

#: How many rows a table has at most, and how many of them are visible before it is unfolded
_ROWS, _VISIBLE = 200, 15
#: Pages that failed are listed as completely as segments list them.
_FAILED_PAGES = 1000
_ROW_CHARACTERS = 120


def runs(page: Page) -> Iterator[str]:
    """Each run and how it ended."""
    with_requests = any(run.requests is not None for run in page.runs)
    columns = ("began (UTC)", "lasted", "ended", ">items", ">checkpoints", *_request_columns(with_requests), "state", "run")
    rows = (_run_row(page, run, with_requests) for run in page.runs)
    yield "<section><h2>Runs</h2>"
    yield from table(f"{count_of(len(page.runs), 'run')}, newest first", columns, rows, len(page.runs))
    yield "</section>"


def _request_columns(shown: bool) -> tuple[str, ...]:
    return ("requests",) if shown else ()


def _request_cells(shown: bool, crawl: int | None, newest: Requests | None, known: Requests | None) -> tuple[str, ...]:
    """Return the cell for this column. *known*: the newest requests, also if the *newest* checkpoint has none."""
    if not shown or known is None:
        return ("",) * shown
    failed = known.failed + known.held
    pending = "" if newest is None else f"{newest.pending:,} pending, "
    return (f"crawl {crawl}: {pending}{known.seen:,} seen{f', {failed:,} failed' if failed else ''}",)


def _run_row(page: Page, run: Run, with_requests: bool) -> tuple[str, ...]:
    first, last, kind = moment(run.first.time), moment(run.last.time), page.kind(run)
    ended = KINDS[kind] if run.ended in (None, "finished") or kind == "hand" else f"{KINDS[kind]}: {run.ended}"
    if run.last.run is None:
        kind, ended = "", "not known"
    branch = "" if run.in_lineage else " (another branch)"
    job = f" <small>job {clean(run.last.job)}</small>" if run.last.job else ""
    return (
        time_of(first),
        "" if first is None or last is None else in_words(last - first),
        f'<span class="{kind}">{clean(ended)}</span>{branch}',
        f"{run.items:,}",
        f"{run.checkpoints:,}",
        *_request_cells(with_requests, run.last.crawl, run.last.requests, run.requests),
        short(run.last.state),
        f"{clean(run.last.run or '')}{job}",
    )


def failures(page: Page) -> Iterator[str]:
    """Runs that failed or were killed, pages that failed, and state files that can't be read. Empty if there are none."""
    bad = [run for run in page.runs if page.kind(run) in ("failed", "killed", "silent")]
    failed_pages = 0 if page.requests is None else page.requests.failed + page.requests.held
    if not (bad or page.series.damaged_count or failed_pages):
        return
    yield "<section><h2>Failures</h2>"
    if bad:
        rows = (_failure_row(page, run) for run in bad)
        columns = ("last checkpoint (UTC)", "what", "state it stopped at", "run")
        yield from table(f"{count_of(len(bad), 'run')} failed or killed, newest first", columns, rows, len(bad))
    if page.series.damaged_count:
        rows = ((f"<code>{clean(uri)}</code>", clean(why)) for uri, why in page.series.damaged)
        yield from table("State files that can't be read and are skipped", ("file", "why"), rows, page.series.damaged_count)
    if failed_pages:
        yield from _failed_pages(page, failed_pages)
    yield "</section>"


def _failed_pages(page: Page, count: int) -> Iterator[str]:
    caption = f"{count_of(count, 'page')} failed in this crawl"
    if page.failed_pages_why:
        yield f"<p>{caption}. Which ones is not known: {clean(page.failed_pages_why)}</p>"
        return
    rows = (
        (clean(failed.reason), "the next run tries it again" if failed.held else "skipped", f"<code>{clean(failed.url)}</code>")
        for failed in page.failed_pages
    )
    yield from table(caption, ("why", "then", "page"), rows, count, "scrapy state frontier --failed", _FAILED_PAGES)


def _failure_row(page: Page, run: Run) -> tuple[str, ...]:
    kind, last = page.kind(run), moment(run.last.time)
    what = run.ended or KINDS[kind]
    return (
        time_of(last), f'<span class="{kind}">{clean(what)}</span>',
        short(run.last.state), clean(run.last.run or ""),
    )  # fmt: skip


def gaps(page: Page) -> Iterator[str]:
    """Times without a checkpoint. Empty if there are none."""
    longest = page.series.gaps
    if page.series.has_times and not longest:
        return
    yield "<section><h2>Gaps</h2>"
    if not page.series.has_times:
        yield "<p>Not known: the state files carry no times.</p>"
    else:
        rows = (
            (time_of(gap.start), time_of(gap.end), in_words(gap.seconds),
             "no run" if gap.run is None else f"run {clean(gap.run)} stored nothing")
            for gap in longest
        )  # fmt: skip
        name = f"The longest times without a checkpoint ({len(longest)}), newest first"
        yield from table(name, ("from (UTC)", "to (UTC)", "how long", "what"), rows, len(longest))
    yield "</section>"


def orphans(page: Page) -> Iterator[str]:
    """Item files that no checkpoint names. Empty if there are none."""
    if page.orphans is not None and not (page.orphans or page.after_last_state or page.left_out):
        return
    yield "<section><h2>Orphans</h2>"
    if page.orphans is None:
        yield f"<p>Not known: {clean(page.orphans_why)}</p>"
    elif not page.orphans:
        yield "<p>None: a checkpoint names each item file of the killed runs.</p>"
    else:
        yield "<p>Killed runs stored these files, and no checkpoint names them: they are not part of the data set. The"
        yield "command <code>scrapy state orphans --delete</code> deletes them.</p>"
        yield from _files(page.orphans)
    if page.after_last_state:
        yield "<p>After the last state: runs that ended stored these files after their last state item, and no checkpoint"
        yield "names them. The next run yields their items again. No command deletes them.</p>"
        yield from _files(page.after_last_state)
    for sentence in page.left_out:
        yield f'<p class="faint">{clean(sentence)}</p>'
    yield "</section>"


def _files(uris: Sequence[str]) -> Iterator[str]:
    rows = ((f"<code>{clean(uri)}</code>",) for uri in uris)
    return table(count_of(len(uris), "item file"), ("file",), rows, len(uris), "scrapy state orphans")


def checkpoints(page: Page) -> Iterator[str]:
    """The newest checkpoints."""
    shown = any(checkpoint.requests is not None for checkpoint in page.series.listed)
    rows = (
        (f"{checkpoint.id or ''}", time_of(moment(checkpoint.time)), f"{checkpoint.items:,}", str(len(checkpoint.files)),
         *_request_cells(shown, checkpoint.crawl, checkpoint.requests, checkpoint.requests),
         clean(checkpoint.reason or ""), short(checkpoint.state))
        for checkpoint in page.series.listed
    )  # fmt: skip
    yield "<section><h2>Checkpoints</h2>"
    count = page.series.checkpoints
    columns = (">id", "time (UTC)", ">items", ">files", *_request_columns(shown), "why", "state")
    yield from table(f"{count_of(count, 'checkpoint')}, newest first", columns, rows, count, "scrapy state log --checkpoints")
    yield "</section>"


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    count: int,
    more: str = "scrapy state log",
    most: int = _ROWS,
) -> Iterator[str]:
    """Yield a table of HTML cells: the first rows visible, the next ones folded, the rest only counted.

    :param columns: the headings; one that begins with ">" is a column of numbers
    :param count: how many rows there are in all
    :param more: the command that lists them all
    :param most: how many rows are listed at most
    """
    listed = list(islice(rows, most))
    yield from _table(caption, columns, listed[:_VISIBLE])
    if listed[_VISIBLE:]:
        yield f"<details><summary>{count_of(len(listed) - _VISIBLE, 'more row')}</summary>"
        yield from _table(f"{caption} (continued)", columns, listed[_VISIBLE:])
        yield "</details>"
    if count > len(listed):
        yield f'<p class="faint">And {count - len(listed):,} more: see {more}.</p>'


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    # On narrow screens the style sheet changes how these elements are displayed; the roles keep their meaning.
    names = [column.removeprefix(">") for column in columns]
    kinds = [' class="number"' if column.startswith(">") else "" for column in columns]
    heads = "".join(f'<th scope="col"{kind}>{name}</th>' for name, kind in zip(names, kinds, strict=True))
    yield f'<table role="table"><caption>{caption}</caption><thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
    yield '<tbody role="rowgroup">'
    for row in rows:
        cells = zip(names, kinds, row, strict=True)
        inside = "".join(
            f'<td role="cell" data-name="{name}"{kind}>{cell and f"<span>{cell}</span>"}</td>' for name, kind, cell in cells
        )
        yield f'<tr role="row">{inside}</tr>'
    yield "</tbody></table>"


def short(state: dict[str, Any], characters: int = _ROW_CHARACTERS) -> str:
    """Return *state* as HTML on one line, cut to *characters*."""
    text = json.dumps(state, ensure_ascii=False)
    return f"<code>{clean(text if len(text) <= characters else text[:characters] + '…')}</code>"
