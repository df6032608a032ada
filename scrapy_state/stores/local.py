"""Files on a local disk: whole or not at all, durable when ``create`` returns, never overwritten."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

from w3lib.url import file_uri_to_path

from ..exceptions import KeyTaken, StoreError, StoreRefused, StoreUnreachable

_TEMPORARY = ".scrapy_state-"
_UMASK = os.umask(0o077)
os.umask(_UMASK)
#: What fsync(2) of a folder says on file systems (of a network) that don't know it
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP)
#: Folders whose names this process has made durable
_durable: set[str] = set()
_DURABLE_MOST = 1000


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

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        """See :class:`~scrapy_state.stores.base.StoreReader`. A folder that isn't there has no keys."""
        return islice((key for key in self._keys(prefix) if key > after), limit)

    def _keys(self, prefix: str) -> Iterator[str]:
        folder = os.path.dirname(prefix)
        with _errors(prefix):
            try:
                if not stat.S_ISDIR(os.stat(folder).st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            except FileNotFoundError:
                return
            for inside, folders, names in os.walk(folder, onerror=_raise):
                folders[:] = [each for each in folders if os.path.join(inside, each).startswith(prefix)]
                for name in names:
                    path = os.path.join(inside, name)
                    if path.startswith(prefix) and not name.startswith(_TEMPORARY):
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

    atomic = True

    def create(self, key: str, file: IO[bytes]) -> None:
        """See :class:`~scrapy_state.stores.base.StoreWriter`."""
        folder = os.path.dirname(key)
        with _errors(key):
            make_folder(folder)
            try:
                _link(file, key)
            except FileExistsError as error:
                if not _same_content(file, key):
                    raise KeyTaken(f"{self.uri(key)} is there already, with other content; nothing is overwritten") from error
            _sync_folder(folder)
            _sync_above(os.path.realpath(folder))

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


def make_folder(folder: str) -> None:
    """Make *folder* and those above it, where they are missing. ``create`` sees that their names are durable."""
    missing = os.path.realpath(folder)
    while not os.path.isdir(missing) and missing != os.path.dirname(missing):
        _durable.discard(missing)
        missing = os.path.dirname(missing)
    os.makedirs(folder, exist_ok=True)


def nameless_file(folder: str | os.PathLike[str]) -> IO[bytes]:
    """Return a new file in *folder* that has no name: nothing is left of it however the process ends.

    With O_TMPFILE (Linux; see open(2)), so that it can be given a name later. Not tempfile.TemporaryFile(), which opens
    it with O_EXCL, so that it can't.
    """
    with suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        return os.fdopen(handle, "w+b")
    return tempfile.TemporaryFile(dir=folder)


def _path(uri: str) -> str:
    if uri.startswith("file:"):
        # "#" and "?" end a path in a URI. Here they came in with a spider's name or argument, and belong to it, as on S3.
        uri = file_uri_to_path(uri.replace("#", "%23").replace("?", "%3F"))
    folder, name = os.path.split(uri)
    return os.path.join(os.path.abspath(folder), name)


def _link(file: IO[bytes], path: str) -> None:
    """Give *file*, or a copy of it, the name *path*; FileExistsError if there is one of that name."""
    if _named(file, path):
        return
    folder = os.path.dirname(path)
    with nameless_file(folder) as copy:
        _copy(file, copy)
        if _named(copy, path):
            return
    # A system without O_TMPFILE or /proc: the one place where a kill may leave a temporary file
    with tempfile.NamedTemporaryFile(prefix=_TEMPORARY, dir=folder) as named:
        _copy(file, named)
        os.fchmod(named.fileno(), 0o666 & ~_UMASK)
        os.fsync(named.fileno())
        os.link(named.name, path)


def _named(file: IO[bytes], path: str) -> bool:
    """Give *file* the name *path*; False if that can't be done, or it has a name already, under which it may change."""
    try:
        file.flush()
        if os.fstat(file.fileno()).st_nlink:
            return False
        os.fsync(file.fileno())
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
    except (OSError, AttributeError):  # not a file, or a system that can't open a folder
        return False
    try:
        # With a folder's handle, which an absolute path doesn't need, os.link() becomes linkat(2) and follows the link.
        os.link(f"/proc/self/fd/{file.fileno()}", path, src_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # no O_TMPFILE, another disk, no /proc
        return False
    finally:
        os.close(folder)
    return True


def _copy(file: IO[bytes], copy: IO[bytes]) -> None:
    file.seek(0)
    shutil.copyfileobj(file, copy)
    copy.flush()


def _same_content(file: IO[bytes], path: str) -> bool:
    file.seek(0)
    with open(path, "rb") as stored:
        while True:
            ours, theirs = file.read(1 << 20), stored.read(1 << 20)
            if ours != theirs:
                return False
            if not ours:
                return True


def _sync_above(folder: str) -> None:
    """Make the names of *folder* and of the folders above it durable, up to where its disk begins.

    Whoever made them: an open batch, or a try that failed, may have. Once in a process.
    """
    if folder in _durable or os.path.ismount(folder):
        return
    above = os.path.dirname(folder)
    _sync_folder(above)
    _sync_above(above)
    if len(_durable) >= _DURABLE_MOST:
        _durable.clear()
    _durable.add(folder)


def _sync_folder(folder: str) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one that may not be listed; Windows can't open any
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


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
