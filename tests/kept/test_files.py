"""Files of the project in checkpoints: real crawls that are killed, and go on in an empty folder."""

import asyncio
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
from commands import run as command
from crawls import Crawl, crawl, untouched

from scrapy_state.barrier.tickets import Side
from scrapy_state.export.retry import Retry
from scrapy_state.kept import files
from scrapy_state.kept.files import KeptFiles
from scrapy_state.kept.selection import Selection
from scrapy_state.stores.local import LocalWriter
from scrapy_state.stores.threads import StoreThreads

#: Each page adds a row, a file in a folder, and a cookie; then the spider waits for a checkpoint that has them.
SPIDER = """
import asyncio, os, signal, sqlite3, scrapy
from pathlib import Path
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"
    pages, dies, extra = 4, "", 0

    async def start(self):
        Path(".scrapy/cache").mkdir(parents=True, exist_ok=True)
        Path(".scrapy/empty").touch()
        database = sqlite3.connect("ids.sqlite")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE IF NOT EXISTS ids (id)")
        first = self.state.get("page", 0)
        self.logger.info("ROWS %s", [id for id, in database.execute("SELECT id FROM ids ORDER BY id")])
        for page in range(first, int(self.pages)):
            database.execute("INSERT INTO ids VALUES (?)", [page])
            database.commit()
            Path(f".scrapy/cache/{page}").write_bytes(str(page).encode() * 10000)
            Path("cookies.json").write_text(f"page {page}")
            os.chmod("cookies.json", 0o600)
            Path(".scrapy/cache/old").touch() if page < 2 else Path(".scrapy/cache/old").unlink(missing_ok=True)
            yield {"page": page}
            count = self.crawler.stats.get_value("state/checkpoints")
            while self.crawler.stats.get_value("state/checkpoints") < count + 2 and self.crawler.crawling:
                yield StateItem({"page": page + 1})
                await asyncio.sleep(0.01)
        if self.dies:
            database.execute("INSERT INTO ids VALUES (-1)")
            os.kill(os.getpid(), signal.SIGKILL)
"""
FILES = [".scrapy", "cookies.json", "*.sqlite", "nothing*"]


def feeds(store: Path) -> dict[str, Any]:
    return {
        f"{store}/items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"},
        f"{store}/state/%(batch_id)010d.json": {"format": "json", "item_classes": ["scrapy_state.StateItem"]},
    }


def run(folder: Path, store: Path, *arguments: str, **settings: Any) -> Crawl:
    given = [part for each in arguments for part in ("-a", each)]
    chosen = {
        "FEEDS": feeds(store),
        "STATE_FILES": FILES,
        "STATE_INTERVAL": 0,
        "STATE_FILES_INTERVAL": 0,
        "STATE_REQUESTS": False,
    }
    return crawl(folder, SPIDER, *given, settings={**chosen, **settings})


