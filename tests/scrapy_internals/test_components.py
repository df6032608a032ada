"""The item processor: which of its methods Scrapy would call."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from scrapy.core.scraper import Scraper
from scrapy.crawler import Crawler
from scrapy.pipelines import ItemPipelineManager
from scrapy.utils.test import get_crawler

from scrapy_state.scrapy_internals import has_async


class Old:
    """An item processor of the time before coroutines."""

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Old:
        return cls()  # Scrapy before 2.18 needs this method

    def process_item(self, item: Any, spider: Any) -> Any: ...


class OldSubclass(ItemPipelineManager):
    """A subclass that overrides the old method only."""

    def process_item(self, item: Any, spider: Any = None) -> Any: ...


class NewSubclass(ItemPipelineManager):
    """A subclass that overrides both."""

    def process_item(self, item: Any, spider: Any = None) -> Any: ...

    async def process_item_async(self, item: Any) -> Any: ...


@pytest.mark.parametrize("cls", [Old, OldSubclass, NewSubclass, ItemPipelineManager])
def test_has_async(cls: type) -> None:
    """The answer is the one that Scrapy's Scraper gives for the same processor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        crawler = get_crawler(settings_dict={"ITEM_PROCESSOR": cls})
        scraper = Scraper(crawler)
    for method in ("open_spider", "close_spider", "process_item"):
        assert has_async(scraper.itemproc, method) == scraper._itemproc_has_async[method]
