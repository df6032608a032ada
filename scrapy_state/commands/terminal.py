"""Printing for the command: tables, sizes, ages, progress. Uses colour only on a terminal."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from scrapy.settings import Settings
from scrapy.utils.log import configure_logging

from ..exceptions import StateSettingsError
from ..model.times import in_words
from ..model.totals import Totals
from ..model.words import size

if TYPE_CHECKING:
    from rich.console import Console

LOGGER = "scrapy_state"
T = TypeVar("T")
#: A terminal with fewer columns is narrow
_WIDE = 110
#: So much of the last column is always shown
_LEAST_WIDTH = 16
#: the consoles that are showing a progress bar
_active_consoles: list[Console] = []


def out(text: str) -> None:
    """Print a line on stdout at once; on a terminal, above the progress bar."""
    if _active_consoles and sys.stdout.isatty():
        _active_consoles[-1].print(text, markup=False, highlight=False, soft_wrap=True)
        return
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def out_json(value: Any) -> None:
    """Print *value* as JSON: indented on a terminal, on one line elsewhere."""
    out(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def out_json_list(values: Iterable[Any]) -> bool:
    """Print *values* as :func:`out_json` prints a list of them, each as soon as it is there. Return whether there were any."""
    indent, between = (2, ",\n") if sys.stdout.isatty() else (None, ", ")
    some = False
    for value in values:
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        sys.stdout.write((between if some else "[\n" if indent else "[") + textwrap.indent(text, " " * (indent or 0)))
        some = True
    out(("\n]" if indent else "]") if some else "[]")
    return some


def out_json_line(value: Any) -> None:
    """Print *value* as one line of JSON, at once."""
    out(json.dumps(value, ensure_ascii=False))


def say(text: str, style: str = "") -> None:
    """Print a line for a person, on stderr."""
    if sys.stderr.isatty():
        from rich.console import Console

        console = _active_consoles[-1] if _active_consoles else Console(stderr=True)
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    else:
        sys.stderr.write(text + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], spare: str = "") -> None:
    """Print *rows* as a table on a terminal, and with tabs between the columns elsewhere.

    On a terminal, columns without any text are left out. What does not fit is wrapped, and cut in the last column.

    :param columns: the headings. ">" marks a column of numbers, "=" one that is neither cut nor wrapped
    :param spare: the heading of a column that is left out on a narrow terminal
    """
    if not sys.stdout.isatty():
        for row in rows:
            out("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, cells = Console(), list(rows)
    is_spare = {spare} if console.width < _WIDE else set()
    kept = [at for at, column in enumerate(columns) if column not in is_spare and any(row[at] for row in cells)]
    if not kept:
        return
    widths = {at: max(len(columns[at].lstrip("=>")), max(len(row[at]) for row in cells)) for at in kept}
    space = max(_LEAST_WIDTH, console.width - sum(widths[at] + 2 for at in kept[:-1]))
    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for at in kept:
        whole = columns[at].startswith("=")
        justify: Literal["left", "right"] = "right" if columns[at].startswith(">") else "left"
        drawn.add_column(
            columns[at].lstrip("=>"), justify=justify, no_wrap=whole, min_width=widths[at] if whole else None, overflow="fold"
        )
    for row in cells:
        *before, last = (row[at] for at in kept)
        drawn.add_row(*map(Text, (*before, last if len(last) <= space else last[: space - 1] + "…")))
    console.print(drawn)


def seconds_since(time: str | None) -> float | None:
    """Return how many seconds ago *time*, an ISO time in a checkpoint, was; None if it can't be read."""
    try:
        made = datetime.fromisoformat((time or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    return (datetime.now(timezone.utc) - made.replace(tzinfo=made.tzinfo or timezone.utc)).total_seconds()


def age(time: str | None) -> str:
    """Return how long ago *time* was, in words; "" if it can't be read."""
    seconds = seconds_since(time)
    return "" if seconds is None else f"{in_words(seconds)} ago"


def totals_in_words(totals: Totals) -> str:
    """Return what a lineage has cost and brought in: "5,210 responses and 1.2 GB of items in 3 h 20 min"."""
    return f"{totals.pages:,} responses and {size(totals.bytes)} of items in {in_words(totals.seconds)}"


@contextmanager
def progress(what: str, total: int | None = None, shown: bool = True) -> Iterator[Callable[..., None]]:
    """Show a progress bar if stderr is a terminal. Call the yielded function after each step, or with a number of steps."""
    if not (shown and sys.stderr.isatty()):
        yield lambda count=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as drawn:
        task = drawn.add_task(what, total=total)
        _active_consoles.append(console)
        try:
            yield lambda count=1: drawn.advance(task, count)
        finally:
            _active_consoles.remove(console)


def stepping(objects: Iterable[T], step: Callable[[], None]) -> Iterator[T]:
    """Pass on each object, and call *step* after it."""
    for each in objects:
        yield each
        step()


@contextmanager
def live() -> Iterator[Callable[[str], None] | None]:
    """Yield a function that redraws the text on the terminal; None if stdout is no terminal."""
    if not sys.stdout.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False) as drawn:
        yield lambda text: drawn.update(Text(text), refresh=True)


def confirm(question: str, yes: bool) -> bool:
    """Ask *question* and return the answer. Blocks.

    :param yes: whether ``--yes`` has answered already
    :raises StateSettingsError: if there is no terminal, so nobody can answer
    """
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise StateSettingsError(f"{question} There is no terminal to ask on", remedy="add --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def log_to_stderr(settings: Settings) -> None:
    """Print warnings as plain lines on stderr; with ``-L`` or ``--logfile``, log as Scrapy does."""
    if settings.getbool("LOG_ENABLED"):
        configure_logging(settings)
        return
    logger = logging.getLogger(LOGGER)
    logger.propagate = False
    logger.addHandler(_Says(logging.WARNING))
    logging.getLogger("scrapy").addHandler(_Says(logging.WARNING))


class _Says(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}", "yellow")
