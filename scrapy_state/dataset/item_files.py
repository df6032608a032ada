"""The item files that a lineage names: listing them, reading their items."""

from __future__ import annotations

import io
import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from ..exceptions import CheckpointError
from ..lineage.chain import ancestors
from ..lineage.read_ahead import ReadsAhead
from ..model.checkpoint import Checkpoint
from ..model.item_file import ItemFile
from ..model.key_template import KeyTemplate
from ..stores import StoreReader, open_reader
from ..stores.retry import patiently
from ..stores.stream import StoredFile
from .decode import Decoder

#: How much of a file is read at once
_PART_BYTES = 4 * 1024 * 1024


class Lineage:
    """The item files along a lineage, oldest first. A lineage is read newest first, so a temporary file keeps the list.

    :param checkpoints: newest first, as :func:`~scrapy_state.lineage.chain.ancestors` yields them
    :param crawl: only the files of the crawl with this number; nothing older is read. None: of all crawls
    """

    def __init__(self, checkpoints: Iterable[Checkpoint], crawl: int | None = None) -> None:
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        self._starts = array("Q")
        #: how many checkpoints there are, and how many items, without those to skip
        self.checkpoints = self.items = 0
        #: the ids of the checkpoints that did not start where their parent ended
        self.overlaps: list[int | None] = []
        #: the oldest checkpoint
        self.first: Checkpoint | None = None
        self._ends_at_a_crawl = False
        for checkpoint in checkpoints:
            number = crawl_of(checkpoint)
            if crawl is not None and number < crawl:
                self._ends_at_a_crawl = True
                break
            self.first = checkpoint
            if crawl in (None, number):
                self._add(checkpoint)

    def _add(self, checkpoint: Checkpoint) -> None:
        self.checkpoints += 1
        if checkpoint.overlap:
            self.overlaps.append(checkpoint.id)
        for file in reversed(checkpoint.files):
            self.items += file.counted
            self._starts.append(self._spool.tell())
            self._spool.write(json.dumps(file.to_json()).encode() + b"\n")

    @property
    def parent_missing(self) -> int | None:
        """The id of the missing parent at which the lineage breaks off; None if it is complete."""
        return None if self.first is None or self._ends_at_a_crawl else self.first.parent

    def files(self) -> Iterator[ItemFile]:
        """Yield the files, oldest first."""
        for start in reversed(self._starts):
            self._spool.seek(start)
            yield ItemFile.from_json(json.loads(self._spool.readline()))


def crawl_of(checkpoint: Checkpoint) -> int:
    """Return the number of the crawl. Checkpoints from before crawls were counted belong to crawl 1."""
    return 1 if checkpoint.crawl is None else checkpoint.crawl


def lineage_of(
    store: StoreReader, template: KeyTemplate, newest: Checkpoint, step: Callable[[], object], crawl: int | None = None
) -> Lineage:
    """Read the lineage of *newest*. Blocks.

    :param step: called for each checkpoint that has been read
    :param crawl: as for :class:`Lineage`

    :raises CheckpointError: as :func:`~scrapy_state.lineage.chain.ancestors`
    :raises StoreError: if the store does not answer or refuses
    """
    reads = ReadsAhead(store, template)
    try:
        return Lineage(_stepping(ancestors(reads, template, newest), step), crawl)
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


def _stepping(checkpoints: Iterable[Checkpoint], step: Callable[[], object]) -> Iterator[Checkpoint]:
    for checkpoint in checkpoints:
        yield checkpoint
        step()
