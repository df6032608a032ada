"""Files that checkpoints name beside item files: storing them, and reading what was stored. Every call to a store blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO

from ..exceptions import CheckpointError, StoreError, as_state_error
from ..model.stored_file import StoredFile
from .base import StoreReader, StoreWriter
from .retry import patiently

#: How much is read at once. Two parts are in memory for a moment.
_PART_BYTES = 2 << 20


class StoredFiles:
    """Files in one folder of a store, to be read.

    :param folder: the prefix of their keys
    :param what: what a message calls such a file, such as "segment"; *remedy*: what helps if one is missing or damaged
    :param open_file: returns a new temporary file
    """

    def __init__(
        self, store: StoreReader, folder: str, what: str, remedy: str, open_file: Callable[[], IO[bytes]] = TemporaryFile
    ) -> None:
        self.store = store
        self.folder = folder
        self.what = what
        self.remedy = remedy
        self.open_file = open_file

    def uri(self, file: StoredFile) -> str:
        """Return where *file* is stored, without credentials."""
        return self.store.uri(self.folder + file.name)

    def open(self, file: StoredFile) -> IO[bytes]:
        """Return a copy of *file* in a temporary file, at its beginning.

        :raises CheckpointError: if it is missing, or not what the checkpoint says
        :raises StoreError: if the store does not answer or refuses, or if there can be no temporary file
        """
        with temporary_file_errors(self.what):
            copy = self.open_file()
        try:
            digest = hashlib.sha256()
            for part in self._parts(file):
                digest.update(part)
                with temporary_file_errors(self.what):
                    copy.write(part)
            if copy.tell() != file.bytes:
                size = "more than" if copy.tell() > file.bytes else f"{copy.tell():,} of"
                raise self._wrong(file, f"the {self.what} is damaged: it has {size} {file.bytes:,} bytes")
            if f"sha256:{digest.hexdigest()}" != file.digest:
                raise self._wrong(file, f"the {self.what} is damaged: its digest does not match")
            with temporary_file_errors(self.what):
                copy.seek(0)
        except BaseException:
            copy.close()
            raise
        return copy

    def problem(self, file: StoredFile, deep: bool = False) -> str | None:
        """Return what is wrong with *file*; None if nothing is.

        :param deep: whether to read all of it, not just its end
        :raises StoreError: if the store does not answer or refuses
        """
        if deep:
            try:
                self.open(file).close()
            except CheckpointError as error:
                return error.reason
            return None
        end = patiently(lambda: self.store.read_part(self.folder + file.name, max(file.bytes - 1, 0), 2))
        if end is None:
            return f"the {self.what} is missing (prune deletes those of pruned checkpoints)"
        # Of an empty file there is nothing to read.
        if len(end) == min(file.bytes, 1):
            return None
        return f"the {self.what} has {'fewer' if not end else 'more'} than {file.bytes} bytes"

    def _parts(self, file: StoredFile) -> Iterator[bytes]:
        """Yield the bytes of *file*, one more if it is too long."""
        key, begin = self.folder + file.name, 0
        while begin <= file.bytes:
            size = min(_PART_BYTES, file.bytes + 1 - begin)
            part = patiently(lambda begin=begin, size=size: self.store.read_part(key, begin, size))  # type: ignore[misc]
            if part is None:
                raise self._wrong(file, f"the {self.what} is missing (prune deletes those of pruned checkpoints)")
            yield part
            if len(part) < size:
                return
            begin += len(part)

    def _wrong(self, file: StoredFile, reason: str) -> CheckpointError:
        return CheckpointError(reason, uri=self.uri(file), remedy=self.remedy)


@contextmanager
def temporary_file_errors(what: str) -> Iterator[None]:
    """Turn what a temporary file raises into a StoreError.

    :param what: what should be in the file, for the message
    """
    try:
        yield
    except (OSError, MemoryError) as error:
        reason = as_state_error(error).reason
        raise StoreError(
            f"the {what} could not be kept in a temporary file: {reason}", remedy="make room on that disk"
        ) from error


def copy_files(
    stored: StoredFiles,
    files: Sequence[StoredFile],
    store: StoreWriter,
    folder: str,
    renamed: Callable[[StoredFile], StoredFile] = lambda file: file,
) -> None:
    """Store copies of *files* in another folder or store. What is there already stays.

    :param renamed: returns the file as it is there; otherwise it keeps its name
    :raises CheckpointError: as :meth:`StoredFiles.open`
    :raises StoreError: if a store does not answer or refuses
    """
    for file in files:
        with stored.open(file) as copy:
            store.create(folder + renamed(file).name, copy)
