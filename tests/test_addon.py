"""The add-on and the small public functions, without a crawl."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import scrapy
from crawls import SPIDER, crawl, named_items
from scrapy.extensions.feedexport import FeedExporter
from scrapy.pipelines import ItemPipelineManager
from scrapy.settings import Settings
from scrapy.utils.test import get_crawler

from scrapy_state import Addon, CheckpointFeedExporter, StateResolver, get_extension, get_settings_priority_name
from scrapy_state.barrier import StateMiddleware
from scrapy_state.exceptions import StateSettingsError
from scrapy_state.selfcheck import SelfCheck


class OwnResolver(StateResolver):
    pass


def test_what_it_changes() -> None:
    """The add-on changes what docs/setup.md lists, and nothing else."""
    before, after = Settings(), Settings()
    Addon().update_settings(after)
    changed = {name for name in after if after[name] != before[name] or name not in before}
    around = {"ITEM_PROCESSOR", "STATE_FALLBACK_ITEM_PROCESSOR", "DOWNLOADER", "STATE_FALLBACK_DOWNLOADER"}
    assert changed == {"EXTENSIONS", "SPIDER_MIDDLEWARES", *around}
    assert dict(after["EXTENSIONS"]) == {FeedExporter: None, CheckpointFeedExporter: 0, StateResolver: 10, SelfCheck: 10}
    assert dict(after["SPIDER_MIDDLEWARES"]) == {StateMiddleware: -100_000}
    assert after["ITEM_PROCESSOR"] == "scrapy_state.barrier.BarrierItemProcessor"
    assert after["STATE_FALLBACK_ITEM_PROCESSOR"] == before["ITEM_PROCESSOR"]


def test_twice_is_once() -> None:
    """The add-on changes nothing in settings that are complete already, by hand or by an earlier call."""
    settings = Settings()
    Addon().update_settings(settings)
    once = settings.copy_to_dict()
    Addon().update_settings(settings)
    assert settings.copy_to_dict() == once


def test_priorities_of_the_project_are_kept() -> None:
    """The add-on writes each setting at the priority that it has, so it replaces a project's own ITEM_PROCESSOR."""
    settings = Settings({"ITEM_PROCESSOR": ItemPipelineManager, "EXTENSIONS": {"tests.Other": 5}}, priority="project")
    settings["EXTENSIONS"] = {OwnResolver: 7}
    Addon().update_settings(settings)
    assert settings.getpriority("ITEM_PROCESSOR") == settings.getpriority("STATE_FALLBACK_ITEM_PROCESSOR") == 20
    assert settings["STATE_FALLBACK_ITEM_PROCESSOR"] is ItemPipelineManager
    assert dict(settings["EXTENSIONS"])[OwnResolver] == 7
    assert StateResolver not in settings["EXTENSIONS"]


def test_older_scrapy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Scrapy before 2.15.2 the error says what is wrong and how to upgrade."""
    monkeypatch.setattr(scrapy, "__version__", "2.15.1")
    with pytest.raises(StateSettingsError, match=r"needs Scrapy 2.15.2 or later, not 2.15.1; pip install -U 'scrapy>=2.15.2'"):
        Addon().update_settings(Settings())


def test_imports_for_an_older_scrapy() -> None:
    """The add-on, the settings and scrapy_internals import nothing that an older Scrapy might not have."""
    source = """
import sys
import scrapy, scrapy.settings, scrapy.utils.asyncgen, scrapy.utils.deprecate, scrapy.utils.misc
before = set(sys.modules)
import scrapy_state, scrapy_state.settings, scrapy_state.scrapy_internals
print([name for name in sorted(set(sys.modules) - before) if name.startswith("scrapy.")])
"""
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_wrong_state_enabled() -> None:
    """If STATE_ENABLED is neither true nor false, the item processor is in place and reports it without a traceback."""
    settings = Settings({"STATE_ENABLED": "maybe"})
    Addon().update_settings(settings)
    assert settings["ITEM_PROCESSOR"] == "scrapy_state.barrier.BarrierItemProcessor"


def test_priority_names() -> None:
    """A settings priority has a name; a priority without one is its number as text."""
    assert [get_settings_priority_name(each) for each in (0, 15, 20, 30, 40, 35)] == [
        *("default", "addon", "project", "spider", "cmdline"),
        "35",
    ]


def test_get_extension() -> None:
    """get_extension() finds a running extension by class, base class or import path, from a crawler or a spider."""
    crawler = get_crawler(scrapy.Spider, {"EXTENSIONS": {"scrapy.extensions.logstats.LogStats": 0}})
    spider = crawler._create_spider("name")
    from scrapy.extensions.logstats import LogStats

    found = get_extension(LogStats, crawler)
    assert isinstance(found, LogStats)
    assert get_extension("scrapy.extensions.logstats.LogStats", spider) is found
    assert get_extension(StateResolver, crawler) is None


def test_own_feed_exporter(tmp_path: Path) -> None:
    """A project with its own FeedExporter gets an error that says why both can't be, and what it advises works."""
    source = (
        SPIDER
        + """
from scrapy.extensions.feedexport import FeedExporter
from scrapy_state import CheckpointFeedExporter

class Own(FeedExporter):
    pass

class Derived(CheckpointFeedExporter):
    pass
"""
    )
    off = {"scrapy.extensions.feedexport.FeedExporter": None}
    refused = crawl(tmp_path / "own", source, settings={"EXTENSIONS": {**off, "spider.Own": 0}})
    assert refused.code == 1
    assert refused.lines("EXTENSIONS has spider.Own, a FeedExporter of the project's own")
    without = crawl(tmp_path / "own", source, settings={"EXTENSIONS": {**off, "spider.Own": 0}, "STATE_ENABLED": False})
    assert without.code == 0, without.log  # the remedy that the error names
    derived = crawl(tmp_path / "derived", source, settings={"EXTENSIONS": {**off, "spider.Derived": 0}})
    assert derived.code == 0, derived.log
    assert len(named_items(tmp_path / "derived")) == 6


def test_setup_by_hand(tmp_path: Path) -> None:
    """What docs/setup.md lists for those who do without the add-on does the same."""
    settings = {
        "ADDONS": {},
        "EXTENSIONS": {
            "scrapy.extensions.feedexport.FeedExporter": None,
            "scrapy_state.feedexport.CheckpointFeedExporter": 0,
            "scrapy_state.extension.StateResolver": 10,
        },
        "SPIDER_MIDDLEWARES": {"scrapy_state.barrier.StateMiddleware": -100_000},
        "ITEM_PROCESSOR": "scrapy_state.barrier.BarrierItemProcessor",
    }
    crawl(tmp_path, settings=settings)
    run = crawl(tmp_path, settings=settings)
    assert run.lines("begins at 3 {'page': 3}")
    assert len(named_items(tmp_path)) == 12
