"""The files of a project in checkpoints: what has changed is stored under a new name, before the checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from ..barrier.barrier import Barrier
from ..barrier.log import SpiderLog
from ..barrier.tickets import Side
from ..exceptions import CheckpointError, StateSettingsError
from ..model.stored_file import StoredFile
from ..stores import StoreWriter
from ..stores.stored_files import StoredFiles, copy_files
from ..stores.threads import StoreThreads, all_done
from .copying import Copy, Look, copy_of, is_sidecar, look
from .restoring import KeptFile
from .selection import Selection, is_inside

if TYPE_CHECKING:
    from ..export.retry import Retry

NAME = "files"
#: How many files are stored at the same time
_AT_ONCE = 4
_PERMISSIONS = 0o777
REMEDY = "restore it, choose another checkpoint (STATE_AT), or start without files (-s STATE_FILES=)"


def files_from_json(data: Mapping[str, Any]) -> dict[str, KeptFile]:
    """Read what a checkpoint says of files: by their paths in the project's folder.

    :raises CheckpointError: if it says something else, or a path leads elsewhere
    """
    try:
        stored = {file.name: file for file in map(StoredFile.from_json, data.get("stored", ()))}
        paths = dict(data.get("paths", {}))
        files = {str(path): KeptFile(stored[name], int(mode, 8) & _PERMISSIONS) for path, (name, mode) in paths.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"what the checkpoint says of files can't be read: {error!r}") from error
    for path in files:
        if not is_inside(path):
            raise CheckpointError(f"the checkpoint has a file {path!r}, which leads out of the project")
    return files


def files_to_json(files: Mapping[str, KeptFile]) -> dict[str, Any]:
    """Return what a checkpoint says of *files*."""
    stored = {file.stored.name: vars(file.stored) for file in files.values()}
    return {
        "stored": [*stored.values()],
        "paths": {path: [file.stored.name, f"{file.mode:o}"] for path, file in sorted(files.items())},
    }


@dataclass(frozen=True)
class Found:
    """The files that are there now.

    :param files: those that have not changed; *changed*: the paths of the others
    """

    files: dict[str, KeptFile]
    changed: list[str]


class KeptFiles:
    """The memory "files" of checkpoints: see :class:`~scrapy_state.barrier.parts.Memory`.

    :param files: what this run begins with; *seen*: what those looked like that were there
    :param elsewhere: where they are stored, if not in this run's own folder
    :param folder: the prefix of this run's files
    :param interval_seconds: STATE_FILES_INTERVAL; *most_bytes*: STATE_FILES_MAX_SIZE
    :param temporary: the folder for temporary files; *open_file* returns a new one
    :param run: the id of this run
    """

    name = NAME

    def __init__(
        self, barrier: Barrier, log: SpiderLog, selection: Selection, files: Mapping[str, KeptFile], seen: Mapping[str, Look],
        elsewhere: StoredFiles | None, store: StoreWriter, folder: str, interval_seconds: float, most_bytes: int,
        temporary: str, open_file: Callable[[], IO[bytes]], run: str,
    ) -> None:  # fmt: skip
        self._barrier = barrier
        self._log = log
        self._selection = selection
        self._files = dict(files)
        self._seen = dict(seen)
        self._elsewhere = elsewhere
        self._store = store
        self._folder = folder
        self._interval_seconds = interval_seconds
        self._most_bytes = most_bytes
        self._temporary = temporary
        self._open_file = open_file
        self._run = run
        self._number = 0
        self._looked: float | None = None

    async def opening(self, threads: StoreThreads, retry: Retry) -> Mapping[str, Any] | None:
        """Check that the files can be kept. Return None: what the parent says; if this run began elsewhere, copy the files.

        :raises StateError: if STATE_FILES names something that can't be kept, or too much
        """
        await threads.run(self._look)
        if self._elsewhere is None:
            return None
        new = {file.stored: self._new(file.stored.digest, file.stored.bytes) for file in self._files.values()}
        await threads.run(copy_files, self._elsewhere, [*new], self._store, self._folder, new.__getitem__)
        self._files = {path: replace(file, stored=new[file.stored]) for path, file in self._files.items()}
        return files_to_json(self._files)

    def snapshot(self, side: Side) -> bool:
        """Return whether to look for changed files: every STATE_FILES_INTERVAL, and at the end of the run."""
        is_due = self._looked is None or time.monotonic() - self._looked >= self._interval_seconds
        if is_due:
            self._looked = time.monotonic()
        return is_due or self._barrier.ended

    async def store(self, snapshot: bool, threads: StoreThreads, retry: Retry) -> Mapping[str, Any]:
        """Store what has changed, and return what the checkpoint says.

        :raises StateError: if a file can't be read or stored, or there is too much
        """
        if not snapshot:
            return files_to_json(self._files)
        found = await threads.run(self._look)
        files, stored = found.files, {file.stored.digest: file.stored for file in self._files.values()}
        before = {file.name for file in stored.values()}
        for first in range(0, len(found.changed), _AT_ONCE):
            paths = found.changed[first : first + _AT_ONCE]
            copies = await all_done(*(self._store_file(path, stored, threads, retry) for path in paths))
            for path, kept in zip(paths, copies, strict=True):
                if kept is not None:
                    files[path] = kept
        new = {file.stored for file in files.values() if file.stored.name not in before}
        if new:
            self._log.info("files kept: %s, new: %s, bytes: %s", len(files), len(new), sum(file.bytes for file in new))
        self._check_size({path: file.stored.bytes for path, file in files.items()})
        self._files = files
        return files_to_json(files)

    def stored(self, threads: StoreThreads) -> None:
        """Do nothing: files are not merged."""

    def _look(self) -> Found:
        """Find out which files are there, and which of them have changed. An unchanged file costs one stat. Blocks."""
        found, sizes = Found({}, []), {}
        for path, status in self._selection.files():
            full = os.path.join(self._selection.root, path)
            seen, kept = self._seen.get(path), self._files.get(path)
            if seen is None or kept is None or seen.is_recent or look(full, status, seen.is_sqlite).marks != seen.marks:
                if is_sidecar(full):
                    continue
                found.changed.append(path)
            else:
                found.files[path] = KeptFile(kept.stored, status.st_mode & _PERMISSIONS)
            sizes[path] = status.st_size
        self._check_size(sizes)
        return found

    async def _store_file(
        self, path: str, stored: dict[str, StoredFile], threads: StoreThreads, retry: Retry
    ) -> KeptFile | None:
        full = os.path.join(self._selection.root, path)
        try:
            copy: Copy = await threads.run(copy_of, full, self._temporary, self._open_file)
            mode = os.lstat(full).st_mode & _PERMISSIONS
        except FileNotFoundError:
            return None  # it has been deleted since, so it is not listed
        with copy.file:
            file = stored.get(f"sha256:{copy.sha256}")
            if file is None:
                file = stored[f"sha256:{copy.sha256}"] = self._new(f"sha256:{copy.sha256}", copy.bytes)
                create = partial(threads.run, self._store.create, self._folder + file.name, copy.file)
                await retry.run(f"STATE_FILES {path}", create)
        self._seen[path] = copy.look
        return KeptFile(file, mode)

    def _new(self, digest: str, size_bytes: int) -> StoredFile:
        """Return a file with a new name, also for old content: a prune may be deleting what the last checkpoint lacks."""
        self._number += 1
        return StoredFile(f"{digest.removeprefix('sha256:')}-{self._run}-{self._number:05d}", size_bytes, digest)

    def _check_size(self, sizes: Mapping[str, int]) -> None:
        total = sum(sizes.values())
        if total > self._most_bytes:
            largest = max(sizes, key=lambda path: sizes[path])
            raise StateSettingsError(
                f"STATE_FILES has {total:,} bytes in {len(sizes)} files, {sizes[largest]:,} of them in {largest!r}, but "
                f"STATE_FILES_MAX_SIZE is {self._most_bytes:,}",
                remedy="leave out what can be made again, or raise the limit",
            )
