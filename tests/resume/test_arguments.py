"""Spider arguments in checkpoints, and the warning if two runs have different arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from crawls import FEEDS, STATE_OPTIONS, STATES, Crawl, checkpoints, crawl

from scrapy_state import Checkpoint
from scrapy_state.resume.arguments import Change, changes, kept

SPIDER = """
import scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"
    country = "us"

    def __init__(self, page=0, password=None, urls="", **kwargs):
        super().__init__(**kwargs)
        self.page, self.password = int(page), password

    async def start(self):
        page = self.state.get("page", self.page)
        yield {"page": page, "country": self.country}
        yield StateItem({"page": page + 1})
"""


def run(folder: Path, *arguments: str, **settings: Any) -> Crawl:
    given = [word for each in arguments for word in ("-a", each)]
    found = crawl(folder, SPIDER, *given, settings={"LOG_LEVEL": "INFO", **settings})
    assert found.code == 0, found.log
    return found


def test_warning(tmp_path: Path) -> None:
    """Runs with different arguments on one prefix get a warning with all values and the remedy; the next run gets none. The
    spider need not read an argument itself: a package elsewhere may."""
    first = run(tmp_path, "country=us", "password=hunter2", "page=3", "_job=1", "note=a")
    assert not first.lines("WARNING")
    stored = checkpoints(tmp_path)
    assert [set(each["arguments"]) for each in stored] == [{"country", "password", "page", "note"}] * 2
    assert (stored[-1]["arguments"]["country"], stored[-1]["arguments"]["page"]) == ("us", "3")
    [line] = run(tmp_path, "country=de", "password=correct horse", "_job=2", "note=b").lines("WARNING")
    assert "checkpoint 2, whose run had other spider arguments: country was 'us' and is 'de', note was 'a' and is 'b', " in line
    assert ", password was '*** (" in line
    assert "put %(country)s %(note)s %(password)s into the URIs in FEEDS" in line
    assert not run(tmp_path, "country=de", "password=correct horse", "_job=3", "note=b").lines("WARNING")
    [line] = run(tmp_path, "password=correct horse", "note=b").lines("WARNING")
    assert "country was 'de' and is not given." in line
    everything = first.log + "".join(path.read_text() for path in (tmp_path / "data/numbers/state").iterdir())
    assert "hunter2" not in everything
    assert not run(tmp_path, "country=us", STATE={"page": 7}, STATE_READONLY=True, FEEDS={STATES: STATE_OPTIONS}).lines("ERROR")


def test_no_warning(tmp_path: Path) -> None:
    """If each has a prefix of its own, as the warning advises, or STATE is given for this run, there is no warning."""
    feeds = {key.replace("%(name)s/", "numbers/%(country)s/"): options for key, options in FEEDS.items()}
    assert not any(run(tmp_path, f"country={country}", FEEDS=feeds).lines("WARNING") for country in ("us", "de", "us"))
    run(tmp_path / "explicit", "country=us")
    explicit = crawl(tmp_path / "explicit", SPIDER, "-a", "country=de", "-s", 'STATE={"page": 0}')
    assert not explicit.lines("spider arguments")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "abc") for name in ("password", "PASSWD", "db_pass", "api_key", "apikey", "accessToken", "auth", "secret_id")],
        *[(name, "abc") for name in ("passphrase", "session_cookie", "aws_secret_access_key", "signature", "credentials")],
        ("url", "https://example.com/?page=1&api_key=abc"),
        ("options", {"user": "u", "password": "abc"}),
        ("options", "{'token': 'abc'}"),
    ],
)
def test_secrets(name: str, value: Any) -> None:
    """A value that looks like a secret is kept as four hex digits: they show a change, and nothing else."""
    [found] = kept({name: value}).values()
    assert len(found) == len("*** (12ab)")
    assert kept({name: value}) == {name: found} != kept({name: f"{value}!"})


@pytest.mark.parametrize("name", ["country", "passengers", "compass", "author", "keyword", "page", "bypass_cache"])
def test_other_names(name: str) -> None:
    """Other names hide nothing."""
    assert kept({name: "abc"}) == {name: "abc"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("https://user:pw@host/a", "https://host/a"),
        ("https://a/,https://user:pw@b/", "https://a/,https://b/"),
        (5, "5"),
        ([1, {"b": None, "a": True}], '[1, {"a": true, "b": null}]'),
        ("\udcff", "?"),
    ],
)
def test_text(value: Any, text: str) -> None:
    """Values are text, as on the command line; credentials in addresses are left out."""
    assert kept({"where": value}) == {"where": text}


def test_left_out() -> None:
    """Objects, and arguments that a platform adds, are not compared; of a long text the beginning and a digest are kept."""
    assert kept({"db": object(), "_job": "1", "seen": {1, 2}}) == {}
    one, other = (kept({"ids": "1," * 5000 + end})["ids"] for end in "ab")
    assert one != other
    assert len(one) < 300


@pytest.mark.parametrize(
    ("before", "now", "state", "found"),
    [
        ({"a": "1"}, {"a": "1"}, {}, []),
        ({"a": "1"}, {"a": "2"}, {}, [("a", "1", "2")]),
        ({"b": "1"}, {"a": "1"}, {}, [("a", None, "1"), ("b", "1", None)]),
        ({"page": "1"}, {}, {"page": 9}, []),
        ({"page": "1"}, {"page": "9"}, {"page": 9}, []),
        ({"page": "1"}, {"page": "5"}, {"page": 9}, [("page", "1", "5")]),
        ({"country": "us"}, {"country": "de"}, {"country": "us", "page": 9}, [("country", "us", "de")]),
    ],
)
def test_changes(before: Any, now: Any, state: Any, found: list[Any]) -> None:
    """Arguments that differ, but not one that only repeats where the state begins."""
    assert changes(before, now, state) == [Change(*each) for each in found]


def test_older_reader() -> None:
    """A checkpoint without arguments can be read; its arguments are unknown."""
    assert Checkpoint.from_bytes(b'[{"state": {}}]').arguments is None
    assert "arguments" not in Checkpoint({}).to_json()


@pytest.mark.parametrize("process", ["AsyncCrawlerProcess", "CrawlerProcess"])
def test_from_a_script(tmp_path: Path, process: str) -> None:
    """Arguments from a script are kept, too, with both kinds of process."""
    script = f"""
from project_settings import *
from scrapy import crawler, settings
from spider import TestSpider
import project_settings

values = settings.Settings()
values.setmodule(project_settings)
process = crawler.{process}(values)
process.crawl(TestSpider, country="us", urls=[1, 2], page=5)
process.start()
"""
    run(tmp_path)  # for the files
    (tmp_path / "script.py").write_text(script)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert checkpoints(tmp_path)[-1]["arguments"] == {"country": "us", "urls": "[1, 2]", "page": "5"}
