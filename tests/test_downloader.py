"""The setting DOWNLOADER: the crawl gets the project's own downloader, watched only where there can be units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scrapy import Request, Spider
from scrapy.core.downloader import Downloader
from scrapy.crawler import Crawler
from scrapy.settings import Settings
from scrapy.utils.misc import load_object
from scrapy.utils.test import get_crawler
from twisted.internet.defer import Deferred

from scrapy_state import Addon, StateItem
from scrapy_state.downloader import TrackingDownloader
from scrapy_state.settings import DOWNLOADER, names_class


class OwnDownloader:
    """A project's own downloader, which is no subclass of Scrapy's."""

    def __init__(self, crawler: Crawler) -> None:
        self.total_concurrency = 16

    def fetch(self, request: Request) -> Deferred[Any]:
        raise NotImplementedError


def made(tmp_path: Path, **settings: Any) -> Any:
    """The downloader of a crawl with the add-on, made as the engine makes it."""
    crawler = get_crawler(Spider, {"ADDONS": {Addon: 500}, "FEED_TEMPDIR": str(tmp_path), **settings})
    crawler.spider = Spider("any")
    return load_object(crawler.settings["DOWNLOADER"])(crawler)


@pytest.mark.parametrize("cls", [Downloader, OwnDownloader])
@pytest.mark.parametrize("has_state_feed", [True, False])
def test_downloader_is_the_projects_own(cls: type, has_state_feed: bool, tmp_path: Path) -> None:
    """The engine's downloader is an object of the project's class, not a wrapper; only one that may see units is watched."""
    state_feed = {f"{tmp_path}/state/%(batch_id)010d.json": {"format": "json", "item_classes": [StateItem]}}
    downloader = made(tmp_path, DOWNLOADER=cls, FEEDS=state_feed if has_state_feed else {})
    assert type(downloader) is cls
    assert ("fetch" in vars(downloader)) == has_state_feed
    if cls is Downloader:
        downloader.close()


def test_names_of_the_setting() -> None:
    """The function and its import path both name it; the project's own classes don't."""
    for value in (TrackingDownloader, DOWNLOADER):
        assert names_class(value, DOWNLOADER)
    for other in (Downloader, "scrapy.core.downloader.Downloader", OwnDownloader, "no.such.path", None):
        assert not names_class(other, DOWNLOADER)
    settings = Settings({"DOWNLOADER": TrackingDownloader})
    Addon().update_settings(settings)
    assert settings["STATE_FALLBACK_DOWNLOADER"] is None
