"""A store's read side that finds pruned checkpoints in their roll-ups, and the requests that this takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from histories import History

from scrapy_state.lineage.archive import StoreWithRollups
from scrapy_state.lineage.chain import find_checkpoint, lineage
from scrapy_state.lineage.history import newest_first
from scrapy_state.lineage.prune import Pruned, prunable, roll_up
from scrapy_state.lineage.resolve import At, resolve
from scrapy_state.model.key_template import KeyTemplate
from scrapy_state.model.times import parse_time

CHECKPOINTS, KEPT, ROLLUPS = 41, 5, 2


class Counting:
    """The read side of a store that counts its requests."""

    ordered = False

    def __init__(self, history: History) -> None:
        self._store, self._prefix = history.store, history.template.prefix
        self.uri = history.store.uri
        #: listings of everything and of roll-ups, and reads of state files and of roll-ups
        self.listed = self.rollups_listed = self.states_read = self.rollups_read = 0

    def keys(self, prefix: str, after: str = "", limit: int | None = None, depth: int | None = None) -> Iterator[str]:
        self.listed += prefix == self._prefix
        self.rollups_listed += prefix != self._prefix
        return self._store.keys(prefix, after, limit, depth)

    def read(self, key: str) -> bytes | None:
        self.rollups_read += "rollup-" in key
        self.states_read += "rollup-" not in key
        return self._store.read(key)

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        return self._store.read_part(key, begin, size)

    @property
    def requests(self) -> tuple[int, int, int, int]:
        return self.listed, self.rollups_listed, self.states_read, self.rollups_read


@pytest.fixture
def pruned(history: History) -> History:
    """Forty-one checkpoints, five of them in state files of their own, the others in two roll-ups."""
    history.run(CHECKPOINTS - 1)
    for keep in (20, KEPT):
        keys = prunable(history.store, history.template, CHECKPOINTS, keep=keep)
        roll_up(history.store, history.template, keys, Pruned())
    return history


def test_read(pruned: History) -> None:
    """A pruned state file is read as if it were there. One that never existed is None, and so is a key of another form."""
    store = StoreWithRollups(pruned.store, pruned.template)
    for id in (1, 21, 36, CHECKPOINTS):
        data = store.read(pruned.template.key(id))
        assert data is not None
        assert f'"id": {id},'.encode() in data
    assert store.read(pruned.template.key(CHECKPOINTS + 1)) is None
    assert store.read(pruned.template.prefix + "5.json") is None
    assert store.newest_pruned() == CHECKPOINTS - KEPT
    assert find_checkpoint(pruned.store, pruned.template, 7) is not None


def test_requests(pruned: History) -> None:
    """A start does not look for roll-ups. Reading further back reads each roll-up once."""
    counting = Counting(pruned)
    newest = resolve(counting, pruned.template).checkpoint
    assert newest is not None
    assert counting.requests == (1, 0, 2, 0), "the newest and its parent"

    counting = Counting(pruned)
    assert len(lineage(counting, pruned.template, newest)) == CHECKPOINTS
    assert counting.requests == (0, 1, KEPT - 1 + ROLLUPS, ROLLUPS), "a state file is missing where a roll-up begins"

    counting = Counting(pruned)
    ids = [file.id for file in newest_first(counting, pruned.template)]
    assert ids == list(range(CHECKPOINTS, 0, -1))
    assert counting.requests == (1, 2, KEPT, ROLLUPS)


@pytest.mark.parametrize(("at", "rollups"), [(-10, (1, 1)), (-40, (1, 2)), ("time of the first", (1, 2))])
def test_requests_of_an_older_one(pruned: History, at: At, rollups: tuple[int, int]) -> None:
    """STATE_AT lists the roll-ups once, and reads them only as far back as it must."""
    first = find_checkpoint(pruned.store, pruned.template, 1)
    assert first is not None
    made = parse_time(first.time)
    assert made is not None
    counting = Counting(pruned)
    checkpoint = resolve(counting, pruned.template, at=made if at == "time of the first" else at).checkpoint
    assert checkpoint is not None
    assert checkpoint.id == CHECKPOINTS + at if isinstance(at, int) else checkpoint.time == first.time
    assert (counting.rollups_listed, counting.rollups_read) == rollups


class Empty:
    """The read side of a store in which nothing is listed."""

    ordered = True

    def uri(self, key: str) -> str:
        return key

    def keys(self, prefix: str, after: str = "", limit: int | None = None, depth: int | None = None) -> Iterator[str]:
        return iter(())

    def read(self, key: str) -> bytes | None:
        return None

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        return None


def test_reading_a_year_takes_no_memory() -> None:
    """However many state files are read, newest first, none is remembered."""
    template = KeyTemplate.parse("state/%(batch_id)010d.json", {})
    count = 100_000
    tracemalloc.start()
    try:
        files = ((template.key(id), b"") for id in range(count, 0, -1))
        assert sum(1 for _ in StoreWithRollups(Empty(), template).newest_first(files)) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < count
