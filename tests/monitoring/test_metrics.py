"""STATE_METRICS_FILE: a file that Prometheus can read, whenever it looks."""

from __future__ import annotations

import re
from pathlib import Path

from crawls import STORING_SPIDER, checkpoints, crawl
from scrapy.statscollectors import StatsCollector
from scrapy.utils.test import get_crawler

from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.requests import Requests
from scrapy_state.model.totals import Totals
from scrapy_state.monitoring.metrics import as_text, values_of

LINE = re.compile(r'(scrapy_state_\w+)\{spider="([^"]*)"\} (\S+)')


def read(text: str) -> dict[str, float]:
    """Return the metrics in *text*; fail unless each has its HELP and TYPE, as the format demands."""
    lines = text.splitlines()
    found = {}
    for help, kind, value in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        match = LINE.fullmatch(value)
        assert match, value
        assert help.startswith(f"# HELP {match[1]} ")
        assert kind in (f"# TYPE {match[1]} gauge", f"# TYPE {match[1]} counter")
        assert kind.endswith("counter") == match[1].endswith("_total")
        found[match[1].removeprefix("scrapy_state_")] = float(match[3])
    return found


def test_crawl(tmp_path: Path) -> None:
    """After a crawl the file says what its last checkpoint says; nothing else is left in the folder."""
    (tmp_path / "metrics").mkdir()
    settings = {"STATE_METRICS_FILE": "metrics/%(name)s.prom", "STATE_INTERVAL": 0}
    run = crawl(tmp_path, STORING_SPIDER, settings=settings)
    assert run.code == 0, run.log
    assert [path.name for path in (tmp_path / "metrics").iterdir()] == ["numbers.prom"]
    found, last = read((tmp_path / "metrics/numbers.prom").read_text()), checkpoints(tmp_path)[-1]
    assert (found["items_total"], found["checkpoint_id"], found["ended"]) == (last["items"], last["id"], 1)
    assert found["bytes_total"] == last["totals"]["bytes"] > 0
    assert found["checkpoint_timestamp_seconds"] > 1.7e9
    assert found["checkpoint_duration_seconds"] > 0


def test_file_that_cannot_be_written(tmp_path: Path) -> None:
    """If the folder is missing, one warning says so, and the crawl is not affected."""
    run = crawl(tmp_path, STORING_SPIDER, settings={"STATE_METRICS_FILE": "nowhere/x.prom", "STATE_INTERVAL": 0})
    assert run.code == 0, run.log
    assert [line.partition("WARNING: ")[2] for line in run.lines("STATE_METRICS_FILE")] == [
        "STATE_METRICS_FILE nowhere/x.prom can't be written: No such file or directory. The crawl goes on"
    ]


def test_values() -> None:
    """Each number comes from the checkpoint or the stats; a spider's name can't break the format."""
    stats = StatsCollector(get_crawler())
    stats.set_value("state/items_waiting", 4)
    requests = Requests(start={"state": {}, "ended": True}, pending=7, failed=2, held=1)
    checkpoint = Checkpoint(
        {}, 5, time="2026-11-21T00:00:00Z", items=9, errors=3, requests=requests, missing_units=6, totals=Totals(10, 2.5, 99)
    )
    found = values_of(checkpoint, stats)
    assert found["checkpoint_timestamp_seconds"] == 1795219200
    expected = {
        "items": 9, "pages": 10, "crawl_seconds": 2.5, "bytes": 99, "waiting_items": 4, "failed_items": 3, "failed_pages": 3,
        "pending_requests": 7, "missing_units": 6, "ended": 0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert '{spider="a\\"b\\\\c\\nd"} 9\n' in as_text(found, {"spider": 'a"b\\c\nd'})
