"""How a file gets its name on a local disk: when it is whole, only if the name is free, and durably."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from typing import IO, Literal

#: What the names of temporary files begin with
TEMPORARY = ".scrapy_state-"
#: What link(2) and renameat2(2) say on file systems that don't know them (EACCES: Android)
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EMLINK)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
#: What fsync(2) of a folder says on file systems (of a network) that don't know it
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP)
#: Folders whose names this process has made durable
_durable: set[str] = set()
_DURABLE_MOST = 1000


def make_folder(folder: str) -> None:
    """Make *folder* and those above it, where they are missing. ``create`` sees that their names are durable."""
    missing = os.path.realpath(folder)
    while not os.path.isdir(missing) and missing != os.path.dirname(missing):
        _durable.discard(missing)
        missing = os.path.dirname(missing)
    os.makedirs(folder, exist_ok=True)


def nameless_file(folder: str | os.PathLike[str]) -> IO[bytes]:
    """Return a new file in *folder* that has no name: nothing is left of it however the process ends.

    On Linux one that can be given a name later, where the file system has that (O_TMPFILE).
    """
    return _linkable_file(folder) or tempfile.TemporaryFile(dir=folder)


def _linkable_file(folder: str | os.PathLike[str]) -> IO[bytes] | None:
    """Return a new file without a name by O_TMPFILE (see open(2)); None where there is no such thing.

    Not tempfile.TemporaryFile(), which opens it with O_EXCL, so that it can't be given a name.
    """
    with suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        return os.fdopen(handle, "w+b")
    return None


def name_file(file: IO[bytes], path: str) -> bool:
    """Give *file*, or a copy of it, the name *path*; FileExistsError if there is one of that name.

    Return whether of two writers at the same instant one was sure to be told so.
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
    # A system without O_TMPFILE, /proc, or links: the one place where a kill may leave a temporary file
    temporary = os.path.join(folder, f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as named:
            _copy(file, named)
            os.fsync(named.fileno())
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
    """Rename a file by renameat2(2), which is told not to replace one; False if the system or the file system can't."""
    import ctypes  # only here, where there are no links

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
    """Rename a file to a name that is taken first, by an empty file: that is what a kill, or a look just now, may find."""
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


def sync_folder(folder: str) -> None:
    """Make what was named in *folder* durable, and the names of the folders above it."""
    _sync(folder)
    _sync_above(os.path.realpath(folder))


def _sync_above(folder: str) -> None:
    """Make the names of *folder* and of the folders above it durable, up to where its disk begins.

    Whoever made them: an open batch, or a try that failed, may have. Once in a process.
    """
    if folder in _durable or os.path.ismount(folder):
        return
    above = os.path.dirname(folder)
    _sync(above)
    _sync_above(above)
    if len(_durable) >= _DURABLE_MOST:
        _durable.clear()
    _durable.add(folder)


def _sync(folder: str) -> None:
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
