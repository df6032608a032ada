"""Checking that the item files of a lineage exist and are whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..exceptions import CheckpointError, StateSettingsError
from ..lineage.chain import ancestors
from ..lineage.read_ahead import ReadsAhead, ahead
from ..model.checkpoint import Checkpoint
from ..model.item_file import ItemFile
from ..model.key_template import KeyTemplate
from ..stores import StoreReader, open_reader
from ..stores.retry import patiently
from .decode import Decoder
from .item_files import items_of
from .moved import Moved


class Problem(NamedTuple):
    """What is wrong with a file, as :class:`Verification` reports it."""

    uri: str
    why: str


class Verification:
    """Checks a lineage and the files it names, and counts what it has checked.

    :param settings: Scrapy's AWS_* settings are read from it
    :param moved: where the files are now
    :param deep: whether to count the items in each file
    :param format: of the files, as for :class:`~scrapy_state.dataset.decode.Decoder`
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
        #: where the files are: scheme and host (or bucket)
        self.homes: set[str] = set()
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
                yield from ((checkpoint, self._moved.file(file)) for file in checkpoint.files)
        except CheckpointError as error:
            self._problems.append(Problem(self._store.uri(self._template.prefix), f"the lineage breaks off: {error}"))
            return
        if child is not None and child.parent is not None:
            missing = self._store.uri(self._template.key(child.parent))
            self._problems.append(Problem(missing, f"is missing; it is the parent of checkpoint {child.id}"))

    def _check_items(self, child: Checkpoint, parent: Checkpoint) -> None:
        items = parent.items + sum(file.counted for file in child.files)
        if child.digest is not None and child.items != items:
            uri = self._store.uri(self._template.key(child.id or 0))
            self._problems.append(Problem(uri, f"counts {child.items} items, but its parent and its files have {items}"))

    def _wrong_size(self, named: tuple[Checkpoint, ItemFile | None]) -> str | None:
        _, file = named
        return None if file is None else _wrong_size(file, self._settings)

    def _note(self, checkpoint: Checkpoint, file: ItemFile, wrong: str | None) -> None:
        self.files += 1
        self.items += file.counted
        self.bytes += file.bytes or 0
        self.homes.add(home_of(file.uri))
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


def home_of(uri: str) -> str:
    """Return the part of *uri* before its path: "s3://bucket"."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}"


def _wrong_size(file: ItemFile, settings: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a file's size; None if it is right. Reads only the last byte, and one more."""
    store, key = open_reader(file.uri, settings)
    last = max((file.bytes or 0) - 1, 0)
    end = patiently(lambda: store.read_part(key, last, 2))
    if end is None:
        return "is not there"
    if file.bytes is None or len(end) == min(file.bytes, 1):
        return None
    return f"has {'fewer' if not end else 'more'} than {file.bytes} bytes"
