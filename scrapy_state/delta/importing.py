"""Reading the database of scrapy-deltafetch: a dbm file with a key for each page, and the time when it gave an item."""

from __future__ import annotations

import dbm
import math
import re
from collections.abc import Iterator
from pathlib import Path

from ..exceptions import StateSettingsError
from .keys import key_of
from .memory import DAY_SECONDS, today

#: A fingerprint as older versions of the package stored it: SHA-1 in hex. The newer ones store its 20 bytes.
_HEX_FINGERPRINT = re.compile(rb"[0-9a-f]{40}")
#: What the modules of dbm may append to a name
_SUFFIXES = ("", ".db", ".dat", ".dir", ".pag")
_LAST_DAY = 0xFFFF


def read_deltafetch(path: Path) -> dict[int, int]:
    """Return the keys in a database of scrapy-deltafetch, and the day of each. Blocks.

    Text in ``deltafetch_key`` has the key that the same text has in ``state_key``. A fingerprint in hex counts as the
    fingerprint, and as text, too: it may be either.

    :param path: the file, with or without the ending that a module of dbm appends
    :raises StateSettingsError: if that is not a database, or this Python can't read it
    """
    days: dict[int, int] = {}
    for key, value in _entries(path):
        day = _day(value)
        texts = [key, bytes.fromhex(key.decode())] if _HEX_FINGERPRINT.fullmatch(key) else [key]
        for text in texts:
            number = key_of(text)
            days[number] = max(day, days.get(number, day))
    return days


def _entries(path: Path) -> Iterator[tuple[bytes, bytes]]:
    name = _name_of(path)
    try:
        with dbm.open(name, "r") as database:
            for key in database.keys():  # noqa: SIM118  # not every kind of dbm can be iterated
                yield key if isinstance(key, bytes) else key.encode(), database[key]
    except dbm.error as error:
        raise StateSettingsError(
            f"--import {path}: it can't be read as a dbm database: {error}",
            remedy="import it with the Python that wrote it, or with one that has the same module of dbm",
        ) from error
    except OSError as error:
        raise StateSettingsError(f"--import {path}: {error.strerror or error}", remedy="check the path") from error


def _name_of(path: Path) -> str:
    """Return the name under which dbm finds the database: *path*, or *path* without an ending."""
    for suffix in _SUFFIXES:
        name = str(path).removesuffix(suffix)
        if str(path).endswith(suffix) and dbm.whichdb(name):
            return name
    if not path.exists():
        raise StateSettingsError(f"--import {path}: the file does not exist", remedy="name the database of one spider")
    raise StateSettingsError(
        f"--import {path}: it is not a database that dbm knows",
        remedy="name the .db file in the folder that DELTAFETCH_DIR named (by default .scrapy/deltafetch)",
    )


def _day(value: bytes) -> int:
    """Return the day of a time in seconds since 1970, as text; today if it is none."""
    try:
        seconds = float(value)
    except ValueError:
        return today()
    return min(max(int(seconds // DAY_SECONDS), 1), _LAST_DAY) if math.isfinite(seconds) else today()
