"""Files on the local disk: each exists whole or not at all, is durable when ``create`` returns, and is never overwritten."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from w3lib.url import file_uri_to_path

from ..exceptions import KeyTaken, StoreError, StoreRefused, StoreUnreachable
from .naming import TEMPORARY, SyncFailed, make_folder, name_file, nameless_file, sync_folder

#: What the user can do
MORE_FILES, MORE_MEMORY = "allow the process more open files (ulimit -n)", "give the process more memory"


def open_reader(uri: str, settings: Mapping[str, Any]) -> tuple[LocalReader, str]:
    """See :class:`~scrapy_state.stores.base.Store`. *uri* is a path or ``file://…``; the key keeps a slash at the end."""
    return LocalReader(), _path(uri)


def open_writer(uri: str, settings: Mapping[str, Any]) -> tuple[LocalWriter, str]:
    """See :class:`~scrapy_state.stores.base.Store`."""
    return LocalWriter(), _path(uri)


class LocalReader:
    """Reads the local disk. Keys are absolute paths."""

    ordered = False

    def uri(self, key: str) -> str:
        """See :class:`~scrapy_state.stores.base.StoreReader`."""
        return Path(key).as_uri()

    def keys(self, prefix: str, after: str = "", limit: int | None = None, depth: int | None = None) -> Iterator[str]:
        """See :class:`~scrapy_state.stores.base.StoreReader`. A missing folder has no keys."""
        return islice((key for key in self._keys(prefix, depth) if key > after), limit)

    def _keys(self, prefix: str, depth: int | None) -> Iterator[str]:
        folder = os.path.dirname(prefix)
        with _errors(prefix):
            try:
                if not stat.S_ISDIR(os.stat(folder).st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            except FileNotFoundError:
                return
            yield from _files_below(folder, prefix, depth)

    def read(self, key: str) -> bytes | None:
        """See :class:`~scrapy_state.stores.base.StoreReader`."""
        with _errors(key):
            try:
                return Path(key).read_bytes()
            except FileNotFoundError:
                return None

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        """See :class:`~scrapy_state.stores.base.StoreReader`."""
        with _errors(key):
            try:
                with open(key, "rb") as file:
                    end = file.seek(0, os.SEEK_END)
                    file.seek(begin if begin >= 0 else max(0, end + begin))
                    return file.read(size)
            except FileNotFoundError:
                return None


class LocalWriter(LocalReader):
    """Writes a temporary file in the same folder, syncs it, and then links it to its name, which never replaces a file."""

    def __init__(self) -> None:
        #: False as soon as a file system turns out to have neither links nor a rename that never replaces (docs/stores.md)
        self.atomic = True

    def create(self, key: str, file: IO[bytes]) -> None:
        """See :class:`~scrapy_state.stores.base.StoreWriter`."""
        folder = os.path.dirname(key)
        with _errors(key):
            make_folder(folder)
            try:
                self.atomic = name_file(file, key) and self.atomic
            except FileExistsError as error:
                if not _same_content(file, key):
                    raise KeyTaken(
                        "the file exists already, with other content; nothing is overwritten", uri=self.uri(key)
                    ) from error
            sync_folder(folder)

    def probe(self, key: str) -> None:
        """See :class:`~scrapy_state.stores.base.StoreWriter`. It tries the nearest folder that exists, and makes none."""
        folder = os.path.dirname(key)
        with _errors(key):
            while not os.path.lexists(folder) and folder != os.path.dirname(folder):
                folder = os.path.dirname(folder)
            with nameless_file(folder) as file:
                file.write(b"probe")

    def delete(self, key: str) -> None:
        """See :class:`~scrapy_state.stores.base.StoreWriter`."""
        with _errors(key):
            Path(key).unlink(missing_ok=True)


def _path(uri: str) -> str:
    if uri.startswith("file:"):
        # In a URI, "#" and "?" end the path. Here they come from a spider's name or argument, and belong to the path, as on S3.
        uri = file_uri_to_path(uri.replace("#", "%23").replace("?", "%3F"))
    folder, name = os.path.split(uri)
    return os.path.join(os.path.abspath(folder), name)


def _files_below(folder: str, prefix: str, depth: int | None) -> Iterator[str]:
    """Yield the files in *folder* whose paths begin with *prefix*. Keeps no list: there may be a million in one folder."""
    deepest = depth is not None and os.path.join(folder, "").count(os.sep, len(prefix)) >= depth
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.path.startswith(prefix):
                continue
            if not entry.is_dir():
                if not entry.name.startswith(TEMPORARY):
                    yield entry.path
            elif not (deepest or entry.is_symlink()):
                yield from _files_below(entry.path, prefix, depth)


def _same_content(file: IO[bytes], path: str) -> bool:
    file.seek(0)
    with open(path, "rb") as stored:
        while True:
            ours, theirs = file.read(1 << 20), stored.read(1 << 20)
            if ours != theirs:
                return False
            if not ours:
                return True


@contextmanager
def _errors(path: str) -> Iterator[None]:
    """Turn errors of the system into our own."""
    try:
        yield
    except StoreError:
        raise
    except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise StoreRefused(_reason(error), uri=path, remedy="check the path in FEEDS and who may write there") from error
    except MemoryError as error:
        raise StoreUnreachable("not enough memory", uri=path, remedy=MORE_MEMORY) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreRefused(_reason(error), uri=path, remedy="free space on the disk") from error
        if error.errno == errno.EROFS:
            raise StoreRefused(_reason(error), uri=path, remedy="use a disk that can be written") from error
        if isinstance(error, SyncFailed):
            raise StoreRefused(f"{_reason(error)} (fsync)", uri=path, remedy="check the disk") from error
        remedy = MORE_FILES if error.errno in (errno.EMFILE, errno.ENFILE) else "check the disk"
        raise StoreUnreachable(_reason(error), uri=path, remedy=remedy) from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
