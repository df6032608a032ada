"""The objects of a project in checkpoints: storing what has changed with each, and reading all of it at the start."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any

from ..barrier.log import SpiderLog
from ..barrier.tickets import Side
from ..exceptions import CheckpointError, StateError
from ..frontier.segments import to_merge
from ..model.stored_file import StoredFile
from ..stores import StoreWriter
from ..stores.stored_files import StoredFiles, copy_files
from ..stores.threads import StoreThreads
from .changes import Changes, read, write
from .components import KeepsState, restore, snapshots
from .registry import Registry

if TYPE_CHECKING:
    from ..export.retry import Retry

NAME = "objects"
REMEDY = "restore it, or choose another checkpoint (STATE_AT)"
#: A component's JSON with more bytes than this has a file of its own.
_INLINE_BYTES = 16 << 10
_CHANGES = ".jsonl.gz"

#: Returns the changes that count, once the side is settled; and the components' states, or why they are not known
Snapshot = tuple[Callable[[], list[str]], "dict[str, tuple[str, bytes]] | StateError"]


@dataclass(frozen=True)
class Kept:
    """What a checkpoint says of kept objects.

    :param changes: files with changes, oldest first
    :param components: path of the class -> ``{"value": JSON}``, or the file that has the JSON or the bytes
    """

    changes: Sequence[StoredFile] = ()
    components: Mapping[str, Mapping[str, Any]] = ()  # type: ignore[assignment]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Kept:
        """Read what a checkpoint says.

        :raises CheckpointError: if it says something else
        """
        try:
            stored = {file.name: file for file in map(StoredFile.from_json, data.get("stored", ()))}
            changes = [stored[name] for name in data.get("changes", ())]
            components = {path: dict(entry) for path, entry in dict(data.get("components", {})).items()}
            for entry in components.values():
                if "file" in entry:
                    entry["file"] = stored[entry["file"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"what the checkpoint says of kept objects can't be read: {error!r}") from error
        return cls(changes, components)

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint says."""
        own = {entry["file"].name: entry["file"] for entry in self.components.values() if "file" in entry}
        names = {path: {**e, "file": e["file"].name} if "file" in e else dict(e) for path, e in self.components.items()}
        return {
            "stored": [vars(file) for file in (*self.changes, *own.values())],
            "changes": [file.name for file in self.changes],
            "components": names,
        }

    @property
    def files(self) -> list[StoredFile]:
        """All files."""
        return [*self.changes, *(entry["file"] for entry in self.components.values() if "file" in entry)]


