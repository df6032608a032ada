"""Plots as inline SVG. Pure.

Shapes stretch with the page's width, text does not, so plots stay readable on a phone. The page's style leaves space on the
left for the labels of the y axis.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape

_STEPS_SECONDS = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200),
    *(86400 * days for days in (1, 2, 5, 10, 30, 91, 182, 365, 730, 1826, 3652, 18262, 36524, 182621, 365243)),
)
#: Control characters, characters that change the direction of text, and code points that are no characters
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
_MINUTE, _DAY = 60, 86400
_TOP, _BOTTOM = 8, 22


def clean(text: object) -> str:
    """Return *text* escaped for HTML and XML; characters that they can't hold are replaced."""
    return escape(_UNFIT.sub("\ufffd", str(text).encode("utf-8", "replace").decode()))


def day_and_time(seconds: float, pattern: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return seconds since 1970 as UTC for a person to read."""
    try:
        made = datetime(1970, 1, 1) + timedelta(seconds=seconds)
    except OverflowError:
        return "beyond all dates"
    return made.strftime(pattern.replace("%-d", str(made.day)).replace("%Y", f"{made.year:04}"))


@dataclass(frozen=True)
class Axis:
    """From *low* to *high*. *is_time*: in seconds since 1970."""

    low: float
    high: float
    is_time: bool = False

    @classmethod
    def of(cls, values: Iterable[float], is_time: bool = False) -> Axis | None:
        """Return an axis that covers all *values*; None if there are none, or if they can't be drawn."""
        all = list(values)
        if not all or not math.isfinite(max(all) - min(all)):
            return None
        low, high = min(all), max(all)
        margin = 0 if high > low else max(1, abs(low) / 1000)
        return cls(low - margin, high + margin, is_time)

    def at(self, value: float) -> float:
        """Return the position of *value*, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """Return about *count* round values, each with its label."""
        rough = (self.high - self.low) / count
        if self.is_time:
            step: float = next((seconds for seconds in _STEPS_SECONDS if seconds >= rough), _STEPS_SECONDS[-1])
        else:
            power = 10 ** math.floor(math.log10(rough))
            step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step)
        values = [number * step for number in range(first, min(math.floor(self.high / step), first + 4 * count) + 1)]
        return [(value, self._label(value, step)) for value in values]

    def _label(self, value: float, step: float) -> str:
        if not self.is_time:
            size, unit = (1e6, "M") if 1e6 <= abs(value) < 1e15 else (1e3, "k") if 1e4 <= abs(value) < 1e6 else (1, "")
            digits = math.ceil(math.log10(max(abs(self.low), abs(self.high)) / step)) + 2
            return f"{value / size:,.{min(max(digits, 6), 17)}g}{unit}"
        if step >= 28 * _DAY:
            return day_and_time(value, "%b %Y")
        if step >= _DAY or value % _DAY == 0:
            return day_and_time(value, "%-d %b")
        return day_and_time(value, "%H:%M" if step >= _MINUTE else "%H:%M:%S")


def line(points: Sequence[tuple[float, float]], kind: str = "line") -> str:
    """Return a line through *points*, each from 0 to 1 to the right and upwards."""
    if len(points) == 1:
        return dots(points, "side" if kind == "second" else "dot")
    corners = " ".join(f"{1000 * x:.1f},{1000 - 1000 * y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{corners}"/>' if points else ""


def dots(points: Iterable[tuple[float, float]], kind: str) -> str:
    """Return a dot at each of *points*. Dots are lines of zero length, which stay round when the plot is stretched."""
    path = "".join(f"M{1000 * x:.1f},{1000 - 1000 * y:.1f}h0" for x, y in points)
    return f'<path class="{kind}" d="{path}"/>' if path else ""


def bars(rectangles: Iterable[tuple[float, float, float]], kind: str = "bar") -> str:
    """Return bars, each given by its start, its end and its height, from 0 to 1."""
    path = "".join(
        f"M{1000 * start:.1f},1000V{1000 - 1000 * high:.1f}H{1000 * end:.1f}V1000Z"
        for start, end, high in rectangles
        if high > 0
    )
    return f'<path class="{kind}" d="{path}"/>' if path else ""


def plot(
    name: str,
    title: str,
    description: str,
    x: Axis,
    y: Axis,
    shapes: str,
    height: int = 190,
    labels: Iterable[tuple[float, float, str]] = (),
) -> str:
    """Return a whole plot.

    :param name: unique on the page
    :param title: with *description*, what the plot shows, for people who can't see it
    :param shapes: made by :func:`line`, :func:`dots` and :func:`bars`
    :param height: in pixels; the plot is as wide as the page
    :param labels: texts beside points, each point from 0 to 1 to the right and upwards
    """
    inside = height - _TOP - _BOTTOM
    ruled = ""
    for value, label in y.ticks(3):
        y_pixels = round(_TOP + inside * (1 - y.at(value)))
        ruled += f'<line class="grid" x1="0" x2="100%" y1="{y_pixels}" y2="{y_pixels}"/>'
        ruled += f'<text class="y" x="-6" y="{y_pixels + 4}" text-anchor="end">{clean(label)}</text>'
    beside = "".join(_label(right, _TOP + inside * (1 - up), text) for right, up, text in labels)
    return _svg(name, title, description, height, ruled + _stretched(shapes, _TOP, inside) + beside + _below(x, height))


def _label(right: float, y_pixels: float, text: str) -> str:
    """Return *text* to the left of a point, and above it; at the top well below it, out of the way of the line."""
    anchor, shift = ("end", -8) if right > 0.2 else ("start", 8)
    y_pixels = y_pixels - 8 if y_pixels > 24 else y_pixels + 36
    place = f'x="{100 * right:.2f}%" dx="{shift}" y="{y_pixels:.0f}" text-anchor="{anchor}"'
    return f'<text class="value" {place}>{clean(text)}</text>'


def strips(
    name: str, title: str, description: str, x: Axis, rows: Sequence[tuple[str, str, Iterable[tuple[float, float]]]]
) -> str:
    """Return rows of stretches along *x*. A row is its text, its kind, and the start and end of each stretch, from 0 to 1."""
    height, shapes = 34 * len(rows) + _BOTTOM, ""
    for number, (text, kind, stretches) in enumerate(rows):
        top = 34 * number
        units = {
            (math.floor(1000 * start), max(math.floor(1000 * start) + 3, math.ceil(1000 * end))) for start, end in stretches
        }
        path = "".join(f"M{start},0V1000H{end}V0Z" for start, end in sorted(units))
        shapes += f'<text x="0" y="{top + 13}">{clean(text)}</text>'
        shapes += f'<line class="grid" x1="0" x2="100%" y1="{top + 31}" y2="{top + 31}"/>'
        shapes += _stretched(f'<path class="{kind}" d="{path}"/>', top + 18, 12)
    return _svg(name, title, description, height, shapes + _below(x, height))


def _stretched(shapes: str, top: int, height: int) -> str:
    return (
        f'<svg x="0" y="{top}" width="100%" height="{height}" viewBox="0 0 1000 1000" preserveAspectRatio="none" '
        f'overflow="visible">{shapes}</svg>'
    )


def _below(x: Axis, height: int) -> str:
    labels = ""
    for value, label in x.ticks(4):
        percent = 100 * x.at(value)
        anchor = "end" if percent > 93 else "middle"  # a label on the left edge has the space of the y axis
        labels += f'<text x="{percent:.2f}%" y="{height - 6}" text-anchor="{anchor}">{clean(label)}</text>'
    return labels


def _svg(name: str, title: str, description: str, height: int, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="{name}-title {name}-desc" width="100%" '
        f'height="{height}"><title id="{name}-title">{clean(title)}</title><desc id="{name}-desc">{clean(description)}</desc>'
        f"{content}</svg>"
    )
