"""Merging segments, so that a start has few of them to read. Pure."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from typing import IO, Any

from .lines import (
    A_LINE,
    MOST_FAILED,
    PARSERS,
    SEEN_BYTES,
    Writer,
    damage,
    form,
    form_line,
    json_object,
    numbers,
    opened,
    packed,
    page_lines,
    seen_line,
)

#: How many segments there are at most, when all merges are done
MOST_SEGMENTS = 7
#: How much is compressed at once
_SLICE_BYTES = 128 << 10
#: How many forms are summed at once
_MOST_FORMS = 5000


def merge(files: Sequence[IO[bytes]], is_oldest: bool, into: IO[bytes]) -> tuple[int, str]:
    """Write one segment to *into* that says the same as *files*, oldest first, do one after the other. Blocks.

    It reads them twice, from their beginning. In memory are only a bit for each page removed, and the keys of the cookie jars.

    :param is_oldest: whether no older segment precedes them, so that what they remove need not be remembered
    :return: its size in bytes, and its digest
    :raises CheckpointError: if one of them is damaged
    :raises CheckpointTooNew: if a newer scrapy_state wrote one
    """
    return _Merge(files, is_oldest, into).run()


def to_merge(sizes: Sequence[int]) -> tuple[int, int] | None:
    """Return which segments to merge next; None if there are few enough.

    It merges the newest ones: as few as bring the number down to seven, and any older one that those after it outweigh, or
    nearly. How nearly depends on how widely the sizes differ. So a byte is written again only as its segment grows by a factor.

    :param sizes: of all segments, oldest first
    :return: the indices of the first one, and of the one after the last
    """
    if len(sizes) <= MOST_SEGMENTS:
        return None
    factor = 0.5
    while True:
        begin, newer = len(sizes) - 1, 0
        for index in reversed(range(len(sizes))):
            if sizes[index] <= factor * newer:
                begin = index
            newer += max(sizes[index], 1)
        if begin < MOST_SEGMENTS:
            return begin, len(sizes)
        factor *= 1.2


class _Merge:
    """One call of :func:`merge`."""

    def __init__(self, files: Sequence[IO[bytes]], is_oldest: bool, into: IO[bytes]) -> None:
        self._files, self._is_oldest, self._into = files, is_oldest, into
        self._removed = _Pages()
        #: the position among all lines: of the last "O", and of each jar's last line
        self._forgotten = -1
        self._jars: dict[str, int] = {}
        self._names: set[bytes] = set()
        self._failed = 0
        self._forms: Counter[str] = Counter()
        self._seen = bytearray()
        self._lines: list[bytes] = []
        self._bytes = 0

    def run(self) -> tuple[int, str]:
        header: dict[str, Any] = {}
        positions = count()
        with damage():
            for file in self._files:
                header, lines = self._opened(file)
                for line, at in zip(lines, positions, strict=False):
                    self._look(at, line)
            self._writer = Writer(self._into, header)
            self._last_jars = set(self._jars.values())
            self._write()
        return self._writer.close()

    def _opened(self, file: IO[bytes]) -> tuple[dict[str, Any], Iterator[bytes]]:
        file.seek(0)
        return opened(file)

    def _put(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes > _SLICE_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._writer.write(self._lines)
        self._lines, self._bytes = [], 0

    def _look(self, at: int, line: bytes) -> None:
        """Remember from *line* what decides which lines to leave out."""
        kind = line.partition(b"\t")[0]
        if kind == b"+":
            page = _page(line)
            if page in self._removed:  # it was put back
                self._removed.discard(page)
        elif kind == b"-":
            for page in numbers(line[2:]):
                self._removed.add(page)
        elif kind == b"O":
            self._forgotten = at
        elif kind == b"c":
            self._jars[json.dumps(json_object(line[2:], "jar")["jar"])] = at
        elif kind not in PARSERS:
            raise ValueError(f"a line of an unknown kind: {kind[:20]!r}")

    def _write(self) -> None:
        if self._forgotten >= 0 and not self._is_oldest:
            self._put(b"O")
        positions = count()
        for file in self._files:
            is_newest = file is self._files[-1]
            for line, at in zip(self._opened(file)[1], positions, strict=False):
                kind = line[:1]
                if kind in b"+dh":
                    if _page(line) not in self._removed:
                        self._put(line)
                elif kind == b"s":
                    self._see(packed(line[2:]))
                elif kind == b"o":
                    self._form(line, at)
                elif self._is_needed(kind, line, at, is_newest):
                    self._put(line)
        self._see(b"", 1)
        self._write_forms()
        if not self._is_oldest:
            for line in page_lines(b"-", self._removed):  # even of pages added here: an older segment may have them, too
                self._put(line)
        self._flush()

    def _is_needed(self, kind: bytes, line: bytes, at: int, is_newest: bool) -> bool:
        if kind == b"f":
            self._failed += 1
            return self._failed <= MOST_FAILED
        if kind == b"n":
            is_new = line not in self._names
            self._names.add(line)
            return is_new
        return at in self._last_jars if kind == b"c" else kind == b"i" and is_newest

    def _see(self, packed: bytes, least: int = A_LINE) -> None:
        """Fill lines with fingerprints: cuts leave short ones."""
        self._seen += packed
        while len(self._seen) >= least * SEEN_BYTES:
            self._put(seen_line(self._seen[: A_LINE * SEEN_BYTES]))
            del self._seen[: A_LINE * SEEN_BYTES]

    def _form(self, line: bytes, at: int) -> None:
        if at > self._forgotten:
            hash, times = form(line[2:])
            self._forms[hash] += times
            if len(self._forms) >= _MOST_FORMS:
                self._write_forms()

    def _write_forms(self) -> None:
        for hash, times in self._forms.items():
            self._put(form_line(hash, times))
        self._forms.clear()


def _page(line: bytes) -> int:
    return int(line.split(b"\t", 2)[1])


class _Pages:
    """A set of page numbers, a bit each: they are dense."""

    def __init__(self) -> None:
        self._bits: defaultdict[int, int] = defaultdict(int)

    def add(self, page: int) -> None:
        self._bits[page >> 10] |= 1 << (page & 1023)

    def discard(self, page: int) -> None:
        self._bits[page >> 10] &= ~(1 << (page & 1023))

    def __contains__(self, page: int) -> bool:
        return bool(self._bits.get(page >> 10, 0) >> (page & 1023) & 1)

    def __iter__(self) -> Iterator[int]:
        for high, bits in sorted(self._bits.items()):
            yield from ((high << 10) + low for low in range(1024) if bits >> low & 1)
