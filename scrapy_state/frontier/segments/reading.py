"""Reading segments: what their lines say, told to a target. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, Protocol

from .lines import A_LINE, MOST_FAILED, PARSERS, PageLine, damage, opened, page_line


class Target(Protocol):
    """What :func:`read_segments` calls, in the order of the lines."""

    def add(self, pages: Sequence[PageLine]) -> None:
        """Pending pages, at most 500; each overrides an earlier one of its number."""

    def remove(self, pages: Sequence[int]) -> None:
        """These pages are not pending any more, and neither held nor counted; some may never have been added."""

    def saw(self, packed: bytes) -> None:
        """Fingerprints that were seen: 12 bytes each."""

    def form(self, hash: str, count: int) -> None:
        """``start()`` has sent *count* more requests of this form."""

    def forget_forms(self) -> None:
        """The forms so far don't count any more."""

    def deaths(self, page: int, number: int) -> None:
        """Through how many deaths of a process *page* has been, in all."""

    def failed(self, info: dict[str, Any]) -> None:
        """A page that failed and was skipped: ``{"url": …, "reason": …}``. At most :data:`MOST_FAILED`."""

    def held(self, page: int, info: dict[str, Any]) -> None:
        """A pending page that failed: ``{"reason": …, "sent": [hash, …]}``."""

    def cookies(self, info: dict[str, Any]) -> None:
        """A cookie jar, which overrides an earlier one: ``{"jar": …, "cookies": […]}``."""

    def name(self, kind: str, name: str) -> None:
        """A callback, an errback or a class that a request names."""

    def in_flight(self, pages: Sequence[int]) -> None:
        """The pages in flight at the last cut: called once, at the end."""


#: kind of a line -> the method of the target
_METHODS = {
    **{b"+": "add", b"-": "remove", b"s": "saw", b"o": "form", b"O": "forget_forms", b"d": "deaths"},
    **{b"f": "failed", b"h": "held", b"c": "cookies", b"n": "name"},
}


def read_segments(files: Iterable[IO[bytes]], target: Target) -> None:
    """Read segments, oldest first, and tell *target* what is in them. Blocks; takes seconds for a million pages.

    :raises CheckpointError: if one is damaged
    :raises CheckpointTooNew: if a newer scrapy_state wrote one
    """
    calls: dict[bytes, Callable[..., None]] = {kind: getattr(target, name) for kind, name in _METHODS.items()}
    in_flight: list[int] = []
    failed = 0
    for file in files:
        in_flight.clear()
        for kind, values in _records(file):
            if kind == b"i":
                in_flight += values[0]
                continue
            failed += kind == b"f"
            if kind != b"f" or failed <= MOST_FAILED:
                calls[kind](*values)
    target.in_flight(in_flight)


def read_lines(file: IO[bytes]) -> Iterator[tuple[str, list[str]]]:
    """Yield the kind and the fields of each line but the first. Blocks.

    :raises CheckpointError: if the segment is damaged
    :raises CheckpointTooNew: if a newer scrapy_state wrote it
    """
    with damage():
        for line in opened(file)[1]:
            kind, *fields = line.decode("utf-8", "surrogatepass").split("\t")
            yield kind, fields


def _records(file: IO[bytes]) -> Iterator[tuple[bytes, tuple[Any, ...]]]:
    """Yield the kind and the values of each line; those of neighbours with pages as one.

    What the caller raises in between is not taken for damage.
    """
    pages: list[PageLine] = []
    with damage():
        for line in opened(file)[1]:
            is_page = line[:2] == b"+\t"
            if is_page:
                pages.append(page_line(line))
                if len(pages) < A_LINE:
                    continue
            if pages:
                yield b"+", (pages,)
                pages = []
            if not is_page:
                kind, _, rest = line.partition(b"\t")
                yield kind, PARSERS[kind](rest)
        if pages:
            yield b"+", (pages,)
