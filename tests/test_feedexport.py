"""How runs end: one test for each row of the table in docs/ends.md. Also modes, feeds and limits that a crawl meets."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crawls import (
    FEEDS,
    ITEMS,
    SPIDER,
    STATE_OPTIONS,
    STATES,
    Crawl,
    checkpoints,
    crawl,
    crawl_until,
    named_items,
    run_until,
    start,
    unnamed_files,
)
from numbered_site import SITE_SPIDER

from scrapy_state.resume.sources import last_state

# Yields a page of two items and a state item about every 10 ms, for ever; `stop` says what happens at page 30.
ENDLESS = """
import asyncio
import scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"
    stop = ""

    async def start(self):
        yield scrapy.Request("data:,page", self.parse)

    async def parse(self, response):
        page = self.state.get("page", 0)
        while True:
            yield {"page": page, "n": 0}
            yield {"page": page, "n": 1}
            page += 1
            yield StateItem({"page": page})
            if page == 30 and self.stop:
                if self.stop == "finish":
                    return
                raise {"close": scrapy.exceptions.CloseSpider("enough"), "raise": ValueError("no")}[self.stop]
            await asyncio.sleep(0.01)

class Slow:
    async def process_item(self, item):
        await asyncio.sleep(30)
        return item
"""


def check_lineage(folder: Path) -> int:
    """Check that every checkpoint of the lineage names exactly the items before its state; return the newest state's page."""
    pages = checkpoints(folder)[-1]["state"].get("page", 0)
    found = sorted((each["page"], each["n"]) for each in named_items(folder))
    assert found == [(page, n) for page in range(pages) for n in range(2)]
    return pages


@pytest.mark.parametrize(
    ("stop", "settings", "reason", "code"),
    [
        ("finish", {}, "finished", 0),
        ("close", {}, "enough", 0),
        ("raise", {}, "finished", 0),
        ("", {"CLOSESPIDER_TIMEOUT": 2}, "closespider_timeout", 0),
        ("", {"CLOSESPIDER_ITEMCOUNT": 40}, "closespider_itemcount", 0),
        ("", {"MEMUSAGE_LIMIT_MB": 1, "MEMUSAGE_CHECK_INTERVAL_SECONDS": 1}, "memusage_exceeded", 0),
    ],
    ids=["finished", "CloseSpider", "callback raises", "timeout", "itemcount", "memusage"],
)
def test_orderly_ends(tmp_path: Path, stop: str, settings: dict[str, Any], reason: str, code: int) -> None:
    """An orderly end stores the last state yielded, with its reason, and leaves no orphan."""
    source = ENDLESS if stop else ENDLESS.replace("while True", "while self.crawler.engine._slot.closing is None")
    run = crawl(tmp_path, source, "-a", f"stop={stop}", settings=settings)
    assert run.code == code, run.log
    last = checkpoints(tmp_path)[-1]
    assert last["reason"] == reason
    yielded = run.lines("spider closed")[0].partition("last state yielded ")[2].partition(", last stored")[0]
    assert last["state"] == ({} if yielded == "none in this run" else json.loads(yielded))
    assert check_lineage(tmp_path) >= (0 if reason == "memusage_exceeded" else 10)
    assert not unnamed_files(tmp_path)


def ended_by(
    folder: Path, end: Callable[[subprocess.Popen[str]], None], settings: dict[str, Any], source: str = ENDLESS
) -> Crawl:
    """Crawl until three checkpoints are stored, then *end* the process."""
    return crawl_until(folder, "checkpoint 3 stored", source, settings={"STATE_INTERVAL": 0.1, **settings}, end=end)


def resumes(folder: Path) -> None:
    """Check that the next run continues from the newest checkpoint, with every item once."""
    before = check_lineage(folder)
    run = crawl(folder, SPIDER)
    assert run.lines(f"begins at {before} ")
    assert check_lineage(folder) == before + 3


def test_sigkill(tmp_path: Path) -> None:
    """SIGKILL leaves the newest stored checkpoint; the next run continues from it."""
    run = ended_by(tmp_path, lambda process: process.kill(), {})
    assert run.code == -signal.SIGKILL
    assert checkpoints(tmp_path)[-1]["reason"] is None
    resumes(tmp_path)


def test_sigterm_once(tmp_path: Path) -> None:
    """SIGTERM once: everything in flight ends, the last state is stored with the reason "shutdown", the exit code is 0."""
    source = ENDLESS.replace("while True", "while self.crawler.crawling")
    run = ended_by(tmp_path, lambda process: process.send_signal(signal.SIGTERM), {}, source)
    assert run.code == 0
    assert checkpoints(tmp_path)[-1]["reason"] == "shutdown"
    assert not unnamed_files(tmp_path)
    resumes(tmp_path)


def test_sigterm_then_sigkill(tmp_path: Path) -> None:
    """SIGTERM makes the next state item due at once, so that a later SIGKILL loses next to nothing."""

    def end(process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGTERM)
        run_until(process, "stored: STATE")
        process.kill()

    # After the first three checkpoints none would be due for a long time.
    source = ENDLESS.replace("page += 1", "page += 1\n            if page == 20: self.crawler.settings.frozen")
    run = ended_by(tmp_path, end, {"STATE_INTERVAL": 0.3}, source)
    assert run.code == -signal.SIGKILL
    resumes(tmp_path)


