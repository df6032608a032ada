"""Sorted runs of keys, their merging, and the table in memory."""

from __future__ import annotations

import io
import struct
from array import array
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrapy_state.delta import runs
from scrapy_state.delta.known import Known
from scrapy_state.delta.runs import FORGOTTEN, count_keys, merge, part_of, write_run
from scrapy_state.exceptions import CheckpointError, CheckpointTooNew

#: Few different keys, so that runs share some, and the ends of what 64 bits can hold
KEYS = st.integers(0, 20) | st.sampled_from([1 << 63, (1 << 64) - 1, (1 << 64) - 2]) | st.integers(0, (1 << 64) - 1)
RUN = st.dictionaries(KEYS, st.integers(0, 3) | st.integers(1, 65535), max_size=40)


def run_of(days: dict[int, int]) -> io.BytesIO:
    file = io.BytesIO()
    assert write_run([part_of(days)], file) == len(days)
    return file


def content(file: io.BytesIO) -> dict[int, int]:
    return {key: day for keys, days in merge([file], is_oldest=False) for key, day in zip(keys, days, strict=True)}


@given(st.lists(RUN, max_size=6), st.booleans(), st.integers(1, 8))
def test_merging(some: list[dict[int, int]], is_oldest: bool, at_once: int) -> None:
    """A merge says what its runs say one after the other: the newest counts. What is forgotten is left out only if
    nothing older can have it. The result is sorted, and is a run itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_AT_ONCE", at_once)
        files = [run_of(days) for days in some]
        into = io.BytesIO()
        count = write_run(merge(files, is_oldest), into)
        expected: dict[int, int] = {}
        for days in some:
            expected.update(days)
        if is_oldest:
            expected = {key: day for key, day in expected.items() if day != FORGOTTEN}
        merged = content(into)
    assert merged == expected
    assert list(merged) == sorted(merged)
    assert count == len(merged) == count_keys([into])


@given(st.lists(RUN, max_size=6))
def test_looking_up(some: list[dict[int, int]]) -> None:
    """The table knows the day of each key that the newest run has, and of no other key."""
    files = [run_of(days) for days in some]
    known = Known(merge(files, is_oldest=True), count_keys(files))
    expected: dict[int, int] = {}
    for days in some:
        expected.update(days)
    expected = {key: day for key, day in expected.items() if day != FORGOTTEN}
    assert len(known) == len(expected)
    for key in {*expected, *range(22), 1 << 63, (1 << 64) - 1, *(min(key + 1, (1 << 64) - 1) for key in expected)}:
        assert known.day(key) == expected.get(key, 0)
    assert known.days == ((min(expected.values()), max(expected.values())) if expected else (0, 0))


def test_many_keys() -> None:
    """Several slices and an index: 50,000 keys in three runs are all found, and as many others are not."""
    random = Random(5)
    some = [{random.getrandbits(64): 1 + number for _ in range(size)} for number, size in enumerate((30_000, 15_000, 5_000))]
    files = [run_of(days) for days in some]
    known = Known(merge(files, is_oldest=True), 50_000)
    assert len(known) == 50_000
    assert all(known.day(key) == day for days in some for key, day in days.items())
    assert not any(known.day(random.getrandbits(64)) for _ in range(50_000))


def test_bytes() -> None:
    """A run has these bytes on every machine."""
    assert run_of({258: 3, 1: 513}).getvalue() == (b"scrapy_state keys 1 000000000002\n" + struct.pack("<QQHH", 1, 258, 513, 3))


@pytest.mark.parametrize(
    "data",
    [b"", b"scrapy_state keys 1 000000000002\n" + bytes(19), b"scrapy_state keys 1 00000000000x\n", b"something else" * 10],
)
def test_damage(data: bytes) -> None:
    """A file that is no run, or is too short, is an error."""
    with pytest.raises(CheckpointError, match="damaged"):
        list(merge([io.BytesIO(data)], is_oldest=True))


def test_newer_version() -> None:
    """A run of a later version is refused."""
    with pytest.raises(CheckpointTooNew, match="version 2"):
        count_keys([io.BytesIO(b"scrapy_state keys 2 000000000000\n")])


def test_parts_in_order() -> None:
    """Parts of a run follow on each other in the file."""
    file = io.BytesIO()
    write_run([(array("Q", [1, 2]), array("H", [1, 2])), (array("Q", [9]), array("H", [3]))], file)
    assert content(file) == {1: 1, 2: 2, 9: 3}
