"""StateResolver: which state a crawl starts from, and what a project may say about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crawls import FEEDS, SPIDER, STATE_OPTIONS, checkpoints, crawl, untouched
from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.settings import Settings

from scrapy_state import StateResolver
from scrapy_state.exceptions import StateError


def resolved(settings: dict[str, Any], name: str = "numbers") -> StateResolver:
    """Return the extension of a crawl with *settings*, once it has found where to start."""
    crawler = Crawler(type("TestSpider", (Spider,), {"name": name}), Settings(settings))
    crawler.spider = crawler.spidercls.from_crawler(crawler)
    return StateResolver.from_crawler(crawler)


@pytest.mark.parametrize(
    "place",
    [
        "{folder}/data/%(name)s/state/%(batch_id)010d.json",
        "{uri}/data/%(name)s/state/%(batch_id)010d.json",
        "{folder}/data/numbers/state/",
        "{uri}/data/numbers/state/",
        "{folder}/data/%(name)s/state/000",
    ],
)
def test_state_from(production: Path, place: str) -> None:
    """STATE_FROM may be a template, a folder or a prefix, as a path or a URI: it finds production's newest checkpoint."""
    newest = checkpoints(production)[-1]
    with untouched(production):
        found = resolved({"STATE_FROM": place.format(folder=production, uri=production.as_uri())})
    assert found.refusal is None
    assert found.state == newest["state"] == {"page": 6}
    assert found.crawler.settings["STATE"] == found.crawler.spider.state == newest["state"]  # type: ignore[union-attr]


def test_other_spider(production: Path) -> None:
    """A development spider of another name may start from production's checkpoints: STATE_FROM names the place."""
    with untouched(production):
        found = resolved({"STATE_FROM": f"{production}/data/numbers/state/%(batch_id)010d.json"}, name="numbers_dev")
    assert found.state == {"page": 6}


@pytest.mark.parametrize("value", [True, "1", "True"])
def test_readonly(production: Path, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With STATE_READONLY and production's state feed a run starts where production would; the log names the checkpoint.

    Its item feeds must go elsewhere: see resume/test_write_guard.py.
    """
    feeds = {str(production / uri): options for uri, options in FEEDS.items()}
    states = {uri: options for uri, options in feeds.items() if options is STATE_OPTIONS}
    with untouched(production), caplog.at_level("INFO"):
        dev = resolved({"FEEDS": {**states, "dev.jsonl": {"format": "jsonlines"}}, "STATE_READONLY": value})
        live = resolved({"FEEDS": feeds})
    assert dev.resolution == live.resolution
    assert dev.state == {"page": 6}
    lines = [each.message for each in caplog.records if each.message.startswith("STATE {")]
    assert len(lines) == 2
    assert all("from checkpoint" in each and "/data/numbers/state/" in each for each in lines)


@pytest.mark.parametrize("value", ["{}", '{"page": 2}'])
def test_explicit(production: Path, value: str) -> None:
    """An explicit STATE beats STATE_FROM; STATE in the project's settings does not."""
    settings = Settings({"STATE_FROM": f"{production}/data/numbers/state/"})
    for priority, expected in (("project", {"page": 6}), ("cmdline", {"page": 2} if "2" in value else {})):
        settings.set("STATE", value, priority=priority)
        assert resolved(settings.copy()).state == expected  # type: ignore[arg-type]


def test_nothing_there(tmp_path: Path) -> None:
    """A folder that does not exist has no checkpoints; a file of that name is an error, not "no checkpoints"."""
    assert resolved({"STATE_FROM": f"{tmp_path}/none/%(batch_id)010d.json", "STATE": {"page": 1}}).state == {"page": 1}
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="Not a directory"):
        resolved({"STATE_FROM": f"{tmp_path}/file/%(batch_id)010d.json", "STATE": {"page": 1}})


def test_hooks(tmp_path: Path) -> None:
    """A subclass of StateResolver can change the state to start from, and refuse it."""
    source = (
        SPIDER
        + """
from scrapy_state import StateResolver

class Own(StateResolver):
    def change_state(self, state):
        return {"page": max(0, state.get("page", 0) - 1)}

    def validate_state(self, state, spider):
        if state["page"] > 1:
            raise ValueError("page is too high")
"""
    )
    settings = {"EXTENSIONS": {"spider.Own": 10}}
    first, second, third = [crawl(tmp_path, source, "-a", "pages=2", settings=settings) for _ in range(3)]
    assert first.lines("begins at 0 {'page': 0}")
    assert second.lines("begins at 1 {'page': 1}")
    assert second.lines("(overlap)")
    assert third.code == 1
    assert third.lines("page is too high")


def test_spider_state_is_not_a_dict(tmp_path: Path) -> None:
    """If spider.state is not a dict, as with a spider argument called state, the crawl does not start, and says what to do."""
    run = crawl(tmp_path, SPIDER, "-a", "state=CA")
    assert run.code == 1
    assert run.lines("spider.state is 'CA'")


def test_jobdir(tmp_path: Path) -> None:
    """With JOBDIR, whose SpiderState writes spider.state too, the checkpoint's state wins. If Scrapy's scheduler remembers
    requests there, a warning says what that means for the state."""
    source = SPIDER.replace(
        'yield StateItem({"page": page + 1})', 'yield StateItem({"page": page + 1})\n        self.state = {"page": 99}'
    )
    for name, requests in (("without requests", False), ("with requests", True)):
        settings = {"JOBDIR": "job", "STATE_REQUESTS": requests}
        runs = [crawl(tmp_path / name, source, settings=settings) for _ in range(2)]
        assert runs[1].lines("begins at 3 {'page': 3}"), runs[1].log
        assert bool(runs[1].lines("remembers the requests of an earlier run")) is not requests


def test_disabled(tmp_path: Path) -> None:
    """STATE_ENABLED=False (here per spider): the run reads and writes no checkpoint; its items are stored as usual."""
    crawl(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "data/numbers/state").iterdir()}
    source = SPIDER + '\n    custom_settings = {"STATE_ENABLED": False}\n'
    run = crawl(tmp_path, source, settings={"STATE": {"page": 7}})
    assert run.code == 0, run.log
    assert run.lines("begins at 7 {'page': 7}")
    assert run.lines("STATE_ENABLED is False")
    assert not run.lines(" stored: STATE")
    assert {path.name: path.read_bytes() for path in (tmp_path / "data/numbers/state").iterdir()} == before
    newest = max((tmp_path / "data/numbers/items").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(newest.read_text().splitlines()) == 6
