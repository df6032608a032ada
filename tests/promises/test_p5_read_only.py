"""Development on production's state: the checkpoint that production would go on from, and nothing written there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from crawls import FEEDS, STATE_OPTIONS, checkpoints, crawl
from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.settings import Settings

from scrapy_state import StateResolver
from scrapy_state.exceptions import StateError

OWN_ITEMS = {"dev.jsonl": {"format": "jsonlines"}}


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project that has run twice."""
    folder = tmp_path_factory.mktemp("production")
    assert crawl(folder).code == 0
    assert crawl(folder).code == 0
    return folder


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Make *folder* read-only; afterwards it holds the same files, with the same content and the same times."""

    def look() -> dict[str, tuple[bytes, int]]:
        return {
            str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns) for path in folder.rglob("*")
        }

    def chmod(mode: int) -> None:
        for inside, _, _ in os.walk(folder):
            os.chmod(inside, mode)

    before = look()
    chmod(0o555)
    try:
        yield
    finally:
        chmod(0o755)
    assert look() == before


def resolved(settings: dict[str, Any], name: str = "numbers") -> StateResolver:
    """The extension of a crawl with *settings*, when it has found where to start."""
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
    """STATE_FROM, a template, the folder or the beginning of names, as a path or a URI: production's newest checkpoint."""
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
    """STATE_READONLY with production's state feed: the checkpoint that production would go on from, which the log names.

    Its item feeds have to go elsewhere: see test_production.py.
    """
    feeds = {str(production / uri): options for uri, options in FEEDS.items()}
    states = {uri: options for uri, options in feeds.items() if options is STATE_OPTIONS}
    with untouched(production), caplog.at_level("INFO"):
        dev = resolved({"FEEDS": {**states, **OWN_ITEMS}, "STATE_READONLY": value})
        live = resolved({"FEEDS": feeds})
    assert dev.resolution == live.resolution
    assert dev.state == {"page": 6}
    lines = [each.message for each in caplog.records if each.message.startswith("STATE {")]
    assert len(lines) == 2
    assert all("from checkpoint" in each and "/data/numbers/state/" in each for each in lines)


@pytest.mark.parametrize("value", ["{}", '{"page": 2}'])
def test_explicit(production: Path, value: str) -> None:
    """An explicit STATE goes before STATE_FROM; a STATE of the project's does not."""
    settings = Settings({"STATE_FROM": f"{production}/data/numbers/state/"})
    for priority, expected in (("project", {"page": 6}), ("cmdline", {"page": 2} if "2" in value else {})):
        settings.set("STATE", value, priority=priority)
        assert resolved(settings.copy()).state == expected  # type: ignore[arg-type]


def test_nothing_there(tmp_path: Path) -> None:
    """A folder that is not there has no checkpoints; a file in its place is an error, not "none"."""
    assert resolved({"STATE_FROM": f"{tmp_path}/none/%(batch_id)010d.json", "STATE": {"page": 1}}).state == {"page": 1}
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="Not a directory"):
        resolved({"STATE_FROM": f"{tmp_path}/file/%(batch_id)010d.json", "STATE": {"page": 1}})


@pytest.mark.parametrize("readonly", [False, True])
def test_crawl(production: Path, tmp_path: Path, readonly: bool) -> None:
    """A whole crawl, with STATE_FROM and no state feed, or with production's state feed and STATE_READONLY.

    It exports its own items in its own folder, stores no checkpoint anywhere, and production goes on as if it had not been.
    """
    state_uri = f"{production}/data/%(name)s/state/%(batch_id)010d.json"
    if readonly:
        settings = {"FEEDS": {**OWN_ITEMS, state_uri: STATE_OPTIONS}, "STATE_READONLY": True}
    else:
        settings = {"FEEDS": OWN_ITEMS, "STATE_FROM": state_uri}
    with untouched(production):
        run = crawl(tmp_path, settings=settings)
    assert run.code == 0, run.log
    assert run.lines("begins at 6 {'page': 6}")
    assert not run.lines("WARNING")
    assert not run.lines("ERROR")
    assert len((tmp_path / "dev.jsonl").read_text().splitlines()) == 6
    assert {path.name for path in tmp_path.iterdir()} <= {"dev.jsonl", "spider.py", "project_settings.py", "__pycache__"}


def test_moving(production: Path, tmp_path: Path) -> None:
    """STATE_FROM beside a writing state feed: starts from there once, and goes on in its own place without it."""
    with untouched(production):
        run = crawl(tmp_path, settings={"STATE_FROM": f"{production}/data/numbers/state/%(batch_id)010d.json"})
    assert run.code == 0, run.log
    assert run.lines("begins at 6 {'page': 6}")
    assert checkpoints(tmp_path)[0]["parent"] is None
    assert crawl(tmp_path).lines("begins at 9 {'page': 9}")
