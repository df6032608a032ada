"""A user's own store, in an SQLite file: ``sqlite://states/…`` is in ``states.db`` in the folder SQLITE_FOLDER."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from scrapy_state.exceptions import KeyTaken, StateSettingsError, StoreRefused, StoreUnreachable

_TABLE = "CREATE TABLE IF NOT EXISTS files (key TEXT PRIMARY KEY, content BLOB NOT NULL)"


class SQLiteReader:
    ordered = True

    def __init__(self, path: Path) -> None:
        self._path = path

    def uri(self, key: str) -> str:
        return f"sqlite://{self._path.stem}/{key}"

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        query = "SELECT key FROM files WHERE substr(key, 1, ?) = ? AND key > ? ORDER BY key LIMIT ?"
        yield from [key for (key,) in self._ask(query, len(prefix), prefix, after, -1 if limit is None else limit)]

    def read(self, key: str) -> bytes | None:
        return next((content for (content,) in self._ask("SELECT content FROM files WHERE key = ?", key)), None)

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        content = self.read(key)
        return None if content is None else content[begin:][:size]

    def _ask(self, query: str, *values: Any) -> list[Any]:
        with self._errors():
            if not self._path.exists():
                return []
            with closing(sqlite3.connect(self._path)) as connection, connection:
                connection.execute(_TABLE)
                return connection.execute(query, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreUnreachable(f"{self.uri('')}: {error}; check SQLITE_FOLDER") from error
        except sqlite3.DatabaseError as error:
            raise StoreRefused(f"{self.uri('')}: {error}; check SQLITE_FOLDER") from error


class SQLiteWriter(SQLiteReader):
    atomic = True

    def create(self, key: str, file: IO[bytes]) -> None:
        file.seek(0)
        content = file.read()
        with self._errors(), closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute(_TABLE)
            connection.execute("INSERT OR IGNORE INTO files VALUES (?, ?)", (key, content))
        if self.read(key) != content:
            raise KeyTaken(f"{self.uri(key)} is there already, with other content; nothing is overwritten")

    def probe(self, key: str) -> None:
        with self._errors(), closing(sqlite3.connect(self._path)) as connection:
            connection.execute(_TABLE)
            connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (key, b""))  # closed with no commit

    def delete(self, key: str) -> None:
        self._ask("DELETE FROM files WHERE key = ?", key)


class SQLiteStore:
    """What STATE_STORES names."""

    @staticmethod
    def open_reader(uri: str, settings: Mapping[str, Any]) -> tuple[SQLiteReader, str]:
        path, key = _split(uri, settings)
        return SQLiteReader(path), key

    @staticmethod
    def open_writer(uri: str, settings: Mapping[str, Any]) -> tuple[SQLiteWriter, str]:
        path, key = _split(uri, settings)
        return SQLiteWriter(path), key


def _split(uri: str, settings: Mapping[str, Any]) -> tuple[Path, str]:
    name, _, key = uri.removeprefix("sqlite://").partition("/")
    if not settings.get("SQLITE_FOLDER"):
        raise StateSettingsError(f"{uri!r} needs SQLITE_FOLDER, the folder that {name}.db is in")
    return Path(settings["SQLITE_FOLDER"], f"{name}.db"), key
