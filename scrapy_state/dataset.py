"""The item files that a lineage names: listing them, reading their items, checking them."""

from __future__ import annotations

import io
import json
import tempfile
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .checkpoint import Checkpoint, ItemFile
from .decode import Decoder
from .exceptions import CheckpointError, StateSettingsError
from .history import ReadsAhead, ahead
from .keys import KeyTemplate
from .patience import patiently
from .resolver import ancestors
from .stores import StoreReader, open_reader
from .stores.stream import StoredFile

#: How much of a file is read at once
_PART_BYTES = 4 * 1024 * 1024


class Moved:
    """Where item files lie now, if they have been moved since they were stored.

    :param pairs: ``OLD=NEW`` texts: a URI that began with OLD begins with NEW now. Either may be a path
    :raises StateSettingsError: if one has no ``=``
    """

    def __init__(self, pairs: Sequence[str]) -> None:
        self._pairs = [_pair(each) for each in pairs]

    def uri(self, uri: str) -> str:
        """Return where the file *uri* lies now."""
        return next((new + uri[len(old) :] for old, new in self._pairs if uri.startswith(old)), uri)

    def file(self, file: ItemFile) -> ItemFile:
        """Return *file* with the URI at which it lies now."""
        return replace(file, uri=self.uri(file.uri)) if self._pairs else file


def _pair(text: str) -> tuple[str, str]:
    # URIs may contain "=" (dt=2026-11-20/), so split where the rest looks like a URI or a path.
    places = [at for at, sign in enumerate(text) if sign == "="]
    at = next((at for at in places if text[at + 1 :].startswith(("/", ".")) or "://" in text[at + 1 :]), (places or [0])[0])
    if not at:
        raise StateSettingsError(f"--map {text!r} is not OLD=NEW, as in s3://bucket/items/=/mnt/items/")
    return _as_uri(text[:at]), _as_uri(text[at + 1 :])


def _as_uri(text: str) -> str:
    if "://" in text:
        return text
    return Path(text).absolute().as_uri() + ("/" if text.endswith("/") else "")


class Lineage:
    """The item files along a lineage, oldest first. A lineage is read newest first, so a temporary file keeps the list.

    :param checkpoints: newest first, as :func:`~scrapy_state.resolver.ancestors` yields them
    """

    def __init__(self, checkpoints: Iterable[Checkpoint]) -> None:
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        self._starts = array("Q")
        #: how many checkpoints there are
        self.checkpoints = 0
        #: the ids of those that did not start where their parent ended
        self.overlaps: list[int | None] = []
        #: the oldest checkpoint
        self.first: Checkpoint | None = None
        for checkpoint in checkpoints:
            self.first = checkpoint
            self.checkpoints += 1
            if checkpoint.overlap:
                self.overlaps.append(checkpoint.id)
            for file in reversed(checkpoint.files):
                self._starts.append(self._spool.tell())
                self._spool.write(json.dumps(file.to_json()).encode() + b"\n")

    @property
    def parent_missing(self) -> int | None:
        """The id of the missing parent at which the lineage breaks off; None if it is complete."""
        return self.first.parent if self.first is not None else None

    def files(self) -> Iterator[ItemFile]:
        """Yield the files, oldest first."""
        for start in reversed(self._starts):
            self._spool.seek(start)
            yield ItemFile.from_json(json.loads(self._spool.readline()))


def lineage_of(store: StoreReader, template: KeyTemplate, newest: Checkpoint, step: Callable[[], object]) -> Lineage:
    """Read the lineage of *newest*. Blocks.

    :param step: called for each checkpoint that has been read

    :raises CheckpointError: as :func:`~scrapy_state.resolver.ancestors`
    :raises StoreError: if the store does not answer or refuses
    """
    reads = ReadsAhead(store, template)
    try:
        return Lineage(_stepping(ancestors(reads, template, newest), step))
    finally:
        reads.close()


def items_of(
    files: Iterable[ItemFile], decoder: Decoder, settings: Mapping[str, Any]
) -> Iterator[tuple[ItemFile, Iterator[bytes]]]:
    """Yield each file with its items, without those to skip. Read the items before asking for the next file. Blocks.

    :param settings: Scrapy's AWS_* settings are read from it
    :raises CheckpointError: if a file is missing, or differs from what the checkpoint says
    :raises StoreError: if a store does not answer or refuses
    """
    for file in files:
        store, key = open_reader(file.uri, settings)
        if store.read_part(key, 0, 1) is None:
            raise CheckpointError("the file is missing", uri=file.uri, remedy="if it was moved, say where to: --map OLD=NEW")
        read = partial(_read_part, store, key)
        with io.BufferedReader(StoredFile(read), _PART_BYTES) as stream:
            yield file, decoder.items(file, stream)


