"""Runs of keys in a store: storing, reading and merging them. Every call blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryFile
from typing import IO

from ..exceptions import CheckpointError, CheckpointTooNew
from ..model.stored_file import StoredFile
from ..stores import StoreReader, StoreWriter
from ..stores.stored_files import StoredFiles, copy_files
from .known import Known
from .runs import Part, count_keys, merge, part_of, write_run

#: The name of the memory in checkpoints, and of the folder with its files
NAME = "delta"
_REMEDY = "restore it, or forget the earlier crawls: -s STATE_DELTA_RESET=True"
_READ_BYTES = 1 << 20


class StoredRuns:
    """The runs that checkpoints name, to be read.

    :param prefix: that of the state files
    :param open_file: returns a new temporary file
    """

    def __init__(self, store: StoreReader, prefix: str, open_file: Callable[[], IO[bytes]] = TemporaryFile) -> None:
        self.folder = f"{prefix}{NAME}/"
        self.open_file = open_file
        self.files = StoredFiles(store, self.folder, "run of keys", _REMEDY, open_file)

    def known(self, files: Sequence[StoredFile]) -> Known:
        """Return the keys in *files*, oldest first.

        :raises CheckpointError: if one is missing or damaged
        :raises CheckpointTooNew: if a newer scrapy_state wrote one
        :raises StoreError: if the store does not answer or refuses
        """
        with self.opened(files) as copies:
            return Known(merge(copies, is_oldest=True), count_keys(copies))

    @contextmanager
    def opened(self, files: Sequence[StoredFile]) -> Iterator[list[IO[bytes]]]:
        """Have copies of *files* in temporary files."""
        with ExitStack() as opened:
            copies = [opened.enter_context(self.files.open(file)) for file in files]
            try:
                yield copies
            except (CheckpointError, CheckpointTooNew) as error:
                error.uri, error.remedy = error.uri or self.files.uri(files[0]), error.remedy or _REMEDY
                raise


class RunFiles(StoredRuns):
    """The write side, too.

    :param run: the id of the run that writes, with which names begin
    """

    def __init__(self, store: StoreWriter, prefix: str, run: str, open_file: Callable[[], IO[bytes]] = TemporaryFile) -> None:
        super().__init__(store, prefix, open_file)
        self._writer = store
        self._run = run

    def store(self, number: int, days: Mapping[int, int]) -> StoredFile:
        """Store keys with their days as this run's file *number*. After a StoreUnreachable, call it again with the same ones.

        :raises StoreError: if they can't be stored
        """
        return self._store(number, [part_of(days)])

    def merge(self, number: int, files: Sequence[StoredFile], is_oldest: bool) -> StoredFile:
        """Store one run that says what *files*, oldest first, say.

        :param is_oldest: whether no older one precedes them
        :raises CheckpointError: as :meth:`known`
        :raises StoreError: if the store does not answer or refuses
        """
        with self.opened(files) as copies:
            return self._store(number, merge(copies, is_oldest))

    def copy(self, stored: StoredRuns, files: Sequence[StoredFile]) -> None:
        """Store copies of *files*, which are in another place, under the same names.

        :raises CheckpointError: as :meth:`known`
        :raises StoreError: if a store does not answer or refuses
        """
        copy_files(stored.files, files, self._writer, self.folder)

    def _store(self, number: int, parts: Iterable[Part]) -> StoredFile:
        name = f"{self._run}-{number:05d}.keys"
        with self.open_file() as file:
            write_run(parts, file)
            digest = hashlib.sha256()
            while data := file.read(_READ_BYTES):
                digest.update(data)
            size = file.tell()
            file.seek(0)
            self._writer.create(self.folder + name, file)
        return StoredFile(name, size, f"sha256:{digest.hexdigest()}")
