"""Giving a file on the local disk its name: only when it is whole, only if the name is free, and durably."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from typing import IO, Literal

#: The beginning of the names of temporary files
TEMPORARY = ".scrapy_state-"
#: The errors of link(2) and renameat2(2) on file systems that don't have them (EACCES: Android)
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EMLINK)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
#: The errors of fsync(2) for a folder on (network) file systems that don't have that
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP)
#: Folders whose names this process has made durable; at most this many are remembered
_durable: set[str] = set()
_DURABLE_LIMIT = 1000


class SyncFailed(OSError):
    """A file could not be made durable. What was written may be lost, even if another fsync(2) succeeds."""


def make_folder(folder: str) -> None:
    """Make *folder* and its parents, as far as they are missing. ``create`` makes their names durable later."""
    missing = os.path.realpath(folder)
    while not os.path.isdir(missing) and missing != os.path.dirname(missing):
        _durable.discard(missing)
        missing = os.path.dirname(missing)
    os.makedirs(folder, exist_ok=True)


def nameless_file(folder: str | os.PathLike[str]) -> IO[bytes]:
    """Return a new file in *folder* that has no name, so that nothing of it remains, however the process ends.

    On Linux it can get a name later, if the file system has O_TMPFILE.
    """
    return _linkable_file(folder) or tempfile.TemporaryFile(dir=folder)


def _linkable_file(folder: str | os.PathLike[str]) -> IO[bytes] | None:
    """Return a new file without a name, by O_TMPFILE (see open(2)); None if the system or the file system has no O_TMPFILE.

    tempfile.TemporaryFile() opens it with O_EXCL, so that it can never get a name.
    """
    with suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        return os.fdopen(handle, "w+b")
    return None


def name_file(file: IO[bytes], path: str) -> bool:
    """Give *file*, or a copy of it, the name *path*.

    :return: whether, of two writers at the same instant, one was sure to get FileExistsError
    :raises FileExistsError: if there is a file of that name
    :raises SyncFailed: if it can't be made durable. Nobody may read it again then, not even to copy it
    """
    if _named(file, path):
        return True
    folder = os.path.dirname(path)
    copy = _linkable_file(folder)
    if copy is not None:
        with copy:
            _copy(file, copy)
            if _named(copy, path):
                return True
    # Without O_TMPFILE, /proc or links: only here a kill may leave a temporary file behind.
    temporary = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as named:
            _copy(file, named)
            _sync_file(named)
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _renamed_new(temporary, path) or _renamed_reserved(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    return True


def _renamed_new(path: str, new: str) -> bool:
    """Rename a file by renameat2(2), which can be told not to replace one. Return False if the system lacks it."""
    import ctypes  # Only file systems without links need it.

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if rename(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_LINKS:
        return False
    raise OSError(code, os.strerror(code), new)


def _renamed_reserved(path: str, new: str) -> Literal[False]:
    """Take the name with an empty file first, then rename. A kill, or a reader in between, may find the empty file."""
    with open(new, "xb"):
        pass
    try:
        os.replace(path, new)
    except BaseException:
        with suppress(OSError):
            if os.path.getsize(new) == 0:
                os.unlink(new)
        raise
    return False


def _named(file: IO[bytes], path: str) -> bool:
    """Give *file* the name *path*. Return False if that is impossible, or if it has a name already, and so may still change."""
    try:
        file.flush()
        if os.fstat(file.fileno()).st_nlink:
            return False
        _sync_file(file)
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
    except SyncFailed:
        raise
    except (OSError, AttributeError):  # It is not a file, or the system can't open folders.
        return False
    try:
        # An absolute path needs no src_dir_fd. But with one, os.link() calls linkat(2), which can follow the link in /proc.
        os.link(f"/proc/self/fd/{file.fileno()}", path, src_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # no O_TMPFILE, no /proc, or another disk
        return False
    finally:
        os.close(folder)
    return True


def _sync_file(file: IO[bytes]) -> None:
    try:
        os.fsync(file.fileno())
    except OSError as error:
        raise SyncFailed(error.errno, error.strerror) from error


def _copy(file: IO[bytes], copy: IO[bytes]) -> None:
    file.seek(0)
    shutil.copyfileobj(file, copy)
    copy.flush()


def sync_folder(folder: str) -> None:
    """Make the new names in *folder* durable, and the names of the folders above it."""
    _sync(folder)
    _sync_above(os.path.realpath(folder))


def _sync_above(folder: str) -> None:
    """Make the names of *folder* and of the folders above it durable, up to the root of its disk; once in each process.

    It does not matter who made the folders: an open batch may have, or an attempt that failed.
    """
    if folder in _durable or os.path.ismount(folder):
        return
    parent = os.path.dirname(folder)
    _sync(parent)
    _sync_above(parent)
    if len(_durable) >= _DURABLE_LIMIT:
        _durable.clear()
    _durable.add(folder)


def _sync(folder: str) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # The folder may not be listed. On Windows, none can be opened.
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)
