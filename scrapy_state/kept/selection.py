"""Which files of a project are kept: what STATE_FILES names, and what it must not name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from scrapy.utils.conf import closest_scrapy_cfg

from ..exceptions import StateSettingsError

_MAGIC = frozenset("*?[")


class Selection:
    """The files that STATE_FILES names. Its methods block.

    :param root: the folder that the paths begin in, by default the project's
    :param patterns: STATE_FILES
    :param refused: folders that must not be kept, and why
    :raises StateSettingsError: if a path leads out of *root*, or to a folder in *refused*
    """

    def __init__(self, root: Path, patterns: Sequence[str], refused: Mapping[Path, str]) -> None:
        self.root = root
        self._patterns = [_parts(root, pattern) for pattern in patterns]
        paths = {os.path.relpath(path.resolve(), root): why for path, why in refused.items()}
        self._refused = {path: why for path, why in paths.items() if is_inside(path)}
        for inside, why in self._refused.items():
            parts = tuple(Path(inside).parts)
            for pattern, named in zip(self._patterns, patterns, strict=True):
                if _matches(parts, pattern) or pattern[: len(parts)] == parts:
                    raise StateSettingsError(f"STATE_FILES has {named!r}: {why}", remedy="remove it from STATE_FILES")

    def has(self, path: str) -> bool:
        """Whether STATE_FILES names *path*, a path in :attr:`root`."""
        parts = tuple(path.split("/"))
        return any(_matches(parts, pattern) for pattern in self._patterns)

    def files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield each file that is there, once: its path in :attr:`root`, and what stat says.

        :raises StateSettingsError: for a symlink, or something that is neither a file nor a folder
        """
        seen: set[str] = set()
        for pattern in self._patterns:
            for path, status in self._expand("", pattern):
                if path not in seen:
                    seen.add(path)
                    yield path, status

    def _expand(self, folder: str, parts: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result]]:
        if not parts:
            for name, status in self._inside(folder):
                if stat.S_ISDIR(status.st_mode):
                    yield from self._expand(name, ())
                else:
                    yield name, status
            return
        first, *more = parts
        rest = tuple(more)
        if first == "**":
            yield from self._expand(folder, rest)
            for name, status in self._inside(folder):
                if stat.S_ISDIR(status.st_mode):
                    yield from self._expand(name, parts)
            return
        for name, status in self._inside(folder, first):
            if stat.S_ISDIR(status.st_mode):
                yield from self._expand(name, rest)
            elif not rest:
                yield name, status

    def _inside(self, folder: str, pattern: str = "*") -> Iterator[tuple[str, os.stat_result]]:
        """Yield what is in *folder*, as far as *pattern* matches the name."""
        inside = os.path.join(self.root, folder)
        try:
            names = [pattern] if not _MAGIC & set(pattern) else sorted(os.listdir(inside))
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            path = f"{folder}/{name}" if folder else name
            if not fnmatchcase(name, pattern) or path == WORK:
                continue
            try:
                status = os.lstat(os.path.join(inside, name))
            except (FileNotFoundError, NotADirectoryError):
                continue
            if path in self._refused:
                raise StateSettingsError(f"STATE_FILES names {path!r}: {self._refused[path]}", remedy="leave it out")
            if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
                what = "a symlink" if stat.S_ISLNK(status.st_mode) else "neither a file nor a folder"
                raise StateSettingsError(f"STATE_FILES names {path!r}, which is {what}", remedy="name the files themselves")
            yield path, status


#: Where a restore keeps what it needs, in the root
WORK = ".scrapy_state-restore"


def project_folder() -> Path:
    """Return the folder of the project, with scrapy.cfg; without a project the working directory."""
    found = closest_scrapy_cfg()
    return Path(found).parent.resolve() if found else Path.cwd().resolve()


def is_inside(path: str) -> bool:
    """Whether *path* leads to something in the folder that it begins in."""
    parts = path.split("/")
    return bool(path) and not any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts)


def _parts(root: Path, pattern: str) -> tuple[str, ...]:
    inside = os.path.normpath(os.path.relpath(pattern, root) if os.path.isabs(pattern) else pattern)
    parts = tuple(Path(inside).parts)
    if ".." in parts:
        raise StateSettingsError(
            f"STATE_FILES has {pattern!r}, which is outside the project ({root})", remedy="name files in the project's folder"
        )
    return parts


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether *pattern* names the path with these *parts*, or a folder that it is in."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (bool(parts) and _matches(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
