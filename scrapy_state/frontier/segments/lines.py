"""The lines of a segment, and how a file holds them: docs/format.md describes both."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import IO, Any

from ...exceptions import CheckpointError, CheckpointTooNew

#: The newest version of the format that this package reads
VERSION = 1
#: How many bytes of a fingerprint are kept
SEEN_BYTES = 12
#: How many failed pages of a crawl are listed
MOST_FAILED = 1000
#: How many pages, or fingerprints, one line has at most
A_LINE = 500
#: A request has 64 MiB at most (codec.py). Longer lines are damage, or an attack.
_LONGEST_LINE = 80 << 20
_BUFFER_BYTES = 256 << 10
#: zlib's number for a stream in the gzip format
_GZIP = 16 + zlib.MAX_WBITS

#: The number of a pending page, its priority, whether it is a start request, and the request as JSON
PageLine = tuple[int, int, bool, bytes]


def opened(file: IO[bytes]) -> tuple[dict[str, Any], Iterator[bytes]]:
    """Return what the first line of a segment says, and its other lines, without line breaks. Use it within :func:`damage`."""
    lines = _lines(io.BufferedReader(gzip.GzipFile(fileobj=file, mode="rb"), _BUFFER_BYTES))
    kind, _, rest = next(lines, b"").partition(b"\t")
    if kind != b"segment":
        raise ValueError("it does not begin as a segment does")
    header = json_object(rest, "version")
    if type(header["version"]) is not int or header["version"] < 1:
        raise ValueError(f"its version is {header['version']!r}")
    if header["version"] > VERSION:
        raise CheckpointTooNew(
            f"the segment has version {header['version']}, and this scrapy_state reads versions up to {VERSION}",
            remedy="install a newer scrapy_state",
        )
    return header, lines


@contextmanager
def damage() -> Iterator[None]:
    """Turn what reading a torn, foreign or altered segment raises into a CheckpointError."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the segment is damaged ({error})") from error


def _lines(stream: io.BufferedReader) -> Iterator[bytes]:
    for line in iter(partial(stream.readline, _LONGEST_LINE), b""):
        if line[-1:] != b"\n":
            raise ValueError("a line has no end")
        yield line[:-1]


def page_line(line: bytes) -> PageLine:
    """Return the page in *line*, which begins with its kind: most lines are such, so nothing is done to them before."""
    _, page, priority, flags, data = line.split(b"\t", 4)
    return int(page), int(priority), b"s" in flags, data


def numbers(rest: bytes) -> list[int]:
    """Return the page numbers in a line."""
    return [*map(int, rest.split())]


def packed(rest: bytes) -> bytes:
    """Return the fingerprints in a line."""
    data = b64decode(rest, validate=True)
    if len(data) % SEEN_BYTES:
        raise ValueError("fingerprints have another length")
    return data


def form(rest: bytes) -> tuple[str, int]:
    """Return the form in a line, and how often it was sent."""
    hash, count = rest.split(b"\t")
    return hash.decode("ascii"), int(count)


def json_object(rest: bytes, *keys: str) -> dict[str, Any]:
    """Return the JSON object in a line; it must have *keys*."""
    data = json.loads(rest)
    if not isinstance(data, dict) or not data.keys() >= {*keys}:
        raise ValueError(f"an object lacks one of {', '.join(keys)}")
    return data


def _deaths(rest: bytes) -> tuple[int, int]:
    page, deaths = rest.split(b"\t")
    return int(page), int(deaths)


def _name(rest: bytes) -> tuple[str, str]:
    kind, name = rest.decode().split("\t")
    return kind, name


def _held(rest: bytes) -> tuple[int, dict[str, Any]]:
    page, info = rest.split(b"\t", 1)
    return int(page), json_object(info, "reason", "sent")


#: kind of a line, except b"+" -> returns what the target's method of that kind takes
PARSERS: dict[bytes, Callable[[bytes], tuple[Any, ...]]] = {
    b"-": lambda rest: (numbers(rest),),
    b"s": lambda rest: (packed(rest),),
    b"o": form,
    b"O": lambda rest: (),
    b"i": lambda rest: (numbers(rest),),
    b"d": _deaths,
    b"f": lambda rest: (json_object(rest, "url", "reason"),),
    b"h": _held,
    b"c": lambda rest: (json_object(rest, "jar", "cookies"),),
    b"n": _name,
}


def page_lines(kind: bytes, pages: Iterable[int]) -> Iterator[bytes]:
    """Yield lines with page numbers."""
    rest = iter(pages)
    while some := [*islice(rest, A_LINE)]:
        yield b"%s\t%s" % (kind, b" ".join(b"%d" % page for page in some))


def seen_line(seen: bytes | bytearray) -> bytes:
    """Return a line with fingerprints, at most :data:`A_LINE`."""
    return b"s\t" + b64encode(seen)


def form_line(hash: str, count: int) -> bytes:
    """Return a line with a form."""
    return f"o\t{hash}\t{count}".encode()


class Writer:
    """Compresses lines into *file*, and knows the digest in the end. Begins with the first line, which says *header*."""

    def __init__(self, file: IO[bytes], header: Mapping[str, Any]) -> None:
        self.file = file
        self._hash = sha256()
        self._size = 0
        # The same lines give the same bytes: zlib adds no name and no time. GzipFile, when it is collected, would write what is
        # left to a full disk or a closed file, and Python would print a traceback.
        self._gzip = zlib.compressobj(level=1, wbits=_GZIP)
        self.write([b"segment\t" + json_bytes(header)])

    def write(self, lines: Sequence[bytes]) -> None:
        """Compress *lines*."""
        if lines:
            self._put(self._gzip.compress(b"\n".join(lines) + b"\n"))

    def close(self) -> tuple[int, str]:
        """Write what is left. Return the size in bytes, and the digest as checkpoints have it."""
        self._put(self._gzip.flush())
        return self._size, f"sha256:{self._hash.hexdigest()}"

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        self._size += len(data)
        self.file.write(data)


def json_bytes(data: Mapping[str, Any]) -> bytes:
    """Return *data* as JSON on one line."""
    return json.dumps(data, separators=(",", ":")).encode()
