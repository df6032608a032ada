"""Putting files back: all or nothing. Everything here blocks.

First all files are downloaded and checked, beside their places. Then a journal says so, and each file is renamed. If the
process dies before the journal is there, the old files stay; if it dies later, the next start does the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..exceptions import CheckpointError, StateError
from ..model.stored_file import StoredFile
from ..stores.stored_files import StoredFiles
from .copying import SIDECARS, Look, is_sqlite, look, sha256_of
from .selection import WORK

_JOURNAL = "journal.json"


@dataclass(frozen=True)
class KeptFile:
    """A file that a checkpoint names. *mode*: its permissions."""

    stored: StoredFile
    mode: int


@dataclass
class Restored:
    """What a restore has done.

    :param replaced: the paths that were missing or different; *same*: what the others looked like
    """

    replaced: list[str] = field(default_factory=list)
    same: dict[str, Look] = field(default_factory=dict)


def restore(root: Path, files: Mapping[str, KeptFile], stored: StoredFiles) -> Restored:
    """Make the *files*, by their paths in *root*, what the checkpoint says. Files that are identical stay.

    :raises CheckpointError: if a stored file is missing or damaged
    :raises StateError: if a file can't be written
    """
    done = Restored()
    try:
        with _alone(root):
            finish(root)
            modes = _compare(root, files, done)
            if done.replaced:
                try:
                    _download(root, files, stored, done.replaced)
                except (StateError, OSError):
                    shutil.rmtree(root / WORK)
                    raise
                finish(root)
            for path in modes:
                os.chmod(root / path, files[path].mode)
    except OSError as error:
        raise StateError(f"STATE_FILES: files can't be restored in {root}: {error}", remedy="correct that") from error
    return done


def finish(root: Path) -> None:
    """Finish a restore that was interrupted after it had everything; undo one that had not."""
    work = root / WORK
    try:
        journal = json.loads((work / _JOURNAL).read_bytes())
    except FileNotFoundError:
        journal = {}
    for number, path in enumerate(journal.get("paths", ())):
        new, target = work / str(number), root / path
        if new.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(new, target)
        for ending in SIDECARS:  # what a killed process has left beside the old database would damage the new one
            with suppress(FileNotFoundError):
                if is_sqlite(str(target)):
                    os.unlink(f"{target}{ending}")
    for folder in {(root / path).parent for path in journal.get("paths", ())}:
        _sync(folder)
    if work.is_dir():
        with suppress(FileNotFoundError):
            (work / _JOURNAL).unlink()
        shutil.rmtree(work)


def _compare(root: Path, files: Mapping[str, KeptFile], done: Restored) -> list[str]:
    """Find out which files are to be replaced; return those that only need another mode."""
    modes = []
    for path, kept in files.items():
        _check_way(root, path)
        target = root / path
        try:
            status = target.lstat()
        except FileNotFoundError:
            done.replaced.append(path)
            continue
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(
                f"the checkpoint has a file {path!r}, but there is something else", uri=str(target), remedy="move it away"
            )
        seen = look(str(target), status, is_sqlite(str(target)))
        if status.st_size != kept.stored.bytes or _has_more(str(target)) or not _is_same(target, kept.stored):
            done.replaced.append(path)
            continue
        done.same[path] = seen
        if status.st_mode & 0o777 != kept.mode:
            modes.append(path)
    return modes


def _check_way(root: Path, path: str) -> None:
    """Check that no symlink leads out of *root* on the way to *path*."""
    folder = root
    for part in path.split("/")[:-1]:
        folder = folder / part
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise CheckpointError(
                f"the checkpoint has a file {path!r}, but {folder} is not a folder", uri=str(root), remedy="move that away"
            )


def _has_more(path: str) -> bool:
    """Whether a killed process has left changes beside a SQLite database."""
    return is_sqlite(path) and any(os.path.exists(f"{path}{ending}") for ending in ("-wal", "-journal"))


def _is_same(target: Path, stored: StoredFile) -> bool:
    with target.open("rb") as file:
        return f"sha256:{sha256_of(file)}" == stored.digest


def _download(root: Path, files: Mapping[str, KeptFile], stored: StoredFiles, paths: list[str]) -> None:
    work = root / WORK
    work.mkdir()
    for number, path in enumerate(paths):
        with stored.open(files[path].stored) as source, (work / str(number)).open("xb") as new:
            shutil.copyfileobj(source, new, 1 << 20)
            os.fchmod(new.fileno(), files[path].mode)
            new.flush()
            os.fsync(new.fileno())
    unfinished = work / f"{_JOURNAL}.new"
    with unfinished.open("x") as file:
        json.dump({"paths": paths}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, work / _JOURNAL)
    _sync(work)
    _sync(root)  # or a power failure could take the folder, and leave files that were renamed later


def _sync(folder: Path) -> None:
    """Make the names in *folder* durable, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Let only one process at a time restore files in *root*, where the system can tell."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
