"""The tables of the report: runs, failures, gaps, orphans, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from ..lineage.history import Run
from ..model.times import in_words, moment
from .page import KINDS, Page, count_of, time_of
from .svg import clean

#: How many rows a table has at most, and how many are visible before it is unfolded
_ROWS, _SEEN = 200, 15
_ROW_CHARACTERS = 120


def runs(page: Page) -> Iterator[str]:
    """Each run and how it ended."""
    rows = (_run_row(page, each) for each in page.runs)
    yield "<section><h2>Runs</h2>"
    yield from table(f"{count_of(len(page.runs), 'run')}, newest first", _RUN_COLUMNS, rows, len(page.runs))
    yield "</section>"


_RUN_COLUMNS = ("began (UTC)", "lasted", "ended", ">items", ">checkpoints", "state", "run")


def _run_row(page: Page, run: Run) -> tuple[str, ...]:
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
        f"{run.items:,}", f"{run.checkpoints:,}", short(run.last.state), f"{clean(run.last.run or '')}{job}",
    )  # fmt: skip


def failures(page: Page) -> Iterator[str]:
    """Runs that failed or were killed, and state files that can't be read."""
    bad = [each for each in page.runs if page.kind(each) in ("failed", "killed", "silent")]
    yield "<section><h2>Failures</h2>"
    if not bad and not page.series.damaged_count:
        yield "<p>None: no run failed or was killed, and every state file can be read.</p>"
    if bad:
        rows = (_failure_row(page, each) for each in bad)
        columns = ("last checkpoint (UTC)", "what", "state it stopped at", "run")
        yield from table(f"{count_of(len(bad), 'run')} failed or killed, newest first", columns, rows, len(bad))
    if page.series.damaged_count:
        rows = ((f"<code>{clean(uri)}</code>", clean(why)) for uri, why in page.series.damaged)
        yield from table("State files that can't be read and are skipped", ("file", "why"), rows, page.series.damaged_count)
    yield "</section>"


def _failure_row(page: Page, run: Run) -> tuple[str, ...]:
    kind, last = page.kind(run), moment(run.last.time)
    what = run.ended or KINDS[kind]
    return (
        time_of(last), f'<span class="{kind}">{clean(what)}</span>',
        short(run.last.state), clean(run.last.run or ""),
    )  # fmt: skip


def gaps(page: Page) -> Iterator[str]:
    """Times without a checkpoint."""
    found = page.series.gaps
    yield "<section><h2>Gaps</h2>"
    if not page.series.has_times:
        yield "<p>Not known: the state files carry no times.</p>"
    elif not found:
        yield "<p>None: no run waited long for a checkpoint, and no two runs were more than a minute apart.</p>"
    else:
        rows = (
            (time_of(each.start), time_of(each.end), in_words(each.seconds),
             "no run" if each.run is None else f"run {clean(each.run)} stored nothing")
            for each in found
        )  # fmt: skip
        name = f"The longest times without a checkpoint ({len(found)}), newest first"
        yield from table(name, ("from (UTC)", "to (UTC)", "how long", "what"), rows, len(found))
    yield "</section>"


def orphans(page: Page) -> Iterator[str]:
    """Item files that no checkpoint names."""
    yield "<section><h2>Orphans</h2>"
    if page.orphans is None:
        yield f"<p>Not known: {clean(page.orphans_why)}</p>"
    elif not page.orphans:
        yield "<p>None: a checkpoint names each item file of the killed runs.</p>"
    else:
        yield "<p>A run that was killed stored these, and no checkpoint names them; they are no part of the data set. The"
        yield "command <code>scrapy state orphans --delete</code> deletes them.</p>"
        yield from _files(page.orphans)
    if page.after_last_state:
        yield "<p>After the last state: runs that ended stored these, and no checkpoint names them. The next run yields"
        yield "their items again. Nothing deletes them.</p>"
        yield from _files(page.after_last_state)
    for each in page.left_out:
        yield f'<p class="faint">{clean(each)}</p>'
    yield "</section>"


def _files(uris: Sequence[str]) -> Iterator[str]:
    rows = ((f"<code>{clean(each)}</code>",) for each in uris)
    return table(count_of(len(uris), "item file"), ("file",), rows, len(uris), "scrapy state orphans")


def checkpoints(page: Page) -> Iterator[str]:
    """The newest checkpoints."""
    rows = (
        (f"{each.id or ''}", time_of(moment(each.time)), f"{each.items:,}",
         str(len(each.files)), clean(each.reason or ""), short(each.state))
        for each in page.series.listed
    )  # fmt: skip
    yield "<section><h2>Checkpoints</h2>"
    count = page.series.checkpoints
    columns = (">id", "time (UTC)", ">items", ">files", "why", "state")
    yield from table(f"{count_of(count, 'checkpoint')}, newest first", columns, rows, count, "scrapy state log --checkpoints")
    yield "</section>"


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], count: int, more: str = "scrapy state log"
) -> Iterator[str]:
    """Yield a table of HTML cells: the first rows visible, the next ones folded, the rest only counted.

    :param columns: the headings; one that begins with ">" is a column of numbers
    :param count: how many rows there are in all
    :param more: the command that lists them all
    """
    found = list(islice(rows, _ROWS))
    yield from _table(caption, columns, found[:_SEEN])
    if found[_SEEN:]:
        yield f"<details><summary>{count_of(len(found) - _SEEN, 'older row')}</summary>"
        yield from _table(f"{caption} (continued)", columns, found[_SEEN:])
        yield "</details>"
    if count > len(found):
        yield f'<p class="faint">And {count - len(found):,} more: see {more}.</p>'


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    # On narrow screens the style sheet changes how these elements are displayed; the roles keep their meaning.
    names = [each.removeprefix(">") for each in columns]
    kinds = [' class="number"' if each.startswith(">") else "" for each in columns]
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
