"""Changes to kept objects as lines of JSON, and what follows from many of them. Pure.

A line is ``[object, kind, …]``. ``["set:ids", "+", key]`` adds an element, ``["dict:prices", "=", key, value]`` sets an entry,
``["count:words", "n", key, amount]`` adds to a count, ``[object, "-", key]`` removes, and ``[object, "0"]`` removes everything.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import IO, Any

from ..exceptions import CheckpointError

#: How much is read at once, to compute a digest
_PART_BYTES = 1 << 20
_LINES = 500


def write(lines: Iterable[str], file: IO[bytes]) -> tuple[int, str]:
    """Write *lines*, compressed, to *file*, which is empty. Blocks.

    :return: the size in bytes, and the digest as a checkpoint has it
    """
    with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
        some: list[str] = []
        for line in lines:
            some.append(line)
            if len(some) == _LINES:
                packed.write(("\n".join(some) + "\n").encode())
                some = []
        packed.write("".join(f"{line}\n" for line in some).encode())
    size = file.tell()
    return size, digest_of(file)


def digest_of(file: IO[bytes]) -> str:
    """Return ``sha256:`` and the SHA-256 of the whole *file*, in hex. Blocks; leaves *file* at its beginning."""
    digest = hashlib.sha256()
    file.seek(0)
    while part := file.read(_PART_BYTES):
        digest.update(part)
    file.seek(0)
    return f"sha256:{digest.hexdigest()}"


def read(file: IO[bytes]) -> Iterator[list[Any]]:
    """Yield the changes in *file*, which :func:`write` has written. Blocks.

    :raises CheckpointError: if it has something else
    """
    try:
        with gzip.GzipFile(fileobj=file) as lines:
            for line in lines:
                change = json.loads(line)
                if not isinstance(change, list) or len(change) != _LENGTHS[change[1]] or not isinstance(change[0], str):
                    raise ValueError(f"a change of an unknown kind: {line[:40]!r}")
                yield change
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"kept objects can't be read: {error}") from error


#: kind of change -> length of the list
_LENGTHS = {"+": 3, "-": 3, "=": 4, "n": 4, "0": 2}


class Changes:
    """What follows from changes, oldest first: for each entry only the last one counts, and amounts are added."""

    def __init__(self) -> None:
        #: object -> key -> the value it has now, the amount that was added, or _GONE
        self._entries: dict[str, dict[Any, Any]] = {}
        self._emptied: dict[str, None] = {}

    def apply(self, change: list[Any]) -> None:
        """Take *change* into account, the newest one so far."""
        name, kind, *more = change
        entries = self._entries.setdefault(name, {})
        if kind == "0":
            entries.clear()
            self._emptied[name] = None
        elif kind == "n":
            key, amount = more
            entries[key] = entries.get(key, 0) + amount
        else:
            entries[more[0]] = _GONE if kind == "-" else more[1] if kind == "=" else True

    def contents(self) -> dict[str, dict[Any, Any]]:
        """Return what each object contains, if it was empty before the first change. To be called once, at the end."""
        for name, entries in self._entries.items():
            gone = [key for key, value in entries.items() if value is _GONE or (name.startswith("count:") and not value)]
            for key in gone:
                del entries[key]
        return self._entries

    def lines(self, is_oldest: bool) -> Iterator[str]:
        """Yield lines that say the same in the fewest changes.

        :param is_oldest: whether the objects were empty before, so that nothing need be removed
        """
        if not is_oldest:
            yield from (line(name, "0") for name in self._emptied)
        for name, entries in self._entries.items():
            kind = _KINDS[name.partition(":")[0]]
            for key, value in entries.items():
                if value is _GONE:
                    if not is_oldest:
                        yield line(name, "-", key)
                elif kind == "+":
                    yield line(name, "+", key)
                elif kind == "=" or value:
                    yield line(name, kind, key, value)


_GONE = object()
#: what the name of an object begins with -> the kind of change that makes an entry
_KINDS = {"set": "+", "dict": "=", "count": "n"}


def line(*change: Any) -> str:
    """Return *change* as a line of JSON, without its line end.

    :raises TypeError: if a key or a value is not JSON
    :raises ValueError: if a number is not finite
    """
    return json.dumps(change, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
