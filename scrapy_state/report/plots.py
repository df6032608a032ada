"""The plots of the report: the state, the items, the time between checkpoints and the runs, all along one axis."""

from __future__ import annotations

from collections.abc import Iterator

from ..model.times import in_words, moment
from ..model.words import about, count_of
from .fields import Field
from .page import KINDS, Page, utc
from .series import Point, Series
from .svg import Axis, bars, clean, day_and_time, dots, line, plot, strips


def plots(page: Page) -> Iterator[str]:
    """The state, the items and the time between checkpoints over time, and beneath them the runs."""
    series = page.series
    yield "<section><h2>Over time</h2>"
    if series.checkpoints < 2 or series.start is None or series.end is None or series.end <= series.start:
        yield "<p>There is too little to draw yet: it takes two checkpoints at different times.</p></section>"
        return
    if series.has_times:
        x = Axis(series.start, series.end, True)
        span = f"From {utc(x.low)} to {utc(x.high)}"
    else:
        x = Axis(series.start, series.end)
        span = f"The newest is on the right; the files carry no times. {count_of(series.checkpoints, 'state file')}"
    yield f'<p class="faint">{span}.</p>'
    for number, state_field in enumerate(series.plotted()):
        yield from _state_plot(page, x, state_field, f"state-{number}")
    if any(point.items for point, _ in _points(series)):
        stored: list[tuple[float, float]] = [(point.at, point.items) for point, main in _points(series) if main]
        yield from _line_plot(page, x, "stored", "Items stored", False, stored, [])
    yield from _requests_plot(series, x)
    if series.has_times:
        yield from _rate_plot(page, x)
        yield from _interval_plot(page, x)
        yield from _runs_plot(page, x)
    yield "</section>"


def _points(series: Series) -> Iterator[tuple[Point, bool]]:
    if series.oldest is not None:
        yield series.oldest, True
    for _, bucket in sorted(series.buckets.by_index.items()):
        if bucket.side is not None:
            yield bucket.side, False
        if bucket.point is not None and bucket.point != series.oldest:
            yield bucket.point, True


def _state_plot(page: Page, x: Axis, state_field: Field, name: str) -> Iterator[str]:
    main: list[tuple[float, float]] = []
    side: list[tuple[float, float]] = []
    for point, in_lineage in _points(page.series):
        if state_field.name in point.values:
            (main if in_lineage else side).append((point.at, point.values[state_field.name]))
    yield from _line_plot(page, x, name, f"State: {state_field.name}", state_field.is_time, main, side)


def _line_plot(
    page: Page, x: Axis, name: str, title: str, is_time: bool, main: list[tuple[float, float]], side: list[tuple[float, float]]
) -> Iterator[str]:
    y = Axis.of((value for _, value in (*main, *side)), is_time)
    if y is None or not main:
        return
    first, last = (day_and_time(value) if is_time else f"{value:,.10g}" for _, value in (main[0], main[-1]))
    shapes = dots([(x.at(at), y.at(value)) for at, value in side], "side")
    shapes += line([(x.at(at), y.at(value)) for at, value in main])
    shapes += dots([(x.at(main[-1][0]), y.at(main[-1][1]))], "dot")
    newest = x.at(main[-1][0]), y.at(main[-1][1]), last
    note = " Dots beside the line are other branches." if side else ""
    yield _figure(
        title,
        f"From {first} to {last}.{note}",
        plot(name, title, f"A line from {first} to {last}.", x, y, shapes, labels=[newest]),
    )


def _requests_plot(series: Series, x: Axis) -> Iterator[str]:
    points = [point for point, main in _points(series) if main]
    pending = [(point.at, float(point.pending)) for point in points if point.pending is not None]
    seen = [(point.at, float(point.seen)) for point in points if point.seen is not None]
    y = Axis.of([0, *(value for _, value in (*pending, *seen))])
    if y is None or not pending:
        return
    shapes = line([(x.at(at), y.at(value)) for at, value in seen])
    shapes += line([(x.at(at), y.at(value)) for at, value in pending], "second")
    most = max(value for _, value in pending)
    text = (
        f"Solid line: seen, {seen[-1][1]:,.0f} at its end. Dashed line: pending, {pending[-1][1]:,.0f} at its end and "
        f"{most:,.0f} at most. As long as it rises, the crawl finds pages faster than it fetches them."
    )
    newest = [
        (x.at(points[-1][0]), y.at(points[-1][1]), f"{points[-1][1]:,.0f} {what}")
        for points, what in ((seen, "seen"), (pending, "pending"))
        if points
    ]
    yield _figure("Requests", text, plot("requests", "Requests", text, x, y, shapes, labels=newest))


def _rate_plot(page: Page, x: Axis) -> Iterator[str]:
    # The first and the last bar cover less time than the others.
    heights = [
        (start, end, bucket.items / max(min(end, x.high) - max(start, x.low), 1) * 60)
        for start, end, bucket in page.series.buckets.bars()
    ]
    most = max((high for _, _, high in heights), default=0)
    if most:
        wide = in_words(heights[0][1] - heights[0][0])
        text = f"Each bar covers {wide}; the highest is about {about(most)} a minute. All branches together."
        yield _bar_plot(x, "rate", "Items a minute", text, heights, most)


def _interval_plot(page: Page, x: Axis) -> Iterator[str]:
    heights = [(start, end, bucket.longest) for start, end, bucket in page.series.buckets.bars()]
    most = max((high for _, _, high in heights), default=0)
    if most:
        usual = page.series.typical_seconds
        text = f"Each bar shows the longest wait within a run; the longest of all is {in_words(most)}"
        text += "." if usual is None else f", typically {in_words(usual)} recently. If the bars grow, something is slow."
        yield _bar_plot(x, "interval", "Seconds from checkpoint to checkpoint", text, heights, most, " s")


def _bar_plot(
    x: Axis, name: str, title: str, text: str, heights: list[tuple[float, float, float]], most: float, unit: str = ""
) -> str:
    y = Axis(0, most)
    newest = (min(x.at(heights[-1][1]), 1), y.at(heights[-1][2]), f"{about(heights[-1][2])}{unit}")
    inside = ((max(x.at(start), 0), min(x.at(end), 1), y.at(high)) for start, end, high in heights)
    return _figure(title, text, plot(name, title, text, x, y, bars(inside), 150, [newest]))


def _runs_plot(page: Page, x: Axis) -> Iterator[str]:
    stretches: dict[str, list[tuple[float, float]]] = {}
    for run in page.runs:
        first, last = moment(run.first.time), moment(run.last.time)
        if first is not None and last is not None:
            first, last = sorted((first, last))
            stretches.setdefault(page.kind(run), []).append((x.at(first), x.at(last)))
    rows = [(f"{words}: {len(stretches[kind])}", kind, stretches[kind]) for kind, words in KINDS.items() if kind in stretches]
    if rows:
        text = "When runs were active, by how they ended. A killed run is drawn up to its last checkpoint."
        yield _figure("Runs", text, strips("runs", "Runs", text + " " + ", ".join(row[0] for row in rows), x, rows))


def _figure(title: str, text: str, drawn: str) -> str:
    return f"<figure><h3>{clean(title)}</h3><figcaption>{clean(text)}</figcaption>{drawn}</figure>"
