"""The page of ``scrapy state report``: it is complete and says what it should; text from a state stays text."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from commands import run
from histories import History, state
from pages import CHROMIUM, Page, browser_says

from scrapy_state.lineage.history import StateFile, runs
from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.item_file import ItemFile
from scrapy_state.model.requests import Requests
from scrapy_state.model.totals import Totals
from scrapy_state.report import FailedPage, Series, render
from scrapy_state.report import Page as Report
from scrapy_state.report.series import Buckets
from scrapy_state.report.svg import Axis

pytestmark = pytest.mark.long

NOW = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
HEADINGS = ("Worth a look", "Over time", "Runs", "Failures", "Gaps", "Orphans", "Checkpoints")


def past(
    states: list[dict[str, Any]], *, seconds: float = 60, until: datetime = NOW, run: str = "r1", reason: str | None = None
) -> list[Checkpoint]:
    """A run's checkpoints, oldest first, one for each state, *seconds* apart, the last one made at *until* for *reason*."""
    found: list[Checkpoint] = []
    for number, each in enumerate(states, 1):
        time = until - timedelta(seconds=seconds * (len(states) - number))
        last = number == len(states)
        found.append(
            Checkpoint(
                each, number, number - 1 or None, run=run, spider="numbers", items=10 * (number - 1),
                time=time.isoformat().replace("+00:00", "Z"),
                files=() if number == 1 else (ItemFile(f"file:///{run}-{number}", 10),),
                reason="opened" if number == 1 else reason if last else None,
            )
        )  # fmt: skip
    return found


def page_of(checkpoints: list[Checkpoint], now: datetime = NOW, **more: Any) -> Page:
    """The page of *checkpoints*, oldest first, made at *now*."""
    return Page(source_of(checkpoints, now, **more))


def source_of(checkpoints: list[Checkpoint], now: datetime = NOW, **more: Any) -> str:
    newest = checkpoints[-1] if checkpoints else None
    series = Series(newest)
    found = (StateFile(each.id, f"file:///{each.id}", each) for each in reversed(checkpoints))
    listed = runs(series.noting(found), newest)
    return render(Report("file:///state/", None, now.timestamp(), newest, series, listed, **{"orphans": [], **more}))


def test_page_is_complete(history: History, tmp_path: Path) -> None:
    """The command writes one page with the state, the plots, each run and how it ended, failures and orphans."""
    history.run(3, reason="finished")
    killed = history.run(2, reason=None)
    orphan = history.file(f"{killed}-00009.jsonl", b"{}\n", 1)
    history.run(2, reason="state_store_failed", at=3)
    history.run(1, reason="shutdown")
    history.run(1, reason=None)
    ran = state(history, "report", "-o", str(tmp_path / "out.html"))
    assert (ran.code, ran.out, ran.err) == (0, f"{tmp_path / 'out.html'}\n", "")
    page = Page((tmp_path / "out.html").read_text())
    for heading in HEADINGS:
        assert heading in page.text
    assert page.tags.count("svg") >= 2 * 3
    assert page.tags.count("table") == page.tags.count("caption")
    for text in (
        "Running",
        "killed",
        "failed: state_store_failed",
        "stopped early: shutdown",
        "another branch",
        orphan.uri,
        "UTC",
    ):
        assert text in page.text
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "out.html"]