def test_sigterm_makes_the_next_state_due(tmp_path: Path) -> None:
    """Once the crawl is being stopped, a state item does not wait for STATE_INTERVAL."""
    process = start(tmp_path, ENDLESS, settings={"STATE_INTERVAL": 1000})
    run_until(process, 'state item {"page": 10}')
    process.send_signal(signal.SIGTERM)
    run_until(process, "checkpoint 2 stored")  # while the callback goes on, for ever
    process.kill()
    process.communicate()
    resumes(tmp_path)


def test_sigterm_twice(tmp_path: Path) -> None:
    """SIGTERM twice stops at once; the newest stored checkpoint stays, and the next run continues from it."""

    def end(process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGTERM)
        run_until(process, "Received SIGTERM")
        time.sleep(0.3)  # not a wait for anything: the second signal shall come while the first one is at work
        process.send_signal(signal.SIGTERM)

    run = ended_by(tmp_path, end, {})
    assert "twice" in run.log
    assert run.code == 0
    resumes(tmp_path)


def test_cancelled_items_are_not_passed(tmp_path: Path) -> None:
    """No checkpoint is ahead of items that a second SIGTERM leaves in the pipelines."""
    settings = {"ITEM_PIPELINES": {"spider.Slow": 1}, "STATE_INTERVAL": 0}
    process = start(tmp_path, ENDLESS, settings=settings)
    run_until(process, 'state item {"page": 5}')
    process.send_signal(signal.SIGTERM)
    run_until(process, "Received SIGTERM")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert [each["state"] for each in checkpoints(tmp_path)] == [{}]


def test_batch_file_size(tmp_path: Path) -> None:
    """batch_file_size begins a new file at that size, as a number of bytes or as text; the lineage names them all."""
    for size in (1000, "1kB"):
        folder = tmp_path / str(size)
        feeds = {**FEEDS, ITEMS: {"format": "jsonlines", "batch_file_size": size}}
        run = crawl(folder, SPIDER, "-a", "pages=100", settings={"FEEDS": feeds})
        assert run.code == 0, run.log
        sizes = [path.stat().st_size for path in (folder / "data/numbers/items").glob("*")]
        assert len(sizes) == 5
        assert max(sizes) < 1100
        assert check_lineage(folder) == 100
    wrong = crawl(tmp_path / "wrong", settings={"FEEDS": {**FEEDS, ITEMS: {"format": "csv", "batch_file_size": "big"}}})
    assert wrong.code == 1
    assert wrong.lines("batch_file_size")


def test_files_are_cut_at_the_close(tmp_path: Path) -> None:
    """Items after the last state item get a file of their own, which no checkpoint names and nothing deletes."""
    source = SPIDER + '        yield {"page": 99, "n": 0}\n        yield {"page": 99, "n": 1}\n'
    csv = {"data/%(name)s/csv/%(run_id)s-%(batch_id)05d.csv": {"format": "csv"}}
    run = crawl(tmp_path, source, settings={"FEEDS": {**FEEDS, **csv}})
    assert run.code == 0, run.log
    files = [file for each in checkpoints(tmp_path) for file in each["files"]]
    assert [file["items"] for file in files] == [6, 6]
    assert not any("skip" in file for file in files)
    lines = [path.read_text().splitlines() for path in sorted((tmp_path / "data/numbers/items").glob("*"))]
    assert [len(each) for each in lines] == [6, 2]
    tables = [path.read_text().splitlines() for path in sorted((tmp_path / "data/numbers/csv").glob("*"))]
    assert [each[0] for each in tables] == ["page,n"] * 2
    assert [len(each) for each in tables] == [7, 3]
    assert len(run.lines("come after the last state, so no checkpoint names it")) == 2
    before = set(tmp_path.glob("data/numbers/*/*"))
    again = crawl(tmp_path, source, settings={"FEEDS": {**FEEDS, **csv}, "STATE_ORPHANS": "delete"})
    assert again.lines("'state/orphans': 0")
    assert before <= set(tmp_path.glob("data/numbers/*/*"))


def test_skip_where_a_file_cannot_be_cut(tmp_path: Path) -> None:
    """If a file can't be cut (JSON, gzip), the checkpoint says which items to leave out."""
    source = SPIDER + '        yield {"page": 99, "n": 0}\n'
    gzip = {"postprocessing": ["scrapy.extensions.postprocessing.GzipPlugin"]}
    for number, options in enumerate(({"format": "json"}, {"format": "jsonlines", **gzip})):
        crawl(tmp_path / str(number), source, settings={"FEEDS": {ITEMS: options, STATES: STATE_OPTIONS}})
        last = checkpoints(tmp_path / str(number))[-1]
        assert [file["skip"] for file in last["files"]] == [[[6, 7]]]
        assert last["items"] == 6