def _read_part(store: StoreReader, key: str, begin: int, size: int) -> bytes | None:
    return patiently(lambda: store.read_part(key, begin, size))


class Problem(NamedTuple):
    """Something wrong that :class:`Verification` found."""

    uri: str
    why: str


class Verification:
    """Checks a lineage and the files it names, and counts what it has checked.

    :param settings: Scrapy's AWS_* settings are read from it
    :param moved: where the files lie now
    :param deep: whether to count the items in each file
    :param format: of the files, as for :class:`~scrapy_state.decode.Decoder`
    """

    def __init__(
        self,
        store: StoreReader,
        template: KeyTemplate,
        settings: Mapping[str, Any],
        moved: Moved,
        deep: bool,
        format: str | None,
    ) -> None:
        self._store, self._template, self._settings = store, template, settings
        self._moved, self._deep, self._format = moved, deep, format
        self._problems: deque[Problem] = deque()
        self.checkpoints = self.files = self.items = self.bytes = 0
        #: how many files had their items counted, and how many have a format in which items can't be counted
        self.counted = self.not_counted = 0

    def problems(self, newest: Checkpoint) -> Iterator[Problem | None]:
        """Check each checkpoint, newest first, and each file it names. Blocks.

        Yields each problem, and None after each step.

        :raises StoreError: if a store does not answer or refuses
        """
        reads = ReadsAhead(self._store, self._template)
        try:
            for (checkpoint, file), wrong in ahead(self._wrong_size, self._files(reads, newest)):
                if file is not None:
                    self._note(checkpoint, file, wrong)
                while self._problems:
                    yield self._problems.popleft()
                yield None
        finally:
            reads.close()
        yield from self._problems

    def _files(self, reads: StoreReader, newest: Checkpoint) -> Iterator[tuple[Checkpoint, ItemFile | None]]:
        """Yield each checkpoint without a file, then with each of its files."""
        child: Checkpoint | None = None
        try:
            for checkpoint in ancestors(reads, self._template, newest):
                self.checkpoints += 1
                yield checkpoint, None
                if child is not None:
                    self._check_items(child, checkpoint)
                child = checkpoint
                yield from ((checkpoint, self._moved.file(each)) for each in checkpoint.files)
        except CheckpointError as error:
            self._problems.append(Problem(self._store.uri(self._template.prefix), f"the lineage breaks off: {error}"))
            return
        if child is not None and child.parent is not None:
            missing = self._store.uri(self._template.key(child.parent))
            self._problems.append(Problem(missing, f"is missing; it is the parent of checkpoint {child.id}"))

    def _check_items(self, child: Checkpoint, parent: Checkpoint) -> None:
        items = parent.items + sum(each.counted for each in child.files)
        if child.digest is not None and child.items != items:
            uri = self._store.uri(self._template.key(child.id or 0))
            self._problems.append(Problem(uri, f"counts {child.items} items, but its parent and its files have {items}"))

    def _wrong_size(self, each: tuple[Checkpoint, ItemFile | None]) -> str | None:
        return None if each[1] is None else _wrong_size(each[1], self._settings)

    def _note(self, checkpoint: Checkpoint, file: ItemFile, wrong: str | None) -> None:
        self.files += 1
        self.items += file.counted
        self.bytes += file.bytes or 0
        if wrong:
            self._problems.append(Problem(file.uri, f"{wrong}; checkpoint {checkpoint.id} names it"))
        elif self._deep:
            try:
                for _, items in items_of([file], Decoder(self._format), self._settings):
                    deque(items, maxlen=0)
                self.counted += 1
            except StateSettingsError:
                self.not_counted += 1
            except CheckpointError as error:
                self._problems.append(Problem(file.uri, error.reason))


def _wrong_size(file: ItemFile, settings: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a file's size, None if nothing is. Asks only for its last byte and one more."""
    store, key = open_reader(file.uri, settings)
    last = max((file.bytes or 0) - 1, 0)
    end = patiently(lambda: store.read_part(key, last, 2))
    if end is None:
        return "is not there"
    if file.bytes is None or len(end) == min(file.bytes, 1):
        return None
    return f"has {'fewer' if not end else 'more'} than {file.bytes} bytes"


def _stepping(checkpoints: Iterable[Checkpoint], step: Callable[[], object]) -> Iterator[Checkpoint]:
    for each in checkpoints:
        yield each
        step()
