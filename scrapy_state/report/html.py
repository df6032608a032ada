"""The page itself: how the crawl is doing now, and what needs attention."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

from ..lineage.history import Run
from ..model.times import in_words, moment
from ..model.words import about, count_of, size
from .fields import Field
from .page import Page, utc
from .plots import plots
from .sections import checkpoints, failures, gaps, orphans, runs, short
from .svg import clean

_STATE_CHARACTERS = 4000


def render(page: Page) -> str:
    """Return the page as HTML. It loads nothing from anywhere."""
    name = clean(page.spider or (page.newest.spider if page.newest else None) or "State of a crawl")
    style = files(__package__).joinpath("page.css").read_text("utf-8")
    body = "\n".join(_now(page)) if page.newest is None else "\n".join(_sections(page))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{name}: state</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p class="faint">What this crawl has stored, and how it got there. State files: <code>{clean(page.uri)}</code></p>
</header>
<main>
{body}
</main>
<footer class="faint">Made by scrapy state report on {utc(page.made)}. All times are UTC. This page does not update itself:
run the command again to see what is new.</footer>
</body>
</html>
"""


def _sections(page: Page) -> Iterator[str]:
    yield from _now(page)
    yield from _troubles(page)
    yield from plots(page)
    yield from runs(page)
    empty = []
    # an empty section has nothing to say
    for name, section in (("Failures", failures), ("Gaps", gaps), ("Orphans", orphans)):
        found = list(section(page))
        empty += [] if found else [name]
        yield from found
    if empty:
        yield f"<section><h2>Nothing to look at</h2><p>{', '.join(empty)}: none.</p></section>"
    yield from checkpoints(page)


def _now(page: Page) -> Iterator[str]:
    """Whether the crawl is alive, where it is, and how fast it goes."""
    newest, age = page.newest, page.age_seconds
    if newest is None or not page.runs:
        yield '<section class="now" aria-label="Now"><strong>No checkpoint yet</strong>'
        yield "<p>A run stores one before its first request.</p></section>"
        return
    last, (kind, word, more) = page.runs[0], headline(page)
    yield f'<section class="now {kind}" aria-label="Now"><strong>{clean(word)}</strong><p>{clean(more)}</p></section>'
    yield '<dl class="facts">'
    where = "The next run begins a new crawl from" if newest.ended else "The next run continues from"
    yield _fact(where, f'<span class="state">{short(newest.state, _STATE_CHARACTERS)}</span>', "wide")
    rate = page.series.items_per_minute
    if rate is not None:
        average = _average(last)
        small = "" if average is None else f"the whole run: about {about(average)} a minute"
        yield _fact(
            f"Items a minute, {'recently' if kind == 'running' else 'at the end'}", f"about {about(rate)}<small>{small}</small>"
        )
    yield _fact(
        "Items stored", f"{newest.items:,}" + (f"<small>{newest.errors:,} failed and left out</small>" if newest.errors else "")
    )
    yield from _requests(page)
    id = "" if newest.id is None else f"number {newest.id:,}, "
    time = moment(newest.time)
    yield _fact("Newest checkpoint", f"{_age(page, time)}<small>{id}{utc(time)}</small>")
    typical = page.series.typical_seconds
    if kind == "running" and typical is not None and age is not None:
        late = utc(page.made - age + page.patience_seconds)
        yield _fact("A checkpoint every", f"{in_words(max(typical, 1))}<small>if none comes by {late}, look into it</small>")
    for state_field in page.series.plotted(2):
        yield from _speed(page, state_field)
    yield "</dl>"


def headline(page: Page) -> tuple[str, str, str]:
    """Return the kind of the newest run, what it is doing in a few words, and a sentence more. There must be a run."""
    last, age = page.runs[0], page.age_seconds
    if last.last.run is None and last.last.id is None:
        return "hand", "Perhaps running", "These state files do not say which run stored them."
    kind, ago = page.kind(last), "" if age is None else f"{in_words(age)} ago"
    word, more = {
        "running": (
            f"Running, or just killed: a checkpoint {ago}",
            "The newest run has not said that it ended. Whether it was killed since, only the next checkpoint will show.",
        ),
        "silent": (
            f"Killed or stuck: no checkpoint for {in_words(age or 0)}",
            "The newest run was killed, or it hangs. Start it again: it continues from the state below.",
        ),
        "finished": (f"Finished {ago}", "The newest run has finished."),
        "empty": (
            f"Finished {ago}, and stored nothing",
            "The newest run has finished without an item. Its log may say why.",
        ),
        "stopped": (f"Stopped {ago}", f"The newest run was stopped: {last.ended}. Start it again: it continues from here."),
        "hand": (f"Not running; a state was stored by hand {ago}", "The next run continues from it."),
        "failed": (f"Failed {ago}", f"The newest run failed: {last.ended}. See its log for the reason, then start it again."),
    }[kind]
    return kind, word, more


