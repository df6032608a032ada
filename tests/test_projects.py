"""What projects have that plain Scrapy runs: it runs with scrapy_state, too."""

from __future__ import annotations

from pathlib import Path

from crawls import crawl, named_items

ALL_ITEMS = [{"page": page, "n": n} for page in range(3) for n in range(2)]


def test_settings_of_its_own(tmp_path: Path) -> None:
    """A project's own settings STATES and STATE_PATH keep no crawl from starting; one warning each says what may be meant."""
    run = crawl(tmp_path, settings={"STATES": "TX,CA", "STATE_PATH": "/states", "LOG_LEVEL": "INFO"})
    assert named_items(tmp_path) == ALL_ITEMS
    warnings = run.lines("WARNING")
    assert len(warnings) == 2
    assert " STATES in scrapy_state. If STATE is meant" in warnings[0]
    assert " STATE_PATH in scrapy_state. If STATE_AT is meant" in warnings[1]
