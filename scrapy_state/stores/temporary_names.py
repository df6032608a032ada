"""Very many names, in a temporary file of SQLite's, so that they take no memory. Each object is for one thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..exceptions import StateError

#: (folder, name) of a file that a checkpoint names beside item files
StoredName = tuple[str, str]


class StoredNames:
    """A set of files that checkpoints name beside item files."""

    def __init__(self) -> None:
        self._sql = _temporary_database("CREATE TABLE stored (folder, name, PRIMARY KEY (folder, name)) WITHOUT ROWID")

    def update(self, names: Iterable[StoredName]) -> None:
        """Add *names*."""
        with _errors():
            self._sql.executemany("INSERT OR IGNORE INTO stored VALUES (?, ?)", names)

    def remove(self, names: Iterable[StoredName]) -> None:
        """Remove those of *names* that are there."""
        with _errors():
            self._sql.executemany("DELETE FROM stored WHERE folder = ? AND name = ?", names)

    def __iter__(self) -> Iterator[StoredName]:
        """Yield them in order."""
        return _rows(self._sql, "SELECT folder, name FROM stored ORDER BY folder, name")

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None


class ListedFile(NamedTuple):
    """An item file that is there. *feed*: which of the feeds that were listed; *key*: in that feed's store."""

    feed: int
    uri: str
    key: str


class FileNames:
    """The item files that checkpoints name, and those that are there, by run."""

    def __init__(self) -> None:
        self._sql = _temporary_database(
            "CREATE TABLE named (run, uri, PRIMARY KEY (run, uri)) WITHOUT ROWID",
            "CREATE INDEX named_uri ON named (uri)",
            "CREATE TABLE listed (run, uri, feed, key, PRIMARY KEY (run, uri, feed)) WITHOUT ROWID",
        )

    def name(self, run: str, uris: Iterable[str]) -> None:
        """Note that checkpoints of *run* name *uris*."""
        with _errors():
            self._sql.executemany("INSERT OR IGNORE INTO named VALUES (?, ?)", ((run, uri) for uri in uris))

    def list(self, run: str, file: ListedFile) -> None:
        """Note that *file*, one of *run*, is there."""
        with _errors():
            self._sql.execute("INSERT OR IGNORE INTO listed VALUES (?, ?, ?, ?)", (run, file.uri, file.feed, file.key))

    def names_any(self, run: str) -> bool:
        """Whether a checkpoint of *run* names a file."""
        return next(_rows(self._sql, "SELECT 1 FROM named WHERE run = ? LIMIT 1", run), None) is not None

    def named(self, run: str) -> Iterator[ListedFile]:
        """Yield the files of *run* that are there and that any run's checkpoint names, by that URI."""
        return self._listed(run, "EXISTS")

    def unnamed(self, run: str) -> Iterator[ListedFile]:
        """Yield the files of *run* that are there and that no checkpoint names by that URI."""
        return self._listed(run, "NOT EXISTS")

    def missing(self, run: str) -> Iterator[str]:
        """Yield the URIs that checkpoints of *run* name and where no file of it is."""
        found = "SELECT 1 FROM listed WHERE listed.run = named.run AND listed.uri = named.uri"
        return (uri for (uri,) in _rows(self._sql, f"SELECT uri FROM named WHERE run = ? AND NOT EXISTS ({found})", run))

    def _listed(self, run: str, how: str) -> Iterator[ListedFile]:
        where = f"{how} (SELECT 1 FROM named WHERE named.uri = listed.uri)"
        return map(ListedFile._make, _rows(self._sql, f"SELECT feed, uri, key FROM listed WHERE run = ? AND {where}", run))


def _rows(sql: sqlite3.Connection, query: str, *values: str) -> Iterator[tuple[Any, ...]]:
    with _errors():
        yield from sql.execute(query, values)


def _temporary_database(*tables: str) -> sqlite3.Connection:
    with _errors():
        sql = sqlite3.connect("", isolation_level=None)  # a file without a name, as soon as it outgrows SQLite's cache
        for statement in ("PRAGMA journal_mode = OFF", *tables, "BEGIN"):  # nobody will read it after a crash
            sql.execute(statement)
    return sql


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StateError(
            f"the names of files can't be kept in a temporary file: {error}",
            remedy="free space on that disk, or set the environment variable SQLITE_TMPDIR to a folder on another one",
        ) from error
