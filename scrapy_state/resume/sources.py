"""Finding a state without checkpoints: in the newest stored items, or in a log. Knows no Scrapy."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ..exceptions import StateSettingsError
from ..lineage.key_search import find_keys
from ..model.json_values import SHOWN_CHARACTERS, json_object
from ..model.key_template import KeyTemplate
from ..stores import StoreReader
from ..stores.stream import StoredFile

T = TypeVar("T")
Opener = Callable[[str], tuple[StoreReader, KeyTemplate]]
_GZIP = b"\x1f\x8b"
_HEAD_BYTES = 4096
#: How much of a file's end is tried before the whole file is read
_TAILS_BYTES = (64 * 1024, 4 * 1024 * 1024)
_CHUNK_BYTES = 8 * 1024 * 1024
#: How many lines at the end may be torn
_TORN_LINES = 100
#: What precedes a state that is safe to resume from in a log line, and what may follow it: see docs/log.md
_BEFORE = re.compile(r"(?:^|[\]:|>-]\s*|, )(?:STATE|last stored) (?=\{)")
_BEHIND = re.compile(r"\s*$| from |, items: |, because: | \(checkpoint \d+\)")
#: What follows the beginning of a state that was too long for the log (json_values.shortened)
_SHORTENED = re.compile(r"\.\.\. \([0-9,]+ characters, sha256 [0-9a-f]{16}\)")
_DECODER = json.JSONDecoder()
logger = logging.getLogger("scrapy_state.state")


class Source(NamedTuple):
    """A state and the file it comes from. *kind* describes that file in the log."""

    state: dict[str, Any]
    kind: str
    uri: str


def find(spec: Mapping[str, Any], opener: Opener) -> Source | None:
    """Return the state that *spec* leads to; None if there are no items, or if no log under a prefix has one. Blocks.

    :param spec: STATE_FROM: ``{"items": URI template or prefix, "state": {state key: item field}}``, or ``{"log": URI}``
    :param opener: returns the store of a URI template, and its keys there
    :raises StateSettingsError: if the items lack a field or can't be read, or if the log is missing or has no state
    :raises StoreError: if the store does not answer or refuses
    """
    if "log" in spec:
        return _from_log(spec["log"], opener)
    store, template = opener(spec["items"])
    for key in _newest_first(store, template):
        item = _last_item(store, key)
        if item is not None:
            return Source(_state_of(item, spec["state"], store.uri(key)), "the newest items", store.uri(key))
        logger.info("%s has no complete item: trying the file before it", store.uri(key))
    return None


def last_state(lines: Iterable[str | bytes]) -> dict[str, Any] | None:
    """Return the last state in the *lines* of a log from which it is safe to resume; None if there is none. Pure.

    That is a state a run started from, or one whose checkpoint was stored; never one that was only yielded. Anything may
    precede the message in a line; a line may also be a JSON object with the message in ``"message"``. If the log shortens
    the last such state, the result is None: resuming from an older one would be a surprise.
    """
    state = None
    for line in lines:
        text = line if isinstance(line, str) else line.decode("utf-8", "surrogateescape")
        if "STATE {" in text or "last stored {" in text:
            state = _state_in(text, state)
    return state


def state_in_log(store: StoreReader, key: str) -> dict[str, Any] | None:
    """Return the last state in a log from which it is safe to resume; None if it has none. Blocks."""
    return _last_of(store, key, last_state)


def _from_log(uri: str, opener: Opener) -> Source | None:
    store, template = opener(uri)
    if template.rest or template.prefix.endswith("/"):
        for key in _newest_first(store, template):
            if (state := _last_of(store, key, last_state)) is not None:
                return Source(state, "the log", store.uri(key))
        return None
    key = template.prefix
    if store.read_part(key, 0, 1) is None:
        raise StateSettingsError(f"STATE_FROM: there is no log {store.uri(key)}", remedy="correct the URI")
    state = _last_of(store, key, last_state)
    if state is None:
        raise StateSettingsError(
            f"STATE_FROM: the log {store.uri(key)} has no line with a stored state (STATE {{…}}), or shortens the last one",
            remedy="name another log, or set STATE",
        )
    return Source(state, "the log", store.uri(key))


def _state_in(line: str, before: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the state in *line*; *before* if it has none; None if it is shortened."""
    if line.startswith("{"):
        with suppress(ValueError):
            line = str(json.loads(line).get("message"))
    for match in _BEFORE.finditer(line):
        try:
            state, end = _DECODER.raw_decode(line, match.end())
            if _BEHIND.match(line, end):
                return json_object(state)
        except (TypeError, ValueError):  # a torn line, or a text of some other program
            if _SHORTENED.match(line, match.end() + SHOWN_CHARACTERS):
                return None
    return before


