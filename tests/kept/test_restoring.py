"""Putting files back: all or nothing, however it is interrupted."""

import hashlib
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from scrapy_state.exceptions import CheckpointError
from scrapy_state.kept import restoring
from scrapy_state.kept.restoring import KeptFile, finish, restore
from scrapy_state.model.stored_file import StoredFile
from scrapy_state.stores.local import LocalReader
from scrapy_state.stores.stored_files import StoredFiles

NEW = {"a.json": b"new a", "deep/er/b": b"new b", "empty": b"", "same": b"same", "c": b"new c" * 1000}
OLD = {"a.json": b"old a", "same": b"same", "c": b"old c", "unknown": b"mine"}


class Project:
    """A project's folder with OLD in it, and a store with NEW."""

    def __init__(self, folder: Path) -> None:
        self.root, self.store = folder / "project", folder / "store"
        for path, content in OLD.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(content)
        self.store.mkdir()
        self.files = {path: self.kept(content) for path, content in NEW.items()}
        self.stored = StoredFiles(LocalReader(), f"{self.store}/", "file", "restore it")

    def kept(self, content: bytes, mode: int = 0o640) -> KeptFile:
        name = hashlib.sha256(content).hexdigest()
        (self.store / name).write_bytes(content)
        return KeptFile(StoredFile(name, len(content), f"sha256:{name}"), mode)

    def restore(self) -> restoring.Restored:
        return restore(self.root, self.files, self.stored)

    @property
    def content(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_all_files_are_what_the_checkpoint_says(project: Project) -> None:
    """Different files are replaced, missing ones made, identical and unknown ones stay; all have their modes."""
    before = (project.root / "same").stat().st_ino
    done = project.restore()
    assert project.content == {**NEW, "unknown": b"mine"}
    assert sorted(done.replaced) == ["a.json", "c", "deep/er/b", "empty"]
    assert [*done.same] == ["same"]
    assert (project.root / "same").stat().st_ino == before
    assert {(project.root / path).stat().st_mode & 0o777 for path in NEW} == {0o640}
    assert project.restore().replaced == []


class Killed(BaseException):
    """Stands for SIGKILL: nothing cleans up after it."""


@pytest.mark.parametrize("step", range(30))
def test_an_interrupted_restore_leaves_the_old_files_or_all_new_ones(
    project: Project, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any step that changes the disk, the next start finds the old files, or makes all of them new."""
    left, was_killed = step, False

    def dying(function: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal left, was_killed
            if not left:
                was_killed = True
                raise Killed
            left -= 1
            return function(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync", "chmod", "fchmod", "unlink"):
            patch.setattr(restoring.os, name, dying(getattr(os, name)))
        patch.setattr(restoring.shutil, "copyfileobj", dying(restoring.shutil.copyfileobj))
        patch.setattr(restoring.shutil, "rmtree", dying(restoring.shutil.rmtree))
        patch.setattr(Path, "mkdir", dying(Path.mkdir))
        with suppress(Killed):
            project.restore()
    finish(project.root)
    assert project.content in (OLD, {**NEW, "unknown": b"mine"})
    assert not (project.root / restoring.WORK).exists()
    if not was_killed:
        assert step > 15, "too few steps were tried"
    project.restore()
    assert project.content == {**NEW, "unknown": b"mine"}


@pytest.mark.parametrize("damage", [b"", b"new A", b"new a and more"])
def test_a_damaged_file_changes_nothing(project: Project, damage: bytes) -> None:
    """If one stored file is missing or damaged, the old files stay, and the error names it."""
    name = project.files["c"].stored.name
    (project.store / name).write_bytes(damage)
    with pytest.raises(CheckpointError, match=name):
        project.restore()
    assert not (project.root / restoring.WORK).exists()
    assert project.content == OLD


def test_no_symlink_leads_out_of_the_project(project: Project, tmp_path: Path) -> None:
    """Where a folder on the way is a symlink, nothing is written through it."""
    (tmp_path / "elsewhere").mkdir()
    (project.root / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="not a folder"):
        project.restore()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_database_loses_what_a_kill_has_left_beside_it(project: Project) -> None:
    """A write-ahead log of the old database would change the restored one, so it goes with the old one."""
    path = project.root / "ids.sqlite"
    old = sqlite3.connect(path)
    old.execute("PRAGMA journal_mode=WAL")
    old.execute("CREATE TABLE ids (id)")
    old.commit()
    with closing(sqlite3.connect(path.with_suffix(".copy"))) as copy:
        old.backup(copy)
    project.files["ids.sqlite"] = project.kept(path.with_suffix(".copy").read_bytes())
    old.execute("INSERT INTO ids VALUES (1)")
    old.commit()
    log = path.with_name("ids.sqlite-wal").read_bytes()
    old.close()
    path.write_bytes(path.with_suffix(".copy").read_bytes())
    path.with_name("ids.sqlite-wal").write_bytes(log)
    assert "ids.sqlite" in project.restore().replaced
    assert not path.with_name("ids.sqlite-wal").exists()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM ids").fetchall() == [(0,)]
