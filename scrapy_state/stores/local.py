"""Files on a local disk: whole or not at all, durable when ``create`` returns, never overwritten."""

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
from .naming import TEMPORARY, make_folder, name_file, nameless_file, sync_folder


def open_reader(uri: str, settings: Mapping[str, Any]) -> tuple[LocalReader, str]:
    """See :class:`~scrapy_state.stores.base.Store`. For a path and for ``file://…``; a slash at the end stays."""
    return LocalReader(), _path(uri)


def open_writer(uri: str, settings: Mapping[str, Any]) -> tuple[LocalWriter, str]:
    """See :class:`~scrapy_state.stores.base.Store`."""
    return LocalWriter(), _path(uri)


class LocalReader:
    """The read side of the local disk; keys are absolute paths."""

    ordered = False

    def uri(self, key: str) -> str:
        """See :class:`~scrapy_state.stores.base.StoreReader`."""
        return Path(key).as_uri()

    def keys(self, prefix: str, after: str = "", limit: int | None = None, depth: int | None = None) -> Iterator[str]:
        """See :class:`~scrapy_state.stores.base.StoreReader`. A folder that isn't there has no keys."""
        return islice((key for key in self._keys(prefix, depth) if key > after), limit)

    def _keys(self, prefix: str, depth: int | None) -> Iterator[str]:
        folder = os.path.dirname(prefix)
        with _errors(prefix):
            try:
                if not stat.S_ISDIR(os.stat(folder).st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            except FileNotFoundError:
                return
            for inside, folders, names in os.walk(folder, onerror=_raise):
                deepest = depth is not None and os.path.join(inside, "").count(os.sep, len(prefix)) >= depth
                folders[:] = [each for each in folders if not deepest and os.path.join(inside, each).startswith(prefix)]
                for name in names:
                    path = os.path.join(inside, name)
                    if path.startswith(prefix) and not name.startswith(TEMPORARY):
                        yield path

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
    """The write side: a temporary file in the same folder, fsync, and a link, which never replaces a file."""

    def __init__(self) -> None:
        #: False once it was seen that the file system has neither links nor a rename that doesn't replace (docs/stores.md)
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
                    raise KeyTaken(f"{self.uri(key)} is there already, with other content; nothing is overwritten") from error
            sync_folder(folder)

    def probe(self, key: str) -> None:
        """See :class:`~scrapy_state.stores.base.StoreWriter`. In the nearest folder that is there; makes none."""
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
        # "#" and "?" end a path in a URI. Here they came in with a spider's name or argument, and belong to it, as on S3.
        uri = file_uri_to_path(uri.replace("#", "%23").replace("?", "%3F"))
    folder, name = os.path.split(uri)
    return os.path.join(os.path.abspath(folder), name)


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
    """Turn what the system says into the error tree."""
    try:
        yield
    except StoreError:
        raise
    except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise StoreRefused(f"{path}: {error.strerror}; check the path in FEEDS and who may write there") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise StoreRefused(f"{path}: {error.strerror}; make room on the disk") from error
        raise StoreUnreachable(f"{path}: {error.strerror or error}; check the disk") from error


def _raise(error: OSError) -> None:
    raise error
