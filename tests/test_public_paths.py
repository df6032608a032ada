"""Every public import path: those in the README and the docs, those in the settings, and those of the errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from scrapy.settings import Settings

import scrapy_state
from scrapy_state import Addon, exceptions

ROOT = Path(__file__).parent.parent
#: The logger's name, which looks like a path
LOGGER = "scrapy_state.state"
PATHS = [
    *(f"scrapy_state.{name}" for name in scrapy_state.__all__),
    *(f"scrapy_state.barrier.{name}" for name in ("BarrierItemProcessor", "StateMiddleware")),
    "scrapy_state.downloader.TrackingDownloader",
    *(f"scrapy_state.extension.{name}" for name in ("SpiderSettingsState", "StateResolver", "get_extension")),
    *(f"scrapy_state.exceptions.{name}" for name, value in vars(exceptions).items() if isinstance(value, type)),
    "scrapy_state.feedexport.CheckpointFeedExporter",
    "scrapy_state.feedstorages.DurableFeedStorage",
    *(f"scrapy_state.items.{name}" for name in ("StateItem", "json_object")),
    *(f"scrapy_state.redis.{name}" for name in ("Frontier", "Scheduler", "clear_frontier", "read_frontier")),
    "scrapy_state.selfcheck.SelfCheck",
    "scrapy_state.signals.checkpoint_stored",
    "scrapy_state.sources.last_state",
    *(f"scrapy_state.stores.{name}" for name in ("Store", "StoreReader", "StoreWriter", "open_reader", "open_writer")),
    *(f"scrapy_state.stores.base.{name}" for name in ("Store", "StoreReader", "StoreWriter")),
    *(f"scrapy_state.testing.{name}" for name in ("Place", "StoreContract", "every_call_raises")),
    "scrapy_state.units.what_is_missing",
]


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def paths_in(page: Path) -> set[str]:
    """Return the dotted names on *page*, and what its examples import."""
    text = page.read_text()
    paths = {match[0] for match in re.finditer(r"\bscrapy_state(?:\.[A-Za-z_]+)+(?![\w/-])", text)}
    for module, names in re.findall(r"^\s*from (scrapy_state[\w.]*) import ([\w, ]+)$", text, re.MULTILINE):
        paths |= {f"{module}.{name}" for name in names.split(", ")}
    return paths - {LOGGER}


def test_docs() -> None:
    """Every path that a page names can be imported."""
    found = {path for page in pages() for path in paths_in(page)}
    assert {"scrapy_state.Addon", "scrapy_state.testing.StoreContract", "scrapy_state.units.what_is_missing"} <= found
    for path in sorted(found):
        assert resolve_name(path) is not None, path


def written_by_the_addon() -> Iterator[Any]:
    settings = Settings()
    Addon().update_settings(settings)
    for name in ("EXTENSIONS", "SPIDER_MIDDLEWARES"):
        yield from settings[name]
    yield from (settings["ITEM_PROCESSOR"], settings["DOWNLOADER"])


def test_settings() -> None:
    """Everything that the add-on writes into the settings is public: projects write the same by hand."""
    written = {
        value if isinstance(value, str) else f"{value.__module__}.{value.__qualname__}" for value in written_by_the_addon()
    }
    # The middleware is given as a class, whose module is private.
    ours = {path.replace(".middleware.", ".") for path in written if path.startswith("scrapy_state.")}
    assert len(ours) == 6
    assert ours <= set(PATHS)


def test_each_path_alone() -> None:
    """Each public path can be imported first, before anything else of the package."""
    source = """
import json, sys
from pkgutil import resolve_name
import scrapy.extensions.feedexport, scrapy.core.engine, pytest
for path in json.loads(sys.argv[1]):
    for name in [name for name in sys.modules if name.partition(".")[0] == "scrapy_state"]:
        del sys.modules[name]
    assert resolve_name(path) is not None, path
"""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", source, json.dumps(PATHS)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_from_import() -> None:
    """The names at the top of the package can be imported by name; others say that there is no such name."""
    from scrapy_state import last_state, sources

    assert sources.last_state is last_state
    assert last_state(['INFO: STATE {"page": 3} from the settings (priority spider)']) == {"page": 3}
    with pytest.raises(AttributeError, match="no attribute 'frontiers'"):
        scrapy_state.frontiers  # noqa: B018
