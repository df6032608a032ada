"""What the README's quick start and the tutorial tell a reader to do, done in bash: the commands print what the pages show."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from doc_pages import ROOT, block
from shell_pages import TUTORIAL, quick_start, tutorial

pytestmark = pytest.mark.long
BIN = Path(sys.executable).parent


def test_quick_start(tmp_path: Path) -> None:
    """The crawl is killed, continues, and has 200 books, each once."""
    quick_start(tmp_path, BIN)


def test_tutorial(tmp_path: Path) -> None:
    """The same with SIGTERM, development with production's requests, and a spider with state items."""
    shell = tutorial(tmp_path, BIN)
    dev = [line for path in (tmp_path / "shop" / "dev").iterdir() for line in path.read_text().splitlines()]
    assert dev
    assert shell.run("scrapy state show pages.py")[1].startswith('STATE {"page": ')


def test_excerpts() -> None:
    """What the tutorial shows of the sample project is there, word for word."""
    sample = ROOT / "sample_project" / "flights"
    spider, settings = (sample / "spiders" / "flights.py").read_text(), (sample / "settings.py").read_text()
    for line in filter(None, block(TUTORIAL, "# everything before t has been yielded").splitlines()):
        assert line.partition("#")[0].strip() in spider
    for line in filter(None, block(TUTORIAL, "STATE_FEED = {").splitlines()):
        assert line.partition("#")[0].strip() in settings
    assert os.access(ROOT / "sample_project" / "demo.py", os.R_OK)
