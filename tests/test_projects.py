"""What projects have that plain Scrapy runs: it runs with scrapy_state, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crawls import ITEMS, SPIDER, STATE_OPTIONS, STATES, crawl, named_items

ALL_ITEMS = [{"page": page, "n": n} for page in range(3) for n in range(2)]
OUTSIDE = {"format": "jsonlines", "checkpoint": False}
WHERE = "    where = property(lambda self: 1 / 0)"


def test_settings_of_its_own(tmp_path: Path) -> None:
    """A project's own settings STATES and STATE_PATH keep no crawl from starting; one warning each says what may be meant."""
    run = crawl(tmp_path, settings={"STATES": "TX,CA", "STATE_PATH": "/states", "LOG_LEVEL": "INFO"})
    assert named_items(tmp_path) == ALL_ITEMS
    warnings = run.lines("WARNING")
    assert len(warnings) == 2
    assert " STATES in scrapy_state. If STATE is meant" in warnings[0]
    assert " STATE_PATH in scrapy_state. If STATE_AT is meant" in warnings[1]


def test_attributes_and_uri_params(tmp_path: Path) -> None:
    """Attributes may raise, always or until there is an engine; a FEED_URI_PARAMS function may read what varies."""
    source = (
        SPIDER
        + """
    @property
    def broken(self):
        raise ZeroDivisionError

    @property
    def scheduler(self):
        return type(self.crawler.engine._slot.scheduler).__name__

def params(params, spider):
    assert "broken" not in params
    params.update(day=params["batch_time"][:4], part=params["batch_id"], which=params["run_id"], at=params["time"])
    return params
"""
    )
    items = "data/numbers/items/%(scheduler)s-%(day)s-%(which)s-%(part)05d-%(run_id)s-%(batch_id)d.jsonl"
    feeds = {items: {"format": "jsonlines"}, STATES: STATE_OPTIONS, "plain-%(scheduler)s.jsonl": OUTSIDE}
    settings = {"FEED_URI_PARAMS": "spider.params", "LOG_LEVEL": "INFO"}
    writing = crawl(tmp_path, source, settings={**settings, "FEEDS": feeds})
    del feeds[items]
    feeds[f"dev/{items}"] = {"format": "jsonlines"}
    reading = crawl(tmp_path, source, settings={**settings, "FEEDS": feeds, "STATE_READONLY": True})
    for run in (writing, reading):
        assert run.code == 0, run.log
        assert not run.lines("ERROR"), run.log
    assert named_items(tmp_path) == ALL_ITEMS
    assert len(list(tmp_path.glob("data/numbers/items/Scheduler-20*-00001-20*-1.jsonl"))) == 1
    assert len(list(tmp_path.glob("dev/data/numbers/items/Scheduler-20*-00001-20*-1.jsonl"))) == 1
    assert len((tmp_path / "plain-Scheduler.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("more", "settings", "expected"),
    [
        (WHERE, {"FEEDS": {f"%(where)s/{ITEMS}": {}, STATES: STATE_OPTIONS}}, "'where'"),
        (WHERE, {"FEEDS": {ITEMS: {}, f"%(where)s/{STATES}": STATE_OPTIONS}}, "'where'"),
        ("def params(params, spider):\n    params['no']", {"FEED_URI_PARAMS": "spider.params"}, "FEED_URI_PARAMS: "),
        ("    state = property(lambda self: {})", {}, "spider.state"),
        ("    state = property(lambda self: 1 / 0)", {}, "spider.state"),
    ],
)
def test_refused(tmp_path: Path, more: str, settings: dict[str, Any], expected: str) -> None:
    """What can't work is one line that names it, without a trace."""
    run = crawl(tmp_path, f"{SPIDER}\n{more}\n", settings={"LOG_LEVEL": "INFO", **settings})
    assert run.code == 1
    [line] = run.lines("ERROR")
    assert "the crawl does not start: " in line
    assert expected in line
    assert "Traceback" not in run.log
