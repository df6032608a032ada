"""Copies of a project's files: consistent ones of SQLite databases, and only of what has changed. Everything here blocks."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..exceptions import StateError

_SQLITE = b"SQLite format 3\0"
#: What SQLite keeps beside a database: it belongs into the copy, or to nobody else
SIDECARS = ("-wal", "-shm", "-journal")
_PART_BYTES = 1 << 20
#: A file that has changed less than this before it was read may change again without another time stamp.
_RECENT_NS = 2_000_000_000
_LOCKED_SECONDS = 30.0
_TRIES = 3


@dataclass(frozen=True)
class Look:
    """What a file looked like before it was read.

    :param marks: size, time of the last change and inode; those of the write-ahead log, too, if it is a SQLite database
    :param is_recent: whether the file may change again while these stay the same
    """

    marks: tuple[int, ...]
    is_recent: bool
    is_sqlite: bool = False


@dataclass(frozen=True)
class Copy:
    """A copy of a file, in a temporary file that is at its beginning."""

    file: IO[bytes]
    bytes: int
    sha256: str
    look: Look


def look(path: str, status: os.stat_result | None = None, is_sqlite: bool = False) -> Look:
    """Return what the file at *path* looks like now. *status*: what stat says, if it is known."""
    status = status or os.lstat(path)
    marks, newest = (status.st_size, status.st_mtime_ns, status.st_ino), status.st_mtime_ns
    if is_sqlite:
        with suppress(FileNotFoundError):
            log = os.lstat(f"{path}-wal")
            marks, newest = (*marks, log.st_size, log.st_mtime_ns), max(newest, log.st_mtime_ns)  # type: ignore[assignment]
    return Look(marks, newest > time.time_ns() - _RECENT_NS, is_sqlite)


def copy_of(path: str, folder: str, open_file: Callable[[], IO[bytes]]) -> Copy:
    """Return a copy of the file at *path*; of a SQLite database one that is consistent, with all that is committed.

    :param folder: for temporary files; *open_file* returns a new one
    :raises FileNotFoundError: if the file is gone
    :raises StateError: if it can't be read
    """
    try:
        copy = _copy(path, folder, open_file)
        for _ in range(_TRIES - 1):
            if copy.look.marks == look(path, is_sqlite=copy.look.is_sqlite).marks:
                break
            copy.file.close()
            copy = _copy(path, folder, open_file)
        return copy
    except FileNotFoundError:
        raise
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"STATE_FILES: {path} can't be read: {error}", remedy="correct that, or STATE_FILES") from error


def _copy(path: str, folder: str, open_file: Callable[[], IO[bytes]]) -> Copy:
    before = look(path, is_sqlite=is_sqlite(path))
    file = _backup(path, folder) if before.is_sqlite else open_file()
    try:
        if not before.is_sqlite:
            with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as source:
                shutil.copyfileobj(source, file, _PART_BYTES)
        size = file.seek(0, os.SEEK_END)
        return Copy(file, size, sha256_of(file), before)
    except BaseException:
        file.close()
        raise


def is_sqlite(path: str) -> bool:
    """Whether the file at *path* is a SQLite database."""
    with open(path, "rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def is_sidecar(path: str) -> bool:
    """Whether the file at *path* is one that SQLite keeps beside a database."""
    for ending in SIDECARS:
        if path.endswith(ending):
            with suppress(OSError):
                return is_sqlite(path.removesuffix(ending))
    return False


def sha256_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of the whole *file*, in hex, and leave it at its beginning."""
    digest = hashlib.sha256()
    file.seek(0)
    while part := file.read(_PART_BYTES):
        digest.update(part)
    file.seek(0)
    return digest.hexdigest()


def _backup(path: str, folder: str) -> IO[bytes]:
    """Return a copy of the SQLite database at *path*, made in one step, so that nobody can write in between."""
    give_up = time.monotonic() + _LOCKED_SECONDS

    def check(*_: object) -> None:
        if time.monotonic() > give_up:
            raise sqlite3.OperationalError(f"the database was locked for {_LOCKED_SECONDS:.0f} s")

    with tempfile.TemporaryDirectory(prefix=".scrapy_state-", dir=folder) as temporary:
        copy = os.path.join(temporary, "copy")
        with closing(sqlite3.connect(f"{_uri(path)}?mode=rw", uri=True)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target, progress=check)
        return open(copy, "rb")


def _uri(path: str) -> str:
    return Path(path).absolute().as_uri()
