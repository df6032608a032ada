"""What a process of this machine uses at a moment: memory, disk, open files, threads. Reads /proc, so needs Linux."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Use:
    """What a process uses.

    :param memory: its resident set, in bytes
    :param disk: the bytes of all files in its folders, and of deleted files that it still has open
    """

    memory: int
    disk: int
    open_files: int
    threads: int


def use_of(pid: int, *folders: Path) -> Use | None:
    """Return what the process *pid* uses, None if it is over. *folders*: where it may write; none inside another."""
    try:
        status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        if "VmRSS" not in status:  # it is over, and nobody has asked for its exit code
            return None
        files = list(Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return None
    disk = sum(map(folder_bytes, folders)) + sum(map(_deleted_bytes, files))
    return Use(1024 * int(status["VmRSS"].split()[0]), disk, len(files), int(status["Threads"]))


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below *folder*, which may change meanwhile."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def _deleted_bytes(descriptor: Path) -> int:
    """Return the size of an open file that no folder has any more, 0 for any other."""
    with suppress(FileNotFoundError):
        found = descriptor.stat()
        if stat.S_ISREG(found.st_mode) and not found.st_nlink:
            return found.st_size
    return 0
