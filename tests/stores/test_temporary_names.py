"""Names kept on disk: the same answers as sets in memory give, and no memory."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from scrapy_state.exceptions import StateError
from scrapy_state.stores.temporary_names import FileNames, ListedFile, StoredNames

SEED = 11
COUNT = 20_000


def test_stored_names() -> None:
    """It is a set, and yields its names by folder."""
    names = StoredNames()
    assert not names
    names.update([("requests", "b"), ("files", "c"), ("requests", "a"), ("requests", "b")])
    names.remove([("files", "b"), ("requests", "a")])
    assert list(names) == [("files", "c"), ("requests", "b")]
    names.remove(list(names))
    assert not names


@pytest.mark.parametrize("number", range(20))
def test_file_names(number: int) -> None:
    """What is named, unnamed or missing is what sets say, also for files that another run's checkpoints name."""
    chance = random.Random(SEED + number)
    files = [(run, f"{run}-{file}") for run in ("r1", "r2") for file in range(8)]
    named = {(chance.choice(("r1", "r2")), uri) for _, uri in files if chance.random() < 0.6}
    listed = {(run, uri, feed) for run, uri in files for feed in (0, 1) if chance.random() < 0.5}
    names = FileNames()
    for run, uri in named:
        names.name(run, [uri, uri])
    for run, uri, feed in listed:
        names.list(run, ListedFile(feed, uri, f"key of {uri}"))
    any_run = {uri for _, uri in named}
    for run in ("r1", "r2"):
        there = {ListedFile(feed, uri, f"key of {uri}") for of, uri, feed in listed if of == run}
        assert set(names.named(run)) == {file for file in there if file.uri in any_run}
        assert set(names.unnamed(run)) == {file for file in there if file.uri not in any_run}
        assert set(names.missing(run)) == {uri for of, uri in named if of == run} - {file.uri for file in there}
        assert names.names_any(run) == any(of == run for of, _ in named)


def test_no_memory() -> None:
    """Python keeps none of them."""
    stored, files = StoredNames(), FileNames()
    tracemalloc.start()
    try:
        for number in range(COUNT):
            stored.update([("requests", f"run-{number:05d}.tsv.gz")])
            files.name("run", [f"s3://bucket/items/run-{number:05d}.jsonl"])
            files.list("run", ListedFile(0, f"s3://bucket/items/run-{number:05d}.jsonl", f"items/run-{number:05d}.jsonl"))
        assert next(iter(files.unnamed("run")), None) is None
        assert sum(1 for _ in stored) == COUNT
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * COUNT


def test_no_room() -> None:
    """A disk that is full is one error, which says what helps."""
    names = StoredNames()
    names._sql.execute("PRAGMA max_page_count = 10")
    with pytest.raises(StateError, match=r"database or disk is full.*SQLITE_TMPDIR"):
        names.update(("requests", f"{number:050d}") for number in range(COUNT))