def content(folder: Path) -> dict[str, bytes]:
    paths = [*folder.glob(".scrapy/**/*"), folder / "cookies.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def rows(folder: Path) -> list[int]:
    with closing(sqlite3.connect(folder / "ids.sqlite")) as database:
        return [id for (id,) in database.execute("SELECT id FROM ids ORDER BY id")]


def newest(store: Path) -> Any:
    return json.loads(max((store / "state").glob("*.json")).read_text())[0]


def test_a_crawl_goes_on_in_an_empty_folder(tmp_path: Path) -> None:
    """Killed, and resumed with nothing but the store, a crawl finds its files byte for byte; so does a read-only run."""
    first, second, third, store = (tmp_path / name for name in ("first", "second", "third", "store"))
    assert run(first, store, "dies=1").code == -9
    expected = content(first)
    assert sorted(expected) == [*(f".scrapy/cache/{page}" for page in range(4)), ".scrapy/empty", "cookies.json"]
    (second / ".scrapy/cache").mkdir(parents=True)
    (second / ".scrapy/cache/0").write_text("another")
    (second / ".scrapy/mine").write_text("unknown")
    resumed = run(second, store, "pages=4")
    assert resumed.code == 0, resumed.log
    assert resumed.lines("files of checkpoint"), resumed.log
    assert resumed.lines("not in the checkpoint, and left as they are (1): .scrapy/mine")
    assert content(second) == {**expected, ".scrapy/mine": b"unknown"}
    assert (second / "cookies.json").stat().st_mode & 0o777 == 0o600
    assert resumed.lines("ROWS [0, 1, 2, 3]"), "the open transaction was never committed"
    for file in newest(store)["memories"]["files"]["stored"]:
        stored = (store / "state/files" / file["name"]).read_bytes()
        assert hashlib.sha256(stored).hexdigest() == file["name"][:64]
        assert (file["bytes"], file["digest"]) == (len(stored), f"sha256:{file['name'][:64]}")
    state_feed, options = [*feeds(store).items()][1]
    development = {state_feed: options, "out.jsonl": {"format": "jsonlines", "checkpoint": False}}
    with untouched(store):
        read = run(third, store, "pages=6", STATE_READONLY=True, STATE_FILES_DIR="there", FEEDS=development)
        assert read.code == 0, read.log
        listed = command(third, "files", f"{store}/state/%(batch_id)010d.json", "--restore", "other", "--json")
    assert content(third / "there") == {**expected, ".scrapy/mine": b"unknown"}
    assert listed.code == 0
    assert content(third / "other") == content(third / "there")
    assert rows(third / "other") == [0, 1, 2, 3]


class Barrier:
    """A fake: only its end matters here."""

    ended = False


class Kept:
    """The memory of a project's folder, and what it stores on the disk."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.store, self.read = folder / "project", folder / "store", list[str]()
        self.root.mkdir()
        self.barrier, self.threads = Barrier(), StoreThreads()
        self.memory = KeptFiles(
            self.barrier, logging.getLogger(), Selection(self.root, ["*"], {}), {}, {}, None, LocalWriter(), f"{self.store}/",
            300, 10**6, str(folder), TemporaryFile, "r1",
        )  # type: ignore[arg-type]  # fmt: skip
        copied = files.copy_of

        def copy_of(path: str, *more: Any) -> Any:
            self.read.append(Path(path).name)
            return copied(path, *more)

        monkeypatch.setattr(files, "copy_of", copy_of)

    def write(self, **contents: str) -> None:
        """Write files that changed long ago."""
        for name, content in contents.items():
            (self.root / name).write_text(content)
            os.utime(self.root / name, (1_600_000_000 + len(content), 1_600_000_000))

    def cut(self, is_due: bool = True) -> dict[str, tuple[str, str]]:
        """Return what a checkpoint says: name -> content and mode."""
        self.read.clear()
        data = asyncio.run(self._store(is_due))
        return {path: ((self.store / name).read_text(), mode) for path, (name, mode) in data["paths"].items()}

    async def _store(self, is_due: bool) -> Any:
        return await self.memory.store(is_due, self.threads, Retry(1, 1))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    found = Kept(tmp_path, monkeypatch)
    yield found
    found.threads.close()


def test_only_what_has_changed_is_read(kept: Kept) -> None:
    """A file that has not changed is not even opened; equal files are stored once; one that has gone is not listed."""
    kept.write(a="one", b="one", c="three", d="")
    expected = {"a": ("one", "644"), "b": ("one", "644"), "c": ("three", "644"), "d": ("", "644")}
    assert kept.cut() == expected
    assert sorted(kept.read) == ["a", "b", "c", "d"]
    assert len(list(kept.store.iterdir())) == 3
    kept.write(c="another")
    (kept.root / "b").unlink()
    (kept.root / "a").chmod(0o600)
    assert kept.cut(is_due=False) == expected
    assert kept.read == []
    assert kept.cut() == {"a": ("one", "600"), "c": ("another", "644"), "d": ("", "644")}
    assert kept.read == ["c"]
    assert kept.cut()
    assert kept.read == []
    (kept.root / "a").write_text("new")  # just now: its time stamp may be that of another change soon
    for _ in range(2):
        assert kept.cut()["a"] == ("new", "600")
        assert kept.read == ["a"]


def test_old_content_gets_a_new_name(kept: Kept) -> None:
    """A checkpoint names no stored file but those of the last checkpoint and new ones: a prune that runs at the same moment may
    delete any other, also one with the same content."""
    kept.write(a="one")
    kept.cut()
    [old] = kept.store.iterdir()
    kept.write(a="two, for a while")
    kept.cut()
    kept.write(a="one")
    old.unlink()  # a prune that took its list before the next cut may do it before or after
    assert kept.cut() == {"a": ("one", "644")}
    assert not old.exists()


def test_files_are_looked_at_every_interval_and_at_the_end(kept: Kept) -> None:
    """The first cut looks, further ones only after STATE_FILES_INTERVAL, the last one in any case."""
    assert kept.memory.snapshot(Side())
    assert not kept.memory.snapshot(Side())
    kept.barrier.ended = True
    assert kept.memory.snapshot(Side())


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"JOBDIR": ".scrapy/jobs"}, "STATE_FILES has '.scrapy': JOBDIR holds the requests"),
        (
            {"STATE_FILES_MAX_SIZE": "1kB", "STATE_FILES": ["large"]},
            "4,000 of them in 'large', but STATE_FILES_MAX_SIZE is 1,000",
        ),
        ({"STATE_FILES": ["../x"]}, "outside the project"),
        ({"STATE_FILES": ["."]}, "the checkpoints themselves are there"),
        ({"STATE_FILES": 5}, "STATE_FILES is 5; it must be a list of paths and globs"),
    ],
)
def test_what_must_not_be_kept_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    """The crawl does not start, and one line says why."""
    tmp_path.joinpath("large").write_bytes(b"x" * 4000)
    refused = run(tmp_path, tmp_path / "data", **settings)
    assert refused.code == 1
    assert len(refused.lines(message)) == 1, refused.log


@pytest.mark.long
def test_files_that_grow_too_large_stop_the_checkpoints(tmp_path: Path) -> None:
    """If there is too much during a run, no checkpoint without the files is stored, and the exit code is 1."""
    failed = run(tmp_path / "project", tmp_path / "store", STATE_FILES=[".scrapy"], STATE_FILES_MAX_SIZE="25kB")
    assert failed.code == 1
    assert failed.lines("STATE_FILES_MAX_SIZE is 25,000")
    assert newest(tmp_path / "store")["memories"]["files"]["paths"].keys() == {
        ".scrapy/cache/0", ".scrapy/cache/1", ".scrapy/cache/old", ".scrapy/empty"
    }  # fmt: skip


@pytest.mark.long
def test_a_run_without_the_setting_passes_the_files_on(tmp_path: Path) -> None:
    """A run without STATE_FILES restores nothing, and its checkpoints name the files of their parent."""
    project, store = tmp_path / "project", tmp_path / "store"
    assert run(project, store).code == 0
    before = newest(store)["memories"]["files"]
    assert run(tmp_path / "other", store, "pages=5", STATE_FILES=[]).code == 0
    assert not (tmp_path / "other/.scrapy/cache/0").exists()
    assert newest(store)["memories"]["files"] == before


@pytest.mark.long
def test_files_of_another_prefix_are_copied(tmp_path: Path) -> None:
    """With STATE_FROM a run begins with the files of other checkpoints, and its own first checkpoint has copies of them."""
    project, store, own = tmp_path / "project", tmp_path / "store", tmp_path / "own"
    assert run(project, store).code == 0
    other = run(tmp_path / "other", own, STATE_FROM=f"{store}/state/%(batch_id)010d.json")
    assert other.code == 0, other.log
    assert content(tmp_path / "other") == content(project)
    opening = json.loads(min((own / "state").glob("*.json")).read_text())[0]
    for file in opening["memories"]["files"]["stored"]:
        assert hashlib.sha256((own / "state/files" / file["name"]).read_bytes()).hexdigest() == file["name"][:64]
