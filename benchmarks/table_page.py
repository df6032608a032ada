"""The table of table.py as text and as Markdown, and its plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from importlib.metadata import version
from pathlib import Path

BEGIN, END = "<!-- table: make bench ARGS='--write docs' -->", "<!-- end of the table -->"
COLUMNS = (
    "", "CPU s", "ratio", "wall s", "ratio", "memory MB", "disk MB", "S3 requests", "lost s", "items lost", "items twice",
)  # fmt: skip
#: The plot: the width of the names, of a panel, and of the space for a bar's number; the height of a bar and of the heads
_NAMES, _PANEL, _NUMBER, _BAR, _HEAD = 290, 180, 50, 22, 30


@dataclass
class Row:
    """The medians of one way. *memory*, *disk*: in bytes."""

    name: str
    cpu: float
    cpu_ratio: float
    wall: float
    wall_ratio: float
    memory: float
    disk: float
    requests: float
    lost_seconds: float
    items_lost: float
    items_twice: float

    def cells(self) -> list[str]:
        return [
            self.name, f"{self.cpu:.2f}", f"{self.cpu_ratio:.2f}", f"{self.wall:.1f}", f"{self.wall_ratio:.2f}",
            f"{self.memory / 1e6:.0f}", f"{self.disk / 1e6:.2f}", f"{self.requests:,.0f}", f"{self.lost_seconds:.1f}",
            f"{self.items_lost:,.0f}", f"{self.items_twice:,.0f}",
        ]  # fmt: skip


def as_text(rows: Sequence[Row]) -> str:
    table = [list(COLUMNS), *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in table]
    return "\n".join("  ".join([line[0].strip().ljust(widths[0]), *line[1:]]) for line in lines)


def machine(loads: Sequence[float]) -> str:
    """Say on what the figures were measured. *loads*: load averages, from before to after."""
    cores = os.cpu_count() or 1
    busy = f"; busy with other work, load {min(loads):.0f} to {max(loads):.0f}" if min(loads) > 1 else ""
    python = f"Python {platform.python_version()}, Scrapy {version('scrapy')}"
    return f"{date.today()}, {cores} cores, {platform.system()}, {python}{busy}"


def write(folder: Path, rows: Sequence[Row], about: Iterable[str], left_out: Mapping[str, str]) -> None:
    """Replace the table in *folder*/benchmarks.md, and draw *folder*/benchmarks.svg."""
    page = folder / "benchmarks.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|--:" * (len(COLUMNS) - 1) + "|"]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    notes = [*about, *(f"left out: {name}" for name in left_out)]
    table = "\n".join([BEGIN, "", *lines, "", "; ".join(notes) + ".", "", END])
    page.write_text(before + table + after)
    (folder / "benchmarks.svg").write_text(plot(rows))


def plot(rows: Sequence[Row]) -> str:
    """Return bars of what the ways cost, and of what a kill costs."""
    panels = (
        ("CPU, times Scrapy alone", [row.cpu_ratio for row in rows], "{:.2f}"),
        ("work lost in a kill, s", [row.lost_seconds for row in rows], "{:.1f}"),
        ("items lost or twice", [row.items_lost + row.items_twice for row in rows], "{:,.0f}"),
    )
    width, height = _NAMES + len(panels) * (_PANEL + _NUMBER), _HEAD + len(rows) * _BAR + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        "<title>What ways to resume a crawl cost, and what a kill costs</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for at, row in enumerate(rows):
        parts.append(f'<text x="8" y="{_HEAD + at * _BAR + 14}">{escape(row.name)}</text>')
    for number, (title, values, form) in enumerate(panels):
        left, most = _NAMES + number * (_PANEL + _NUMBER), max(*values, 1e-9)
        parts.append(f'<text x="{left}" y="18" font-weight="bold">{title}</text>')
        for at, (row, value) in enumerate(zip(rows, values, strict=True)):
            top, length = _HEAD + at * _BAR, _PANEL * value / most
            colour = "#2a6f97" if row.name.startswith("scrapy_state") else "#adb5bd"
            parts.append(f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{_BAR - 6}" fill="{colour}"/>')
            parts.append(f'<text x="{left + length + 4:.1f}" y="{top + 13}">{form.format(value)}</text>')
    return "\n".join([*parts, "</svg>", ""])
