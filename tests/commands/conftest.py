"""A project that has crawled, for the tests of the command."""

from __future__ import annotations

from pathlib import Path

import pytest
from crawls import SPIDER, crawl


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose spider has stored checkpoints and items."""
    folder = tmp_path_factory.mktemp("project")
    done = crawl(folder, SPIDER, "-a", "pages=2", settings={"SPIDER_MODULES": ["spider"], "STATE_INTERVAL": 0})
    assert done.code == 0, done.log
    return folder


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment that makes Scrapy use the settings which :func:`crawls.crawl` wrote."""
    return {"SCRAPY_SETTINGS_MODULE": "project_settings"}
