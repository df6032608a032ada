"""What a power failure may leave on the disk, given the calls that were made before it (system_calls.Recording).

Only what was synced is sure to be there. Of the rest any part may be missing: what was written to a file since its last
fsync(2), and the names that have come, gone or changed in a folder since that was synced. A write may also be torn. Pillai et
al., "All File Systems Are Not Created Equal" (OSDI 2014), found file systems that do each of these.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oracle import Files, digest_of

KEPT, LOST, TORN = "kept", "lost", "torn"
#: Up to this many states of the disk after a call are all tried, otherwise a part of them (:meth:`Disk.failures`).
_ALL_STATES = 64
_RANDOM_STATES = 12


@dataclass(eq=False)
class Inode:
    """A file's content: *durable*, and the writes since: (offset, data)."""

    durable: bytes = b""
    writes: list[tuple[int, bytes]] = field(default_factory=list)

    def content(self, fates: dict[int, str]) -> bytes:
        """Return what it contains if its writes met *fates*."""
        content = bytearray(self.durable)
        for number, (offset, data) in enumerate(self.writes):
            fate = fates.get(number, KEPT)
            kept = data[: len(data) // 2] if fate == TORN else data
            if fate != LOST:
                content.extend(bytes(max(0, offset + len(kept) - len(content))))
                content[offset : offset + len(kept)] = kept
        return bytes(content)

    def sync(self) -> None:
        self.durable, self.writes = self.content({}), []


@dataclass(eq=False)
class Folder:
    """The names in a folder: *durable*, and the changes since; None for a name that has gone."""

    durable: dict[str, Inode | Folder] = field(default_factory=dict)
    changes: list[dict[str, Inode | Folder | None]] = field(default_factory=list)

    def names(self, fates: dict[int, str]) -> dict[str, Inode | Folder]:
        """Return the names that it has if its changes met *fates*."""
        names: dict[str, Any] = dict(self.durable)
        for number, change in enumerate(self.changes):
            if fates.get(number, KEPT) == KEPT:
                names.update(change)
        return {name: what for name, what in names.items() if what is not None}

    def sync(self) -> None:
        self.durable, self.changes = self.names({}), []


#: What may be lost: the file or folder, and the number of its write or change
Loss = tuple[Inode | Folder, int]


class Disk:
    """A folder on a disk. It was empty, and durable, before the first call.

    :param root: the path of that folder
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._top = Folder()
        self._inodes: dict[str, Inode] = {}
        #: the files that the store has promised to be durable, with what they contain
        self.promised: Files = {}

    def do(self, call: dict[str, Any]) -> None:
        """Do a recorded *call*."""
        kind, path = call["call"], call.get("path", "")
        folder, _, name = path.rpartition("/")
        if kind == "create":
            self._inodes[call["inode"]] = inode = Inode()
            if path:
                self._folder(folder).changes.append({name: inode})
        elif kind == "write":
            self._inodes.setdefault(call["inode"], Inode()).writes.append((call["offset"], call["data"].encode("latin-1")))
        elif kind == "sync":
            self._inodes[call["inode"]].sync()
        elif kind == "sync folder":
            self._folder(path).sync()
        elif kind == "mkdir":
            self._folder(folder).changes.append({name: Folder()})
        elif kind == "link":
            self._folder(folder).changes.append({name: self._inodes[call["inode"]]})
        elif kind == "unlink":
            self._folder(folder).changes.append({name: None})
        elif kind == "rename":
            old_folder, _, old = call["old"].rpartition("/")
            assert old_folder == folder
            self._folder(folder).changes.append({old: None, name: self._folder(folder).names({})[old]})
        elif kind == "stored":
            self.promised[path] = self.files({})[path]
        else:
            raise AssertionError(f"a power failure after {kind} is not modelled")

    def files(self, fates: dict[Loss, str]) -> Files:
        """Return the files if what may be lost met *fates*; what is not there was kept."""
        by_owner: dict[Inode | Folder, dict[int, str]] = {}
        for (owner, number), fate in fates.items():
            by_owner.setdefault(owner, {})[number] = fate
        files: Files = {}
        waiting: list[tuple[str, Inode | Folder]] = [(self._root, self._top)]
        while waiting:
            path, what = waiting.pop()
            if isinstance(what, Inode):
                files[path] = what.content(by_owner.get(what, {}))
            else:
                waiting += [(f"{path}/{name}", each) for name, each in what.names(by_owner.get(what, {})).items()]
        return files

    def failures(self, chance: random.Random) -> Iterator[Files]:
        """Yield what may be there if the power fails now.

        That is every combination if there are few. Otherwise: all is there, or nothing that may be lost; each single write or
        change is missing, or is the only one; and some random combinations.
        """
        choices = [((owner, number), self._fates(owner)) for owner, number in self._losable()]
        count = 1
        for _, fates in choices:
            count *= len(fates)
        if count <= _ALL_STATES:
            for combination in itertools.product(*(fates for _, fates in choices)):
                yield self.files({loss: fate for (loss, _), fate in zip(choices, combination, strict=True)})
            return
        for first, rest in ((KEPT, LOST), (LOST, KEPT)):
            yield self.files({loss: rest for loss, _ in choices})
            for loss, fates in choices:
                for fate in {first, *fates} - {rest}:
                    yield self.files({**{other: rest for other, _ in choices}, loss: fate})
        for _ in range(_RANDOM_STATES):
            yield self.files({loss: chance.choice(fates) for loss, fates in choices})

    def _losable(self) -> list[Loss]:
        """Return all that may be lost of what has, or has had, a name since the last sync."""
        found: list[Loss] = []
        waiting: list[Inode | Folder] = [self._top]
        seen: set[Inode | Folder] = set()
        while waiting:
            what = waiting.pop()
            if what in seen:
                continue
            seen.add(what)
            if isinstance(what, Inode):
                found += [(what, number) for number in range(len(what.writes))]
            else:
                found += [(what, number) for number in range(len(what.changes))]
                named = [*what.durable.values(), *(each for change in what.changes for each in change.values())]
                waiting += [each for each in named if each is not None]
        return found

    @staticmethod
    def _fates(owner: Inode | Folder) -> list[str]:
        return [KEPT, LOST, TORN] if isinstance(owner, Inode) else [KEPT, LOST]

    def _folder(self, path: str) -> Folder:
        folder = self._top
        for name in filter(None, path.removeprefix(self._root).split("/")):
            found = folder.names({})[name]
            assert isinstance(found, Folder)
            folder = found
        return folder


def whole(files: Files, states: str) -> tuple[Files, list[str]]:
    """Return *files* without what a run skips, and which state files it skips: torn ones.

    Files that no checkpoint names may be anything, so they are left out, too.

    :param states: the prefix of the state files' locations
    """
    torn, named = [], set()
    for location, content in files.items():
        if re.fullmatch(rf"{re.escape(states)}\d+\.json", location):
            try:
                [checkpoint] = json.loads(content)
                assert checkpoint["digest"] == digest_of(checkpoint)
            except (ValueError, AssertionError):
                torn.append(location)
                continue
            segments = checkpoint.get("requests", {}).get("segments", ())
            named |= {location, *(each["uri"].removeprefix("file://") for each in checkpoint["files"])}
            named |= {f"{states}requests/{each['name']}" for each in segments}
    return {location: content for location, content in files.items() if location in named}, torn
