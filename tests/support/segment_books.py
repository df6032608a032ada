"""What segments say, kept as plainly as possible, and segments made for tests."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any

from scrapy_state.frontier.segments import OpenSegment, read_segments
from scrapy_state.frontier.segments.lines import PageLine


class Books:
    """A target for :func:`read_segments` that keeps everything."""

    def __init__(self) -> None:
        self.pending: dict[int, tuple[int, bool, bytes]] = {}
        self.seen: set[bytes] = set()
        self.forms: Counter[str] = Counter()
        self.died: dict[int, int] = {}
        self.failures: list[dict[str, Any]] = []
        self.kept_back: dict[int, dict[str, Any]] = {}
        self.jars: dict[str, Any] = {}
        self.names: set[tuple[str, str]] = set()
        self.flying: list[int] = []

    def add(self, pages: Sequence[PageLine]) -> None:
        assert 0 < len(pages) <= 500
        self.pending.update((page, (priority, is_start, data)) for page, priority, is_start, data in pages)

    def remove(self, pages: Sequence[int]) -> None:
        for page in pages:
            for about in (self.pending, self.died, self.kept_back):
                about.pop(page, None)

    def saw(self, packed: bytes) -> None:
        self.seen.update(packed[at : at + 12] for at in range(0, len(packed), 12))

    def form(self, hash: str, count: int) -> None:
        self.forms[hash] += count

    def forget_forms(self) -> None:
        self.forms.clear()

    def deaths(self, page: int, number: int) -> None:
        assert page in self.pending
        self.died[page] = number

    def failed(self, info: dict[str, Any]) -> None:
        self.failures.append(info)

    def held(self, page: int, info: dict[str, Any]) -> None:
        assert page in self.pending
        self.kept_back[page] = info

    def cookies(self, info: dict[str, Any]) -> None:
        self.jars[json.dumps(info["jar"])] = info["cookies"]

    def name(self, kind: str, name: str) -> None:
        self.names.add((kind, name))

    def in_flight(self, pages: Sequence[int]) -> None:
        self.flying = list(pages)


def read(*files: IO[bytes]) -> dict[str, Any]:
    """Return what *files*, oldest first, say."""
    books = Books()
    for file in files:
        file.seek(0)
    read_segments(files, books)
    return vars(books)


def segment(fill: Callable[[OpenSegment], object] = lambda open: None, in_flight: Iterable[int] = ()) -> IO[bytes]:
    """Return a segment that *fill* has filled."""
    opened = OpenSegment("20261121T120000-abcdef", "numbers", io.BytesIO)
    fill(opened)
    return opened.finish(in_flight)[0]


def written(*lines: str, first: str = 'segment\t{"version":1,"run":"r","spider":"s"}') -> IO[bytes]:
    """Return a segment with these lines."""
    return io.BytesIO(gzip.compress("".join(f"{line}\n" for line in (first, *lines)).encode()))
