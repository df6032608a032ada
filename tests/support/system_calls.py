"""Watches the calls of a crawl's process: makes the n-th of them fail, or records all that change files.

It replaces Python's functions and file objects, so it sees what SQLite writes as little as what an extension in C does.
tests/faults/test_power.py compares what it records with what strace sees.
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from scrapy_state.exceptions import StoreRefused, StoreUnreachable
from scrapy_state.stores.local import LocalReader, LocalWriter

#: error -> what raises it, given the kind of the call
ERRORS: dict[str, Callable[[], Exception]] = {
    "ENOSPC": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "EIO": lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
    "EMFILE": lambda: OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "MemoryError": MemoryError,
    "no thread": lambda: RuntimeError("can't start new thread"),
    "unreachable": lambda: StoreUnreachable("no answer", uri="file:///store", remedy="plug it in"),
    "refused": lambda: StoreRefused("no", uri="file:///store", remedy="ask for permission"),
}
#: kind of call -> the errors that it may have
KINDS = {
    **dict.fromkeys(
        ("open", "write", "read", "fsync", "link", "unlink", "mkdir", "list"), ("ENOSPC", "EIO", "EMFILE", "MemoryError")
    ),
    "thread": ("no thread", "MemoryError"),
    "store": ("unreachable", "refused", "ENOSPC", "EIO", "EMFILE", "MemoryError"),
}
_OURS = os.path.join("scrapy_state", "")
_STORE_METHODS = ((LocalReader, ("keys", "read", "read_part")), (LocalWriter, ("create", "probe", "delete")))


class Failing:
    """Makes one call fail, or that and all later ones of its kind. Calls that only others than our package make don't count.

    :param number: which of the calls of *kinds*, from 1
    :param error: a key of ERRORS
    :param met: the file that says which call that was
    """

    def __init__(self, kinds: list[str], number: int, error: str, met: str, lasting: bool = False) -> None:
        self._kinds, self._number, self._error, self._met, self._lasting = kinds, number, error, met, lasting
        self._count = 0
        self._failing_kind: str | None = None
        self._lock = threading.Lock()

    def __call__(self, kind: str, what: str, call: Callable[[], Any], done: Callable[[Any], Any]) -> Any:
        caller = _caller(sys._getframe(1)) if kind in self._kinds else None
        if caller is not None and self._meets(kind, f"{kind} {what} in {caller}"):
            raise ERRORS[self._error]()
        return call()

    def _meets(self, kind: str, what: str) -> bool:
        with self._lock:
            self._count += 1
            if self._count == self._number:
                self._failing_kind = kind
                handle = _os_open(self._met, os.O_WRONLY | os.O_CREAT)
                os.write(handle, what.encode())
                os.close(handle)
            return kind == self._failing_kind and (self._lasting or self._count == self._number)


class Recording:
    """Writes down the calls that change *folder*, or files without a name: a line of JSON for each, once it is done.

    power.py reads the lines.

    :param into: the file that the lines are added to
    :param kill_after: the process is killed after that many calls
    """

    def __init__(self, folder: str, into: str, kill_after: int | None = None) -> None:
        self._folder = folder
        self._into = _os_open(into, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._left = kill_after
        self._lock = threading.RLock()

    def __call__(self, kind: str, what: str, call: Callable[[], Any], done: Callable[[Any], Any]) -> Any:
        if kind in ("store", "thread"):
            result = call()
        with self._lock:  # so the lines are in the order of the calls
            if kind not in ("store", "thread"):
                result = call()
            for line in done(result) or ():
                self._write(line)
        return result

    def _write(self, line: dict[str, Any]) -> None:
        paths = [line[name] for name in ("path", "old") if name in line]
        if paths and not any(path.startswith(self._folder) for path in paths):
            return
        os.write(self._into, json.dumps(line).encode() + b"\n")
        if self._left is not None:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), 9)


def watch(failing: dict[str, Any] | None = None, recording: dict[str, Any] | None = None) -> None:
    """Watch the calls of this process from now on. Give the arguments of :class:`Failing` or of :class:`Recording`."""
    watcher: Any = Failing(**failing) if failing is not None else Recording(**(recording or {}))
    _WatchedFile.watcher = watcher
    for kind, name, done in _OS_CALLS:
        setattr(os, name, _watched(watcher, kind, name, getattr(os, name), done))
    builtins.open = io.open = functools.partial(_open, watcher, io.open)  # type: ignore[assignment]
    threading.Thread.start = _watched(watcher, "thread", "start", threading.Thread.start, _nothing)  # type: ignore[method-assign]
    for cls, names in _STORE_METHODS:
        for name in names:
            setattr(cls, name, _watched(watcher, "store", name, getattr(cls, name), _stored if name == "create" else _nothing))


def _watched(watcher: Any, kind: str, name: str, function: Any, done: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        bound = functools.partial(function, *args, **options)
        return watcher(kind, name, bound, lambda result: done(result, *args, **options))

    return call


def _open(watcher: Any, real: Any, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
    """Replace open(): as the real one, but what is read and written as bytes is watched, too."""
    if "b" not in mode:
        return watcher("open", "open", lambda: real(file, mode, *args, **options), _nothing)
    buffering = args[0] if args else options.get("buffering", -1)
    raw = _WatchedFile(file, mode.replace("b", ""), opener=options.get("opener"))
    if buffering == 0:
        return raw
    return (io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter)(raw)


class _WatchedFile(io.FileIO):
    watcher: Any

    def __init__(self, file: Any, mode: str, opener: Any = None) -> None:
        if isinstance(file, int):
            super().__init__(file, mode)
            return
        make = functools.partial(super().__init__, file, mode, opener=opener)
        self.watcher("open", "open", make, lambda _: _created(self.fileno(), file, mode not in ("r", "r+")))

    def write(self, data: Any) -> int:
        content = bytes(data)
        offset = 0 if self.closed else os.lseek(self.fileno(), 0, os.SEEK_CUR)
        inode = "" if self.closed else _inode(os.fstat(self.fileno()))
        return self.watcher("write", "write", lambda: super(_WatchedFile, self).write(content), lambda written: [
            {"call": "write", "inode": inode, "offset": offset, "data": content[:written].decode("latin-1")}
        ])  # fmt: skip

    def truncate(self, size: int | None = None) -> int:
        def done(length: int) -> list[dict[str, Any]]:
            return [{"call": "truncate", "inode": _inode(os.fstat(self.fileno())), "size": length}]

        return self.watcher("write", "truncate", lambda: super(_WatchedFile, self).truncate(size), done)

    def readinto(self, buffer: Any) -> Any:
        return self.watcher("read", "read", lambda: super(_WatchedFile, self).readinto(buffer), _nothing)

    def readall(self) -> Any:
        return self.watcher("read", "read", lambda: super(_WatchedFile, self).readall(), _nothing)


# What is recorded of each call


def _nothing(result: Any, *args: Any, **options: Any) -> None:
    pass


def _path(path: Any) -> str:
    return os.path.realpath(os.path.dirname(os.fspath(path))) + "/" + os.path.basename(os.fspath(path))


def _inode(found: os.stat_result) -> str:
    return f"{found.st_dev}:{found.st_ino}"


def _created(handle: int, path: Any, creates: bool) -> Iterator[dict[str, Any]]:
    found = os.fstat(handle)
    if creates and found.st_nlink:
        yield {"call": "create", "inode": _inode(found), "path": _path(path)}
    elif creates:
        yield {"call": "create", "inode": _inode(found)}


def _opened(handle: int, path: Any, flags: int, *args: Any, **options: Any) -> Iterator[dict[str, Any]]:
    return _created(handle, path, bool(flags & (os.O_CREAT | getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY)))


def _synced(result: None, handle: int) -> Iterator[dict[str, Any]]:
    found = os.fstat(handle)
    if stat.S_ISDIR(found.st_mode):
        yield {"call": "sync folder", "path": os.readlink(f"/proc/self/fd/{handle}")}
    else:
        yield {"call": "sync", "inode": _inode(found)}


def _linked(result: None, source: Any, path: Any, **options: Any) -> Iterator[dict[str, Any]]:
    yield {"call": "link", "inode": _inode(os.stat(path)), "path": _path(path)}


def _made(result: None, path: Any, *args: Any, **options: Any) -> Iterator[dict[str, Any]]:
    yield {"call": "mkdir", "path": _path(path)}


def _unlinked(result: None, path: Any, **options: Any) -> Iterator[dict[str, Any]]:
    yield {"call": "unlink", "path": _path(path)}


def _renamed(result: None, old: Any, new: Any, **options: Any) -> Iterator[dict[str, Any]]:
    yield {"call": "rename", "old": _path(old), "path": _path(new)}


def _stored(result: None, store: Any, key: str, file: Any) -> Iterator[dict[str, Any]]:
    """The store has promised that *key* is durable."""
    yield {"call": "stored", "path": _path(key)}


#: kind, name in os, what is recorded of it
_OS_CALLS: tuple[tuple[str, str, Any], ...] = (
    ("open", "open", _opened),
    ("open", "dup", _nothing),
    ("fsync", "fsync", _synced),
    ("fsync", "fdatasync", _synced),
    ("link", "link", _linked),
    ("mkdir", "mkdir", _made),
    ("unlink", "unlink", _unlinked),
    ("unlink", "remove", _unlinked),
    ("unlink", "rmdir", _unlinked),
    ("link", "rename", _renamed),
    ("link", "replace", _renamed),
    ("list", "scandir", _nothing),
    ("list", "listdir", _nothing),
)
_os_open = os.open


def _caller(frame: FrameType | None) -> str | None:
    """Return the place in our package that calls; None if none does."""
    while frame is not None:
        path = frame.f_code.co_filename
        if _OURS in path:
            return f"{path.rpartition(_OURS)[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return None
