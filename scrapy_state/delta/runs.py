"""Sorted runs of keys, the files in which checkpoints remember pages; docs/format.md describes them. Pure.

A run is one line of text with the number of its keys, then the keys in ascending order (64 bits each), then their days (16 bits
each, since 1970). A day of 0 forgets a key that an older run has.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, TypeAlias

from ..exceptions import CheckpointError, CheckpointTooNew

#: Keys in ascending order, and their days
Part: TypeAlias = "tuple[array[int], array[int]]"
#: The day of a key that is forgotten
FORGOTTEN = 0
_VERSION = 1
_BEGIN = b"scrapy_state keys "
#: All first lines have this length, so that it can be written last.
_LINE_BYTES = len(_BEGIN) + len("1 ") + 12 + len("\n")
#: How many keys are read and merged at once: no call keeps the lock of Python for long
_AT_ONCE = 4096
_NO_LIMIT = 1 << 64


def write_run(parts: Iterable[Part], into: IO[bytes]) -> int:
    """Write a run to *into*, which is empty, and return how many keys it has. The *parts* follow on each other."""
    into.write(_first_line(0))
    all_days = array("H")
    count = 0
    for keys, days in parts:
        into.write(_little_endian(keys))
        all_days += days
        count += len(keys)
    into.write(_little_endian(all_days))
    into.seek(0)
    into.write(_first_line(count))
    into.seek(0)
    return count


def part_of(days: Mapping[int, int]) -> Part:
    """Return keys with their days, sorted by key."""
    keys = array("Q", sorted(days))
    return keys, array("H", map(days.__getitem__, keys))


def merge(files: Sequence[IO[bytes]], is_oldest: bool) -> Iterator[Part]:
    """Yield the keys of several runs, each key once, with the day that the newest run gives it. Blocks.

    :param files: the runs, oldest first
    :param is_oldest: whether no older run precedes them, so that what is forgotten can be left out
    :raises CheckpointError: if one of them is damaged
    :raises CheckpointTooNew: if a newer scrapy_state wrote one
    """
    readers = [_Reader(file) for file in files]
    # Keys are hashes, so equal slices of all possible keys have about as many keys each.
    slices = max(1, sum(reader.count for reader in readers) // _AT_ONCE)
    for number in range(1, slices + 1):
        limit = (number << 64) // slices
        found: dict[int, int] = {}
        for reader in readers:
            for keys, days in reader.take(limit):
                found.update(zip(keys, days, strict=True))
        if is_oldest and FORGOTTEN in found.values():
            found = {key: day for key, day in found.items() if day != FORGOTTEN}
        yield part_of(found)


def count_keys(files: Iterable[IO[bytes]]) -> int:
    """Return how many keys the runs have together, repeated ones included.

    :raises CheckpointError: as :func:`merge`
    :raises CheckpointTooNew: as :func:`merge`
    """
    return sum(_Reader(file).count for file in files)


class _Reader:
    """Reads one run from its beginning to its end, a part at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        file.seek(0)
        self.count = _count_in(file.read(_LINE_BYTES))
        self._read = 0
        self._keys, self._days = array("Q"), array("H")

    def take(self, limit: int) -> Iterator[Part]:
        """Yield the keys below *limit* that have not been taken yet."""
        while self._keys or self._fill():
            end = bisect_left(self._keys, limit) if limit < _NO_LIMIT else len(self._keys)
            if end:
                yield self._keys[:end], self._days[:end]
                del self._keys[:end], self._days[:end]
            if self._keys:
                return

    def _fill(self) -> bool:
        count = min(_AT_ONCE, self.count - self._read)
        if count:
            self._keys = self._array("Q", _LINE_BYTES + 8 * self._read, count)
            self._days = self._array("H", _LINE_BYTES + 8 * self.count + 2 * self._read, count)
            self._read += count
        return bool(count)

    def _array(self, kind: str, begin: int, count: int) -> array[int]:
        values = array(kind)
        self._file.seek(begin)
        data = self._file.read(values.itemsize * count)
        if len(data) < values.itemsize * count:
            raise CheckpointError("the run of keys is damaged: it is too short")
        values.frombytes(data)
        return _swapped(values)


def _first_line(count: int) -> bytes:
    return _BEGIN + b"%d %012d\n" % (_VERSION, count)


def _count_in(line: bytes) -> int:
    """Return how many keys a run has, from its first line."""
    version, _, count = line.removeprefix(_BEGIN).rstrip(b"\n").partition(b" ")
    if not (line.startswith(_BEGIN) and line.endswith(b"\n") and version.isdigit() and count.isdigit()):
        raise CheckpointError("the run of keys is damaged: its first line can't be read")
    if int(version) > _VERSION:
        raise CheckpointTooNew(
            f"the run of keys has version {int(version)}, and this scrapy_state reads version {_VERSION}",
            remedy="install a newer scrapy_state",
        )
    return int(count)


def _little_endian(values: array[int]) -> bytes:
    return _swapped(values).tobytes()


def _swapped(values: array[int]) -> array[int]:
    """Return *values* as bytes in a run have them, or the other way round: a run is little-endian on every machine."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values