def _state_of(item: Mapping[str, Any], fields: Mapping[str, str], uri: str) -> dict[str, Any]:
    state = {}
    for name, field in fields.items():
        try:
            state[name] = _field(item, field)
        except LookupError:
            raise StateSettingsError(
                f"STATE_FROM: the last item of {uri} has no field {field!r} (it has {sorted(item)})",
                remedy='correct the field in "state", or name other items',
            ) from None
    try:
        return json_object(state)
    except TypeError as error:  # NaN, which Python accepts in JSON
        raise StateSettingsError(f"STATE_FROM: the last item of {uri}: {error}", remedy="name other items") from error


def _field(item: Any, name: str) -> Any:
    """Return a field of *item*. A dot leads into a nested object, unless there is a key with that dot, as in STATE_LAG."""
    if not isinstance(item, Mapping):
        raise KeyError(name)
    outer, dot, rest = name.partition(".")
    return item[name] if name in item or not dot else _field(item[outer], rest)


def _newest_first(store: StoreReader, template: KeyTemplate) -> Iterator[str]:
    keys = find_keys(store, template, depth=None)
    newest = keys.newest()
    return iter(()) if newest is None else (each.key for each in keys.down(newest.position))


def _last_item(store: StoreReader, key: str) -> dict[str, Any] | None:
    """Return the last complete item of a file; None if it has none."""
    head = store.read_part(key, 0, _HEAD_BYTES) or b""
    if head.startswith(_GZIP):
        with suppress(zlib.error):
            head = zlib.decompressobj(wbits=31).decompress(head)
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if begin == b"{":
        return _last_of(store, key, _last_json)
    if not begin.isascii() or begin in (b"[", b"<", b"\0"):
        raise StateSettingsError(f"STATE_FROM: {store.uri(key)} is neither jsonlines nor CSV", remedy="name other items")
    try:
        return _last_row(_lines(store, key))
    except (csv.Error, UnicodeDecodeError) as error:
        raise StateSettingsError(
            f"STATE_FROM: {store.uri(key)} can't be read as CSV: {error}", remedy="name other items"
        ) from error


def _last_json(lines: Iterable[bytes]) -> dict[str, Any] | None:
    for line in reversed(deque(lines, maxlen=_TORN_LINES)):
        with suppress(ValueError):
            item = json.loads(line)
            if isinstance(item, dict):
                return item
    return None


def _last_row(lines: Iterator[bytes]) -> dict[str, str] | None:
    """Return the last row of a CSV file with a header. Reads the whole file: quoted fields may contain line ends."""
    whole = (line.decode().removeprefix("\ufeff") for line in lines if line.endswith(b"\n"))  # the last one may be torn
    reader = csv.reader(whole, strict=True)
    header = next(reader, [])
    last = None
    try:
        for row in reader:
            last = row or last
    except csv.Error:
        if next(whole, None) is not None:
            raise
        # otherwise the file ends within a quoted field
    return None if last is None else dict(zip(header, last, strict=False))


def _last_of(store: StoreReader, key: str, last: Callable[[Iterable[bytes]], T | None]) -> T | None:
    """Return what *last* returns for a file's lines. Tries the lines at its end first, unless the file is compressed."""
    if store.read_part(key, 0, len(_GZIP)) != _GZIP:
        for size in _TAILS_BYTES:
            tail = store.read_part(key, -size, size) or b""
            lines = io.BytesIO(tail)
            if len(tail) == size:
                lines.readline()  # the part begins somewhere within a line
            value = last(lines)
            if value is not None or len(tail) < size:
                return value
    return last(_lines(store, key))


def _lines(store: StoreReader, key: str) -> Iterator[bytes]:
    """Yield a file's lines from its beginning, in bounded memory; the lines of a torn gzip file as far as they can be read."""
    with io.BufferedReader(StoredFile(partial(store.read_part, key)), _CHUNK_BYTES) as file:
        if file.peek(len(_GZIP))[: len(_GZIP)] != _GZIP:
            yield from file
            return
        with suppress(EOFError, gzip.BadGzipFile, zlib.error), gzip.GzipFile(fileobj=file) as unzipped:
            yield from unzipped
