"""``scrapy state delta``: looking at what is remembered, forgetting and importing."""

from __future__ import annotations

import dbm.dumb
from pathlib import Path
from typing import Any

import pytest
from commands import refused, run
from page_crawls import Place
from scrapy import Request
from scrapy.utils.request import fingerprint

SOURCE = """
class Shop(Any):
    async def start(self):
        yield self.to("a")
        yield self.to("b", meta={"state_key": "sku-b"})
        yield self.to("c")
"""
ON: dict[str, Any] = {"STATE_DELTA": True}
PROJECT = {"SCRAPY_SETTINGS_MODULE": "project_settings"}
STATES = "data/numbers/state/%(batch_id)010d.json"


@pytest.fixture
def crawled(pages: Place) -> Place:
    """A folder with a crawl of three pages, all of which gave an item."""
    done = pages.crawl(SOURCE, **ON)
    assert done.code == 0, done.log
    return pages


def test_looking(crawled: Place) -> None:
    """The verb says how much is known; of a URL or a key, whether it would be left out, and since when.
    The exit code is 1 if one of them would be sent."""
    url = crawled.server.url
    ran = run(crawled.folder, "delta", "spider.py", environment=PROJECT)
    assert ran.out.startswith("3 pages of earlier crawls are known, from 20")
    ran = run(crawled.folder, "delta", STATES, f"{url}/a", "sku-b")
    assert ran.code == 0, ran
    assert [line.partition(" is left out: its page gave items on 20")[0] for line in ran.out.splitlines()] == [
        f"{url}/a",
        "sku-b",
    ]
    ran = run(crawled.folder, "delta", STATES, f"{url}/a", f"{url}/b", "--json")
    assert ran.code == 1
    assert [bool(row["skipped_since"]) for row in ran.json] == [True, False]
    ran = run(crawled.folder, "delta", STATES, "--at", "1")
    assert (ran.code, ran.out) == (1, "no pages of earlier crawls are known\n")
    refused(run(crawled.folder, "delta", STATES, "--at", "1", "--forget", "x"), 2, "--at is for looking only")


@pytest.mark.long
def test_forgetting(crawled: Place) -> None:
    """--forget has single pages crawled again, and --forget-all everything; the checkpoint continues with the same state."""
    url = crawled.server.url
    ran = run(crawled.folder, "delta", "spider.py", "--forget", f"{url}/a", "sku-b", "--yes", environment=PROJECT)
    assert ran.code == 0, ran
    assert run(crawled.folder, "delta", STATES, f"{url}/a").out == f"{url}/a is not known, and would be sent\n"
    assert run(crawled.folder, "verify", STATES, "--deep").code == 0
    again = crawled.crawl(SOURCE, **ON)
    assert dict(crawled.asked) == {"a": 1, "b": 1}, again.log
    assert crawled.crawl(SOURCE, **ON).code == 0
    assert not crawled.asked
    assert run(crawled.folder, "delta", STATES, "--forget-all", "--yes").code == 0
    crawled.crawl(SOURCE, **ON)
    assert dict(crawled.asked) == {"a": 1, "b": 1, "c": 1}


@pytest.mark.long
def test_forgetting_in_a_crawl_that_goes_on(pages: Place) -> None:
    """If the crawl was killed, the checkpoint keeps its pending requests. When it is over, what is forgotten stays so."""
    source = SOURCE.replace("class Shop(Any):", 'class Shop(Any):\n    custom_settings = {"CONCURRENT_REQUESTS": 1}')
    assert pages.crawl(source, "-a", "kill=b", **ON).code == -9
    url = pages.server.url
    assert "in the crawl that is not over" in run(pages.folder, "delta", STATES, f"{url}/a").out
    assert run(pages.folder, "delta", STATES, "--forget", f"{url}/a", "--yes").code == 0
    assert pages.newest["requests"]["pending"]
    assert pages.crawl(source, **ON).code == 0
    assert pages.asked["a"] == 0
    assert pages.keys == {"a": 1, "b": 1, "c": 1}
    pages.crawl(source, **ON)
    assert dict(pages.asked) == {"a": 1}


def test_importing(pages: Place) -> None:
    """A database of DeltaFetch is imported before the first crawl; its pages are left out from then on."""
    url = pages.server.url
    with dbm.dumb.open(str(pages.folder / "numbers.db"), "c") as database:
        database[fingerprint(Request(f"{url}/a"))] = "1700000000.5"
        database[b"sku-b"] = "1700000000.5"
    states = f"{pages.folder}/{STATES}"
    ran = run(pages.folder, "delta", states, "--import", "numbers.db")
    assert ran.code == 0, ran
    assert "2 keys read from numbers.db" in ran.err
    done = pages.crawl(SOURCE, **ON, DELTAFETCH_ENABLED=True)
    assert dict(pages.asked) == {"c": 1}, done.log
    assert done.lines("2 pages of earlier crawls are known, from 2023-11-14 to 2023-11-14")
    assert done.lines("what replaces them: DELTAFETCH_ENABLED: STATE_DELTA. See")


@pytest.mark.long
def test_other_verbs(crawled: Place, tmp_path: Path) -> None:
    """verify finds a missing file; copy takes what is remembered along."""
    target = str(tmp_path / "copy/%(batch_id)010d.json")
    assert run(crawled.folder, "copy", STATES, target).code == 0
    assert run(crawled.folder, "delta", target).out.startswith("3 pages")
    [file] = (crawled.folder / "data/numbers/state/delta").iterdir()
    file.unlink()
    assert "missing" in run(crawled.folder, "verify", STATES).out
    refused(run(crawled.folder, "delta", STATES), 1, file.name, "STATE_DELTA_RESET")