def test_without_asyncio(tmp_path: Path) -> None:
    """Another reactor is a clear error at start; no reactor at all works."""
    select = crawl(tmp_path / "1", settings={"TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor"})
    assert select.code == 1
    assert select.lines("TWISTED_REACTOR: the state feed needs asyncio")
    none = crawl(tmp_path / "2", settings={"TWISTED_REACTOR_ENABLED": False})
    assert none.code == 0
    assert check_lineage(tmp_path / "2") == 3


@pytest.mark.parametrize("full", ["feed", "FEED_TEMPDIR"])
def test_full_disk(tmp_path: Path, full: str) -> None:
    """A full disk stops the crawl at once: no checkpoint past it, and one error that names the file, the disk and a remedy."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a small disk")
    items = f"{folder if full == 'feed' else tmp_path}/{ITEMS}"
    settings = {"FEEDS": {items: {"format": "jsonlines"}, STATES: STATE_OPTIONS}, "STATE_INTERVAL": 0}
    if full == "FEED_TEMPDIR":
        settings |= {"FEED_TEMPDIR": str(folder), "STATE_INTERVAL": 60}
    try:
        source = SPIDER.replace('"n": 0}', '"n": 0, "text": "x" * 5000}')
        run = crawl(tmp_path, source, "-a", "pages=100", settings=settings)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    assert run.code == 1
    assert run.lines("'finish_reason': 'state_store_failed'")
    [error] = run.lines("ERROR: ")
    assert "checkpoints stopped at" in error
    assert "/items/" in error
    where = folder / "data/numbers/items" if full == "feed" else folder
    assert f"No space left on device on the disk of {where}; free space there, or set FEED_TEMPDIR" in error, error
    assert len(run.lines("No space left")) == 2, run.log  # when it happens, and at the end
    assert "Traceback" not in run.log


def test_log_lines(tmp_path: Path) -> None:
    """The log says where the state came from, each checkpoint stored, and the last yielded beside the last stored."""
    first, second = crawl(tmp_path), crawl(tmp_path)
    assert first.lines("[scrapy_state.state] INFO: STATE {} from the settings (priority default)")
    assert first.lines("checkpoint 1 stored: STATE {}, items: 0, files: 0,")
    assert first.lines('[scrapy_state.state] DEBUG: state item {"page": 3}')
    assert first.lines('spider closed (finished): last state yielded {"page": 3}, last stored {"page": 3} (checkpoint')
    newest = checkpoints(tmp_path)[-1]["parent"]
    line = second.lines('INFO: STATE {"page": 3} from checkpoint')[0]
    assert int(line.rpartition(" from checkpoint ")[2].split()[0]) < newest
    assert "/data/numbers/state/" in line
    assert " s old)" in line


def test_long_states_in_the_log(tmp_path: Path) -> None:
    """The log shows the beginning, length and digest of a long state; STATE_FROM never takes an older one from such a log."""
    source = """
import scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        yield StateItem({"open": "x" * 200_000})
        for number in range(100):
            yield scrapy.Request(f"data:,{number}")

    def parse(self, response):
        raise ValueError("no")
"""
    run = crawl(tmp_path, source, settings={"LOG_LEVEL": "INFO"})
    assert checkpoints(tmp_path)[-1]["state"] == {"open": "x" * 200_000}
    assert len(run.lines("the spider raised ValueError: last state yielded")) == 100
    assert len(run.log) < 1_000_000
    text = json.dumps({"open": "x" * 200_000})
    shown = f"{text[:200]}... (200,012 characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]})"
    assert run.lines(f"stored: STATE {shown}, items: 0, files: 0,")
    assert last_state(run.log.splitlines()) is None


def test_failures_log_where_it_stands(tmp_path: Path, numbered_site: Any) -> None:
    """A download that fails for good and a callback that raises log the last state yielded beside the last stored."""
    source = (
        SITE_SPIDER
        + """
    custom_settings = {"RETRY_TIMES": 1}
    def next(self, page):
        if page == 2:
            yield scrapy.Request(self.site + "fail")
            yield scrapy.Request(self.site.replace("127.0.0.1", "127.0.0.1:9#"))
            raise ValueError("no page 3")
        yield from super().next(page) if hasattr(super(), "next") else [scrapy.Request(self.site + str(page + 1))]
"""
    )
    run = crawl(tmp_path, source, "-a", f"site={numbered_site.url}/")
    for text in ("/fail> failed (HttpError)", "the spider raised ValueError", "spider closed (finished)"):
        assert run.lines(text + ': last state yielded {"page": 3}, last stored'), run.log


def test_sigterm(tmp_path: Path, numbered_site: Any) -> None:
    """SIGTERM ends the crawl in order: its last state item is stored, with the reason "shutdown"."""
    endless = SITE_SPIDER.replace("page < 5", "True")
    process = start(tmp_path, endless, "-a", f"site={numbered_site.url}/", settings={"STATE_INTERVAL": 1000})
    run_until(process, 'state item {"page": 20}')
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    last = checkpoints(tmp_path)[-1]
    assert last["reason"] == "shutdown"
    assert named_items(tmp_path) == [{"page": page} for page in range(last["state"]["page"])]