def _requests(page: Page) -> Iterator[str]:
    assert page.newest is not None
    requests = page.newest.requests
    if requests is not None:
        flying = f"{requests.in_flight:,} of them in flight; " if requests.in_flight else ""
        yield _fact("Requests pending", f"{requests.pending:,}<small>{flying}{requests.seen:,} seen</small>")
    if page.newest.missing_units or page.newest.ahead:
        done = f"{len(page.newest.ahead):,} done beyond the state"
        yield _fact("Units", f"{page.newest.missing_units:,} missing<small>{done}</small>")
    totals = page.newest.totals
    if totals is not None and totals.seconds:
        more = f"{totals.pages:,} responses; {size(totals.bytes)} in item files"
        yield _fact("Crawled for", f"{in_words(totals.seconds)}<small>{more}</small>")
    if page.newest.crawl is not None and page.requests is not None:
        yield _fact("Crawl", f"{page.newest.crawl}")


def _age(page: Page, time: float | None) -> str:
    if time is None:
        return "of unknown age"
    return f"{in_words(page.made - time)} ago" if time <= page.made else "from the future"


def _average(run: Run) -> float | None:
    first, last = moment(run.first.time), moment(run.last.time)
    return None if first is None or last is None or last <= first else run.items / (last - first) * 60


def _speed(page: Page, state_field: Field) -> Iterator[str]:
    speed = page.series.speed(state_field.name)
    if not speed:
        return
    way = "forward" if speed > 0 else "back"
    amount = f"{in_words(abs(speed) * 3600)} {way}" if state_field.is_time else f"about {about(abs(speed) * 60)} {way}"
    unit = "in an hour of crawling" if state_field.is_time else "a minute"
    yield _fact(f"{clean(state_field.name)} moves", f"{amount}<small>{unit}</small>")


def troubles(page: Page) -> list[str]:
    """Return sentences about what someone should look into, or wants to know."""
    return list(_trouble(page))


def _troubles(page: Page) -> Iterator[str]:
    """What someone should look into, or wants to know."""
    sentences = troubles(page)
    if sentences:
        listed = "".join(f"<li>{clean(sentence)}</li>" for sentence in sentences)
        yield f"<section><h2>Worth a look</h2><ul>{listed}</ul></section>"


def _trouble(page: Page) -> Iterator[str]:
    series, kinds = page.series, [page.kind(run) for run in page.runs]
    bad = [kind for kind in kinds[:10] if kind in ("failed", "killed", "silent")]
    if bad and len(kinds) > 1:
        yield f"{len(bad)} of the newest {min(len(kinds), 10)} runs failed or were killed: see Failures."
    if kinds[0] == "running":
        yield from _speed_trouble(page)
    age = page.age_seconds
    if age is not None and age < -5:
        yield f"The newest checkpoint is {in_words(-age)} from the future: the clocks of two machines differ."
    if series.clock_back:
        yield (
            f"{count_of(series.clock_back, 'checkpoint')} with an earlier time than the one before: the clocks of two machines "
            "differ, so speeds and gaps near there may be wrong."
        )
    if series.damaged_count:
        yield f"{count_of(series.damaged_count, 'state file')} can't be read: see Failures."
    if page.newest is not None and page.newest.errors:
        left_out = f"{_was(page.newest.errors)} left out (STATE_ON_ITEM_ERROR is skip)"
        yield f"{count_of(page.newest.errors, 'item')} failed and {left_out}."
    if page.requests is not None and page.requests.failed + page.requests.held:
        held = f", {page.requests.held:,} of them held for the next run" if page.requests.held else ""
        yield f"{count_of(page.requests.failed + page.requests.held, 'page')} failed{held}: see Failures."
    if series.overlaps:
        ids = ", ".join(map(str, series.overlaps))
        yield f"Overlap: checkpoint {ids} did not start where its parent ended. Items may appear twice, or be missing."
    beside = sum(not run.in_lineage for run in page.runs)
    if beside:
        yield f"{count_of(beside, 'run')} on other branches: items stored there are not part of the data set."
    if page.orphans:
        yield f"{count_of(len(page.orphans), 'orphan')}: item files of killed runs that no checkpoint names."


def _speed_trouble(page: Page) -> Iterator[str]:
    """What follows from the recent speed of the run."""
    rate, average = page.series.items_per_minute, _average(page.runs[0])
    if rate is not None and average and rate < average / 2:
        yield f"The crawl has slowed down: {about(rate)} items a minute recently, {about(average)} over the whole run."
    for state_field in page.series.plotted():
        speed, behind = page.series.speed(state_field.name), page.made - state_field.value
        if not state_field.is_time or not speed or not 3600 < behind < 30 * 86400:
            continue
        if speed < 0.9:
            yield f"{state_field.name} is falling behind: it is {in_words(behind)} old and moves more slowly than the clock."
        elif speed > 1.1:
            there = in_words(behind / (speed - 1))
            yield f"{state_field.name} is {in_words(behind)} behind the clock; at its recent speed it catches up in {there}."


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _fact(term: str, definition: str, kind: str = "") -> str:
    return f'<div class="{kind}"><dt>{term}</dt><dd>{definition}</dd></div>'