def test_json_and_stdout(history: History, tmp_path: Path) -> None:
    """--json prints what the page shows, and writes no file; -o - prints the page. Both together are an error."""
    history.run(2)
    before = sorted(tmp_path.rglob("*"))
    found = state(history, "report", "--json").json
    assert sorted(tmp_path.rglob("*")) == before
    expected = {
        "checkpoints": 3, "newest_run": "finished", "damaged": 0, "failed_runs": 0, "orphans": [], "gaps": [], "crawl": 1,
        "worth_a_look": [], "failed_pages": [], "units_missing": 0,
        **dict.fromkeys(("pending", "in_flight", "seen", "failed", "held")),
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["newest"]["state"] == {"page": 2}
    assert [(run["kind"], run["items"]) for run in found["runs"]] == [("finished", 2)]
    assert "Finished" in Page(state(history, "report", "-o", "-", "--no-orphans").out).text
    assert state(history, "report", "--json", "-o", "x.html").code == 2


def test_after_the_last_state(history: History) -> None:
    """What a run stored after its last state is no orphan if the run ended: the page advises nobody to delete it."""
    ended = history.run(2)
    file = history.file(f"{ended}-00009.jsonl", b"{}\n", 1)
    page = Page(state(history, "report", "-o", "-").out)
    assert "After the last state: runs that ended stored these files" in page.text
    assert file.uri in page.text
    assert "orphans --delete" not in page.text


def test_unwritable_page_is_one_line(history: History) -> None:
    """If the page can't be written, one line says what to do, and the exit code is 2."""
    history.run(1)
    ran = state(history, "report", "-o", "/nowhere/state.html")
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert "name another file" in ran.err


def test_no_checkpoint_yet(history: History, tmp_path: Path) -> None:
    """Before the first checkpoint the page says that there is none; the exit code is 1."""
    ran = state(history, "report", "-o", str(tmp_path / "out.html"))
    assert ran.code == 1
    assert "no checkpoint at" in ran.err
    assert "No checkpoint yet" in Page((tmp_path / "out.html").read_text()).text


def test_pruned_and_damaged(history: History) -> None:
    """The page counts pruned checkpoints. It shows a damaged file as a failure, and then does not know the orphans."""
    for _ in range(3):
        history.run(4)
    assert run(Path("/"), "prune", history.uri, "--keep", "3").code == 0
    history.replace(14, b"[torn")
    page = Page(state(history, "report", "-o", "-").out)
    assert "14 checkpoints" in page.text
    assert "it is not whole JSON" in page.text
    assert "Not known: some state files can" in page.text


def test_bad_text_stays_text() -> None:
    """Markup, quotes, control characters, reversing characters and lone surrogates all stay text, wherever they are stored."""
    bad = "</code></svg><script>alert(1)</script><img src=x onerror=alert(2)> \"' & \x00\x1b[31m \u202e \ud800 ]]> <!-- {}"
    first, second, third = past([{bad: 1, "t": "2026-01-01"}, {bad: 2, "t": "2026-01-02"}, {bad: 5, "t": "2026-01-03"}])
    second = replace(second, reason=bad, job=bad)
    third = replace(third, run=bad, spider=bad)
    source = source_of([first, second, third], orphans=[bad], orphans_why=bad, left_out=[bad])
    page = Page(source)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", source)
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>" in page.text
    assert source.encode()


@pytest.mark.parametrize(
    ("states", "plotted"),
    [
        ([{"t": f"2026-01-0{n}T00:00"} for n in range(1, 5)], ["State: t"]),
        ([{"at": {"page": n, "t": "x"}, "n": 1} for n in range(4)], ["State: at.page"]),
        ([{"a.b": n, "n": -n, "to and fro": n % 2} for n in range(4)], ["State: a.b", "State: n"]),
        ([{"n": n % 2} for n in range(1, 4)], ["State: n"]),
        ([{"cursor": f"{n:x}{'c' * 5000}"} for n in range(4)], []),
        ([{"n": 10**400 + n, "b": n > 2, "none": None, "list": [n], "bad": "2026-02-30"} for n in range(4)], []),
        ([{"n": 1e308}, {"n": -1e308}, {"n": 1e308}], []),
        ([{}, {"n": 1}, {"n": "2026-01-01"}, {"n": 4}], ["State: n"]),
        ([{"n": 1e17}, {"n": 1e17 + 16}], ["State: n"]),
        ([{"t": "0001-01-01T00:00+14:00"}, {"t": "9999-12-31T23:59-12"}], ["State: t"]),
        ([{str(n): {str(m): m for m in range(100)} for n in range(100)}] * 3, []),
    ],
)  # fmt: skip
def test_fields_that_make_progress_are_plotted(states: list[dict[str, Any]], plotted: list[str]) -> None:
    """Numbers and dates that make progress are plotted, by dotted name; everything else in the state is shown as text."""
    page = page_of(past(states))
    assert sorted(each for each in page.titles if each.startswith("State: ")) == plotted
    assert json.dumps(states[-1], ensure_ascii=False)[:100] in page.text


def test_one_checkpoint() -> None:
    """With one checkpoint there is nothing to plot, and the page says so."""
    page = page_of(past([{"n": 1}]))
    assert "too little to draw" in page.text
    assert "svg" not in page.tags


def test_files_without_times() -> None:
    """State files of Scrapy's own exporter have no time, id or run. They are plotted in their order."""
    page = page_of([Checkpoint({"n": n}) for n in range(5)])
    for text in ("Perhaps running", "the files carry no times", "Not known: the state files carry no times"):
        assert text in page.text


def test_whether_it_is_alive() -> None:
    """A run without a last checkpoint is running or killed; or killed or stuck, after five times the usual time."""
    found = past([{"n": n} for n in range(20)], seconds=120)
    assert "Running, or just killed: a checkpoint 9 min 50 s ago" in page_of(found, NOW + timedelta(seconds=590)).text
    assert "Killed or stuck: no checkpoint for 10 min" in page_of(found, NOW + timedelta(seconds=620)).text
    assert "Finished 2 h ago" in page_of([*found[:-1], replace(found[-1], reason="finished")], NOW + timedelta(hours=2)).text
    assert "Failed" in page_of([*found[:-1], replace(found[-1], reason="state_item_failed")]).text


def with_requests(checkpoints: list[Checkpoint], **counts: int) -> list[Checkpoint]:
    """*checkpoints* of crawl 2 with requests: one more seen in each, one fewer pending, and *counts*."""
    start = {"state": {}, "ended": True}
    return [
        replace(each, crawl=2, requests=Requests((), start, pending=70_000 - n, seen=40_000 + n, **counts))
        for n, each in enumerate(checkpoints)
    ]


def test_requests() -> None:
    """The page plots pending and seen requests over time, and the tables count them."""
    page = page_of(with_requests(past([{"n": n} for n in range(20)]), in_flight=16, failed=3, held=2))
    assert "Requests" in page.titles
    assert "Dashed line: pending, 69,981 at its end and 70,000 at most." in page.text
    assert "Solid line: seen, 40,019 at its end." in page.text
    assert re.search(r"Requests pending\s*69,981\s*16 of them in flight; 40,019 seen", page.text)
    assert "5 pages failed, 2 of them held for the next run: see Failures." in page.text
    assert page.text.count("crawl 2: 69,981 pending, 40,019 seen, 5 failed") == 2  # the run, and its newest checkpoint


def test_no_requests() -> None:
    """Without requests in the checkpoints nothing on the page mentions them."""
    page = page_of([replace(each, crawl=1) for each in past([{"n": n} for n in range(20)])])
    assert "Requests" not in page.titles
    assert not re.search("pending|pages? failed|crawl\n", page.text)


def test_failed_pages() -> None:
    """The page lists up to 1,000 pages that failed, with reasons, also after the crawl has ended without requests."""
    found = with_requests(past([{"n": n} for n in range(3)]), failed=1500, held=1)
    found.append(replace(found[-1], id=4, parent=3, requests=None, reason="nothing new", ended=True))
    bad = "https://x/<script>&"
    failed = [FailedPage(bad, "HTTP 500"), FailedPage("https://x/held", "ValueError", held=True)]
    failed += [FailedPage(f"https://x/{n}", "<b>") for n in range(998)]
    page = page_of(found, failed_pages=failed)
    assert "1,501 pages failed in this crawl" in page.text
    assert "The next run begins a new crawl from" in page.text
    assert "finished: nothing new" in page.text
    for text in (bad, "HTTP 500", "skipped", "the next run tries it again", "https://x/997", "<b>"):
        assert text in page.text
    assert "And 501 more: see scrapy state frontier --failed." in page.text
    unknown = page_of(found, failed_pages_why="x.tsv.gz is missing")
    assert "1,501 pages failed in this crawl. Which ones is not known: x.tsv.gz is missing" in unknown.text


def test_failed_pages_of_an_older_crawl() -> None:
    """A new crawl has no failed pages of the crawl before."""
    found = with_requests(past([{"n": n} for n in range(3)]), failed=7)
    found.append(replace(found[-1], id=4, parent=3, crawl=3, requests=None, reason="opened", run="r2"))
    assert "pages failed" not in page_of(found).text


def test_crawl_that_stored_nothing() -> None:
    """A run that finished without an item is not a success like any other."""
    found = [replace(each, files=(), items=0) for each in past([{"n": 1}, {"n": 1}], reason="finished")]
    page = page_of(found)
    assert "Finished 0 s ago, and stored nothing" in page.text
    assert "finished, stored nothing" in page.text
    assert 'class="now finished"' not in source_of(found)
    assert 'class="now finished"' in source_of(past([{"n": 1}, {"n": 1}], reason="finished"))


def test_empty_sections_are_folded() -> None:
    """What has nothing to say is named in one line."""
    page = page_of(past([{"n": 1}, {"n": 2}], reason="finished"))
    assert "Failures, Gaps, Orphans: none." in page.text
    assert "Worth a look" not in page.text
    found = past([{"n": 1}, {"n": 2}], reason="state_item_failed")
    assert "Gaps, Orphans: none." in page_of(found).text
    assert "Failures, Gaps" not in page_of(found).text


def test_units_totals_and_numbers() -> None:
    """The page counts units and totals, labels the newest value of a plot, and writes numbers without exponents."""
    found = past([{"n": 1410 * n} for n in range(20)])
    found[-1] = replace(found[-1], ahead=("x",) * 56, missing_units=28, totals=Totals(5210, 12_000, 1_200_000))
    page = page_of(found)
    assert re.search(r"Units\s*28 missing\s*56 done beyond the state", page.text)
    assert re.search(r"Crawled for\s*3 h 20 min\s*5,210 responses; 1.2 MB in item files", page.text)
    assert re.search(r"n moves\s*about 1,410 forward\s*a minute", page.text)
    assert not re.search(r"\de\+\d", page.text)
    assert 'text-anchor="end">26,790</text>' in source_of(found)


def test_clocks_that_differ() -> None:
    """The page mentions times that go back or are in the future, and draws nothing wrong because of them."""
    found = past([{"n": n} for n in range(6)])
    found[3] = replace(found[3], time="2026-11-21T09:00:00Z")
    page = page_of(found, NOW - timedelta(minutes=3))
    assert "1 checkpoint with an earlier time than the one before" in page.text
    assert "3 min from the future" in page.text


def test_gaps() -> None:
    """A long wait within a run and the time between two runs are gaps; a usual wait is not."""
    first = past([{"n": n} for n in range(30)], until=NOW - timedelta(hours=5), reason="finished")
    second = [
        replace(each, id=(each.id or 0) + 30, parent=(each.parent or 0) + 30, run="r2") for each in past([{"n": 30}] * 30)
    ]
    first[:10] = [replace(each, time=each.time.replace("T06", "T04")) for each in first[:10] if each.time]
    page = page_of([*first, *second])
    assert re.findall(r"(\d+ h \d+ min)\n(no run|run \w+ stored nothing)", page.text) == [
        ("4 h 31 min", "no run"), ("2 h 1 min", "run r1 stored nothing"),
    ]  # fmt: skip


def test_speed() -> None:
    """The page mentions a crawl that has slowed down, and one that falls behind the clock."""
    states = [{"t": (NOW - timedelta(hours=20) + timedelta(seconds=20 * n)).isoformat()} for n in range(40)]
    found = past(states, seconds=60)
    found[-15:] = [replace(each, files=(), items=250) for each in found[-15:]]
    page = page_of(found)
    assert "The crawl has slowed down: 0 items a minute" in page.text
    assert "t is falling behind" in page.text


def million(length: int) -> Iterator[StateFile]:
    """Runs of 1,000 checkpoints, newest first."""
    for id in range(length, 0, -1):
        time = (NOW - timedelta(seconds=30 * (length - id))).isoformat().replace("+00:00", "Z")
        file = ItemFile(f"file:///{id}", 7)
        yield StateFile(
            id,
            "",
            Checkpoint({"n": id, "t": time}, id, id - 1 or None, run=f"r{id // 1000}", time=time, items=7 * id, files=(file,)),
        )


def test_very_many_checkpoints_make_a_small_page() -> None:
    """The page and its memory stay small however many checkpoints there are, and the ends of lines stay exact."""
    newest = next(million(10_000)).checkpoint
    series = Series(newest)
    listed = runs(series.noting(million(10_000)), newest)
    assert len(series.buckets.by_index) <= 601
    assert sum(each.items for each in series.buckets.by_index.values()) == pytest.approx(7 * (10_000 - 10), rel=0.001)
    source = render(Report("", None, NOW.timestamp(), newest, series, listed))
    Page(source)
    assert len(source) < 200_000
    assert "From 1 to 10,000." in source


def test_items_are_spread_over_the_time_they_took() -> None:
    """Whatever the order and the widths, no item is lost or counted twice."""
    chance = random.Random(5)
    buckets = Buckets()
    total = 0
    for _ in range(300):
        start = chance.uniform(-1e6, 1e6)
        items = chance.randrange(100)
        buckets.spread(start, start + chance.choice([0.001, 1, 60, 1e5]), items)
        total += items
    assert sum(each.items for each in buckets.by_index.values()) == pytest.approx(total)
    assert sum(each.items for *_, each in buckets.bars()) == pytest.approx(total)
    assert len(buckets.bars()) <= 120


@pytest.mark.parametrize("high", [1e-9, 1, 7, 1e6, 1e15, 1e300])
@pytest.mark.parametrize("is_time", [False, True])
def test_ticks_are_few_and_inside(high: float, is_time: bool) -> None:
    """An axis of any length has a few ticks, all inside it."""
    axis = Axis(0, high, is_time)
    ticks = axis.ticks(4)
    assert len(ticks) <= 17
    assert all(0 <= axis.at(value) <= 1 for value, _ in ticks)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_browser_does_not_complain(tmp_path: Path) -> None:
    """Chromium logs no error and loads nothing from elsewhere; the page fits a phone, and is dark if its reader likes that."""
    numbers = count()
    found = past([{"t": f"2026-01-01T00:{next(numbers):02}", "long": "x" * 300} for _ in range(60)], run="x" * 200)
    page = tmp_path / "state.html"
    page.write_text(source_of(found, orphans=[f"s3://bucket/{'y' * 200}/{n}" for n in range(30)]))
    said, outer = browser_says(page, tmp_path)
    assert said.strip() == ""
    assert "<title>width 360 of 360, color rgb(17, 22, 28)</title>" in outer
