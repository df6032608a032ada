"""The items in an item file, compressed or not, one by one as raw bytes. Knows no stores."""

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

from ..exceptions import CheckpointError, StateSettingsError
from ..model.item_file import ItemFile

_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".lzma")
_FORMATS = {".jsonl": "jsonlines", ".jl": "jsonlines", ".jsonlines": "jsonlines", ".csv": "csv", ".json": "json"}
#: The formats in which items can be read one by one
FORMATS = ("jsonlines", "csv", "json")
_CHUNK_CHARACTERS = 1 << 16
_BLANK = re.compile(r"[\s,]*")
_CHOOSE = "choose files with --only PATTERN"


def format_of(uri: str) -> str:
    """Return the format of an item file, one of FORMATS, by the suffix of its URI.

    :raises StateSettingsError: if the suffix is not that of one of FORMATS
    """
    path = PurePosixPath(uri)
    if path.suffix in _COMPRESSED_SUFFIXES:
        path = path.with_suffix("")
    if path.suffix not in _FORMATS:
        raise StateSettingsError(
            f"its name ends in {path.suffix!r}, but items can be read only in the formats {', '.join(FORMATS)}",
            uri=uri,
            remedy="if it has one of these, give --format; otherwise leave it out with --only PATTERN, and read it by itself",
        )
    return _FORMATS[path.suffix]


class Decoder:
    """Reads item files that belong to one data set.

    :param format: one of FORMATS; None: by the suffix of each file
    """

    def __init__(self, format: str | None = None) -> None:
        self._format = format
        self._formats: set[str] = set()
        #: the header of the first CSV file
        self.header: bytes | None = None

    def items(self, file: ItemFile, stream: io.BufferedReader[Any]) -> Iterator[bytes]:
        """Yield the items of *file*, without those to skip, each ending in a newline. Holds one item in memory.

        The first CSV file also yields its header, first.

        :raises CheckpointError: if the file can't be read, or has another number of items than the checkpoint says
        :raises StateSettingsError: if its format or its columns differ from those of the files before it
        """
        format = self._format or format_of(file.uri)
        self._formats.add("json" if format == "jsonlines" else format)
        if len(self._formats) > 1:
            raise StateSettingsError("the files before it have another format", uri=file.uri, remedy=_CHOOSE)
        position = 0
        try:
            for record in _RECORDS[format](decompressed(stream)):
                if format == "csv" and position == 0 and record != self.header:
                    if self.header is not None:
                        raise StateSettingsError(
                            "its columns differ from those of the files before it", uri=file.uri, remedy=_CHOOSE
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
        items = position - (format == "csv" and position > 0)
        if items != file.items:
            _wrong(file, f"it has {items} items, the checkpoint says {file.items}")


def _wrong(file: ItemFile, why: str) -> NoReturn:
    raise CheckpointError(why, uri=file.uri, remedy="scrapy state verify --deep checks all files")


def decompressed(stream: Any) -> Any:
    """Return *stream*, which must have a ``peek()``, decompressed if its data are gzip, bzip2 or xz."""
    start = stream.peek(8)
    return next((opened(stream) for magic, opened in _COMPRESSED.items() if start.startswith(magic)), stream)


def _lines(stream: Any) -> Iterator[bytes]:
    for line in stream:
        if line.strip():
            yield line if line.endswith(b"\n") else line + b"\n"


def _csv_records(stream: Any) -> Iterator[bytes]:
    """Yield CSV records. A record ends with the line at which its quotes add up to an even number."""
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
    """Yield the objects of a JSON list, each on a line of its own."""
    text, decoder, need = io.TextIOWrapper(stream, "utf-8"), json.JSONDecoder(), _CHUNK_CHARACTERS
    buffer = text.read(need)
    if not buffer.lstrip().startswith("["):
        raise ValueError("it is not a JSON list")
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
            buffer, need = buffer[start:] + more, need * 2  # so that a long item is not parsed again for each chunk
            continue
        item = buffer[start:end]
        yield (item if "\n" not in item else json.dumps(json.loads(item), ensure_ascii=False)).encode() + b"\n"
        buffer, need = (buffer[end:], _CHUNK_CHARACTERS) if end > _CHUNK_CHARACTERS else (buffer[end:], need)


_RECORDS: dict[str, Callable[[Any], Iterator[bytes]]] = {"jsonlines": _lines, "csv": _csv_records, "json": _json_items}
