"""Copies of files that other people are writing."""

import io
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from scrapy_state.kept.copying import copy_of, is_sidecar, look


def test_the_copy_of_a_database_has_what_is_committed(tmp_path: Path) -> None:
    """A database in use is copied with its log, without the open transaction, and the same content gives the same bytes."""
    path = tmp_path / "ids.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE ids (id)")
        database.executemany("INSERT INTO ids VALUES (?)", [(number,) for number in range(1000)])
        database.commit()
        seen = look(str(path), is_sqlite=True)
        database.execute("INSERT INTO ids VALUES (-1)")
        copies = [copy_of(str(path), str(tmp_path), io.BytesIO) for _ in range(2)]
        assert is_sidecar(f"{path}-wal")
        database.commit()
        assert look(str(path), is_sqlite=True).marks != seen.marks, "a commit that is only in the log counts as a change"
    assert copies[0].sha256 == copies[1].sha256
    for copy in copies:
        (tmp_path / "copy.sqlite").write_bytes(copy.file.read())
        copy.file.close()
    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as database:
        assert database.execute("SELECT count(*), min(id) FROM ids").fetchall() == [(1000, 0)]
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert sorted(os.listdir(tmp_path)) == ["copy.sqlite", "ids.sqlite"], "nothing is left behind"


def test_what_is_stored_is_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file changes while it is copied, it is copied again, and the digest is always that of the copy."""
    from scrapy_state.kept import copying

    path = tmp_path / "log"
    path.write_text("one")
    copied = copying.shutil.copyfileobj
    times = iter(range(100))

    def copy_and_change(source: io.BytesIO, target: io.BytesIO, size: int) -> None:
        copied(source, target, size)
        if next(times) == 0:
            path.write_text("three")

    monkeypatch.setattr(copying.shutil, "copyfileobj", copy_and_change)
    copy = copy_of(str(path), str(tmp_path), io.BytesIO)
    assert (copy.file.read(), copy.bytes) == (b"three", 5)
    import hashlib

    assert copy.sha256 == hashlib.sha256(b"three").hexdigest()


def test_a_file_that_has_just_changed_is_not_trusted(tmp_path: Path) -> None:
    """The time stamp of a recent change may not tell of another one; that of an old change does."""
    path = tmp_path / "file"
    path.write_text("one")
    assert look(str(path)).is_recent
    os.utime(path, (1_600_000_000, 1_600_000_000))
    assert not look(str(path)).is_recent
