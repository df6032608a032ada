"""The items in an item file, one after the other, as the bytes they are; compressed or not. Knows no stores."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, NoReturn

from .checkpoint import ItemFile
from .exceptions import CheckpointError, StateSettingsError

_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".lzma")
_FORMATS = {".jsonl": "jsonlines", ".jl": "jsonlines", ".jsonlines": "jsonlines", ".csv": "csv", ".json": "json"}
#: The formats whose items can be told apart as they are read
FORMATS = ("jsonlines", "csv", "json")
_CHUNK_CHARACTERS = 1 << 16
_BLANK = re.compile(r"[\s,]*")


def format_of(uri: str) -> str:
    """Return a key of FORMATS for an item file, by how its URI ends.

    :raises StateSettingsError: if it can't be told, or is a format whose items can't be told apart
    """
    path = PurePosixPath(uri)
    if path.suffix in _COMPRESSED_SUFFIXES:
        path = path.with_suffix("")
    if path.suffix not in _FORMATS:
        raise StateSettingsError(
            f"{uri}: items can be told apart in the formats {', '.join(FORMATS)}, and its name ends in {path.suffix!r}: if it "
            "is one of these give --format, else leave it out with --only PATTERN, and read it by itself"
        )
    return _FORMATS[path.suffix]


class Decoder:
    """Reads item files that are to make one data set.

    :param format: a key of FORMATS; None: by how their names end
    """

    def __init__(self, format: str | None = None) -> None:
        self._format = format
        self._formats: set[str] = set()
        #: of the first CSV file
        self.header: bytes | None = None

    def items(self, file: ItemFile, stream: io.BufferedReader[Any]) -> Iterator[bytes]:
        """Yield the items of *file*, skipped ones left out, each with a newline at its end; memory for one at a time.

        The first thing is the header if it is a CSV file and the first one.

        :raises CheckpointError: if it can't be read, or holds another number of items than the checkpoint says
        :raises StateSettingsError: if it doesn't go with the files before
        """
        format = self._format or format_of(file.uri)
        self._formats.add("json" if format == "jsonlines" else format)
        if len(self._formats) > 1:
            raise StateSettingsError(f"{file.uri}: files before it have another format: choose with --only PATTERN")
        position = 0
        try:
            for record in _RECORDS[format](decompressed(stream)):
                if format == "csv" and position == 0 and record != self.header:
                    if self.header is not None:
                        raise StateSettingsError(
                            f"{file.uri}: its columns are others than those of the files before: choose with --only PATTERN"
                        )
                    self.header = record
                    yield record
                elif format != "csv" or position:
                    at = position - (format == "csv")
                    if not any(start <= at < end for start, end in file.skip):
                        yield record
                position += 1
        except (EOFError, ValueError, OSError, lzma.LZMAError) as error:
            _wrong(file, f"it can't be read ({type(error).__name__}: {error})")
        found = position - (format == "csv" and position > 0)
        if found != file.items:
            _wrong(file, f"it has {found} items, the checkpoint says {file.items}")


def _wrong(file: ItemFile, why: str) -> NoReturn:
    raise CheckpointError(f"{file.uri}: {why}; scrapy state verify --deep checks all files")


def decompressed(stream: Any) -> Any:
    """Return a stream of what is in *stream*, which has a ``peek()``: what gzip, bzip2 or xz made of it, or itself."""
    start = stream.peek(8)
    return next((opened(stream) for magic, opened in _COMPRESSED.items() if start.startswith(magic)), stream)


def _lines(stream: Any) -> Iterator[bytes]:
    for line in stream:
        if line.strip():
            yield line if line.endswith(b"\n") else line + b"\n"


def _csv_records(stream: Any) -> Iterator[bytes]:
    """A record ends at a line's end outside of quotes, of which there is then an even number."""
    record = b""
    for line in stream:
        record += line
        if record.count(b'"') % 2 == 0:
            if record.strip():
                yield record if record.endswith(b"\n") else record + b"\r\n"
            record = b""
    if record:
        raise ValueError("a quote is not closed")


def _json_items(stream: Any) -> Iterator[bytes]:
    """The objects of a JSON list, each on a line of its own."""
    text, decoder, need = io.TextIOWrapper(stream, "utf-8"), json.JSONDecoder(), _CHUNK_CHARACTERS
    buffer = text.read(need)
    if not buffer.lstrip().startswith("["):
        raise ValueError("it is no JSON list")
    buffer = buffer.lstrip()[1:]
    while True:
        start = _BLANK.match(buffer).end()  # type: ignore[union-attr]
        if buffer[start : start + 1] == "]":
            return
        try:
            _, end = decoder.raw_decode(buffer, start)
        except ValueError:
            more = text.read(need)
            if not more:
                raise
            buffer, need = buffer[start:] + more, need * 2  # a long item is not tried again and again
            continue
        found = buffer[start:end]
        yield (found if "\n" not in found else json.dumps(json.loads(found), ensure_ascii=False)).encode() + b"\n"
        buffer, need = (buffer[end:], _CHUNK_CHARACTERS) if end > _CHUNK_CHARACTERS else (buffer[end:], need)


_RECORDS: dict[str, Callable[[Any], Iterator[bytes]]] = {"jsonlines": _lines, "csv": _csv_records, "json": _json_items}