def read_objects(stored: StoredFiles, kept: Kept, found: Mapping[str, KeepsState]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the contents of sets, dicts and counters, and the data of the components *found*. Blocks.

    :raises CheckpointError: if a file is missing or damaged
    :raises StoreError: if the store does not answer or refuses
    """
    changes, data = Changes(), {}
    for file in kept.changes:
        with stored.open(file) as opened:
            for change in read(opened):
                changes.apply(change)
    for path in found.keys() & kept.components.keys():
        entry = kept.components[path]
        data[path] = entry.get("value")
        if "file" in entry:
            with stored.open(entry["file"]) as opened:
                content = opened.read()
            data[path] = content if entry.get("kind") == "bytes" else json.loads(content)
    return changes.contents(), data


class KeptObjects:
    """The memory "objects" of checkpoints: see :class:`~scrapy_state.barrier.parts.Memory`.

    :param kept: what this run begins with
    :param elsewhere: where its files are, if not in this run's own folder
    :param folder: the prefix of this run's files
    """

    name = NAME

    def __init__(
        self, log: SpiderLog, registry: Registry, found: Mapping[str, KeepsState], kept: Kept,
        elsewhere: StoredFiles | None, store: StoreWriter, folder: str, run: str, open_file: Callable[[], IO[bytes]],
    ) -> None:  # fmt: skip
        self._log = log
        self._registry = registry
        self._found = found
        self._changes = [*kept.changes]
        self._components = dict(kept.components)
        self._elsewhere = elsewhere
        self._store = store
        self._folder = folder
        self._run = run
        self._number = 0
        self._open_file = open_file
        self._files = StoredFiles(store, folder, "file", REMEDY, open_file)
        self._merging: asyncio.Task[None] | None = None

    async def opening(self, threads: StoreThreads, retry: Retry) -> Mapping[str, Any] | None:
        """Return None: what the parent says; if this run began elsewhere, copy the files and return what it began with."""
        if self._elsewhere is None:
            return None
        kept = self._kept()
        await threads.run(copy_files, self._elsewhere, kept.files, self._store, self._folder)
        return kept.to_json()

    def snapshot(self, side: Side) -> Snapshot:
        """Return what changes count with *side*, once that is settled, and the components as they are now."""
        changes = self._registry.counted(side)
        try:
            return changes, snapshots(self._found)
        except StateError as error:
            return changes, error

    async def store(
        self, snapshot: Snapshot, threads: StoreThreads, retry: Retry
    ) -> Mapping[str, Any]:  # fmt: skip
        """Store the changes, and what has a file of its own.

        :raises StateError: if that can't be stored, or a component has raised
        """
        changes, taken = snapshot
        if isinstance(taken, StateError):
            raise taken
        if lines := changes():
            self._changes.append(await self._store_changes(lines, threads, retry))
        for path in self._found.keys() - taken.keys():
            self._components.pop(path, None)
        for path, (kind, data) in taken.items():
            self._components[path] = await self._component(path, kind, data, threads, retry)
        return self._kept().to_json()

    def stored(self, threads: StoreThreads) -> None:
        """A checkpoint names all files now: merge some, if there are many. No checkpoint waits for that."""
        found = to_merge([file.bytes for file in self._changes])
        if found is not None and self._merging is None:
            self._merging = asyncio.create_task(self._merge(threads, *found))

    def _kept(self) -> Kept:
        return Kept(tuple(self._changes), dict(self._components))

    async def _store_changes(self, lines: Sequence[str], threads: StoreThreads, retry: Retry) -> StoredFile:
        name, file = f"{self._next_name()}{_CHANGES}", self._open_file()
        with file:
            size, digest = await threads.run(write, lines, file)
            create = partial(threads.run, self._store.create, self._folder + name, file)
            await retry.run("the kept objects", create)
        return StoredFile(name, size, digest)

    async def _component(self, path: str, kind: str, data: bytes, threads: StoreThreads, retry: Retry) -> Mapping[str, Any]:
        if kind == "json" and len(data) <= _INLINE_BYTES:
            return {"value": json.loads(data)}
        digest = sha256(data).hexdigest()
        file: StoredFile | None = self._components.get(path, {}).get("file")
        if file is None or file.digest != f"sha256:{digest}":
            # A new name, even for old content: a prune may be deleting what the last checkpoint doesn't name.
            file = StoredFile(f"{digest}-{self._next_name()}", len(data), f"sha256:{digest}")
            create = partial(threads.run, self._store.create, self._folder + file.name, io.BytesIO(data))
            await retry.run(f"the state of {path}", create)
        return {"kind": kind, "file": file}

    async def _merge(self, threads: StoreThreads, first: int, end: int) -> None:
        chosen, name = self._changes[first:end], f"{self._next_name()}{_CHANGES}"
        try:
            merged = await threads.run(self._merged, chosen, first == 0, name)
        except (StateError, OSError) as error:
            self._log.warning("files of the kept objects could not be merged, so a start will read more files: %s", error)
            return
        finally:
            self._merging = None
        # Only files behind these may have been added since.
        self._changes[first:end] = [merged]

    def _merged(self, chosen: Sequence[StoredFile], is_oldest: bool, name: str) -> StoredFile:
        changes = Changes()
        for file in chosen:
            with self._files.open(file) as opened:
                for change in read(opened):
                    changes.apply(change)
        with self._open_file() as into:
            size, digest = write(changes.lines(is_oldest), into)
            self._store.create(self._folder + name, into)
        return StoredFile(name, size, digest)

    def _next_name(self) -> str:
        self._number += 1
        return f"{self._run}-{self._number:05d}"


def begin(
    registry: Registry, found: Mapping[str, KeepsState], contents: Mapping[str, dict[Any, Any]], data: Mapping[str, Any],
    is_new_crawl: bool, writes: bool,
) -> None:  # fmt: skip
    """Give the objects and the components *found* what the checkpoint has of them. *writes*: whether this run stores.

    :raises StateError: if a component raises
    """
    registry.begin(contents, is_new_crawl, writes)
    for path, each in data.items():
        restore(path, found[path], each)
