"""Roll-ups: archives that keep pruned state files unchanged, by the thousand.

A roll-up is stored next to the state files and never changes. Its name is ``<prefix>rollup-<first id>-<last id>.tar.gz``; if
text other than a suffix follows the id in the keys, that text comes before ``.tar.gz``. Its members are whole state files under
their own names, so ``tar xzf`` in the folder undoes a prune.
"""

from __future__ import annotations

import gzip
import io
import math
import os.path
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from operator import attrgetter
from typing import IO, NamedTuple

from ..exceptions import CheckpointError
from ..model.key_template import ROLLUP_NAME, KeyTemplate
from ..stores import StoreReader


class Rollup(NamedTuple):
    """A roll-up, as its name describes it: *first* and *last* are the ids of its first and last checkpoint."""

    first: int
    last: int
    key: str


class StoreWithRollups:
    """The read side of a store in which pruned state files still seem to exist: it reads them from their roll-ups.

    ``keys()`` doesn't list them: that would take reading every roll-up. :meth:`newest_first` yields them in their turn.

    :param template: the keys of the state files
    """

    def __init__(self, store: StoreReader, template: KeyTemplate) -> None:
        self._store, self._template = store, template
        self._rollups = Rollups(store, template)
        self.uri, self.keys, self.read_part = store.uri, store.keys, store.read_part
        self.ordered = store.ordered

    def read(self, key: str) -> bytes | None:
        """See :class:`~scrapy_state.stores.base.StoreReader`.

        :raises CheckpointError: if the roll-up that should contain *key* is damaged
        """
        id = self._template.id_of(key) if self._template.writable else None
        if id is None:
            return self._store.read(key)
        data = self._rollups.in_memory(id)  # whoever follows a lineage into a roll-up needs the next ones from there, too
        if data is None:
            data = self._store.read(key)
        if data is None:  # only now: prune deletes a state file after its roll-up is stored
            data = self._rollups.read(id)
        return data

    def newest_pruned(self) -> int:
        """Return the newest id in a roll-up; 0 if there are no roll-ups. Up to there, ids may be missing. Blocks."""
        return max((rollup.last for rollup in self._rollups.list()), default=0)

    def newest_first(self, stored: Iterable[tuple[str, bytes | None]]) -> Iterator[tuple[str, bytes]]:
        """Yield the key and the content of every state file, newest first. Reads a roll-up when its turn comes.

        :param stored: the state files that are not in roll-ups, newest first; None for one that has just been deleted
        """
        pruned = _Pruned(self._rollups)
        for number, (key, data) in enumerate(stored):
            if number == 0 or data is None:
                pruned.look_for_rollups()
            if data is None:
                continue
            id = self._template.id_of(key)
            if id is not None:
                yield from ((self._template.key(older), content) for older, content in pruned.down_to(id))
                pruned.oldest_yielded = id
            yield key, data
        pruned.look_for_rollups()
        yield from ((self._template.key(id), content) for id, content in pruned.down_to(0))


class _Pruned:
    """The state files in roll-ups, newest first."""

    def __init__(self, rollups: Rollups) -> None:
        self._rollups = rollups
        self._known: set[Rollup] = set()
        self._unread: list[Rollup] = []
        #: minus the id, so that the newest comes first, and the content
        self._read: list[tuple[int, bytes]] = []
        #: the last id yielded, from here or elsewhere: a killed prune leaves files that are also in a roll-up
        self.oldest_yielded: float = math.inf

    def look_for_rollups(self) -> None:
        """List the roll-ups, and add those that are new."""
        new = set(self._rollups.list()) - self._known
        self._known |= new
        self._unread = sorted([*self._unread, *new], key=attrgetter("last"), reverse=True)

    def down_to(self, id: int) -> Iterator[tuple[int, bytes]]:
        """Yield the state files newer than *id* that have not been yielded."""
        while True:
            newest_read = -self._read[0][0] if self._read else 0
            if self._unread and self._unread[0].last > max(newest_read, id):
                for read, data in self._rollups.content(self._unread.pop(0)).items():
                    heappush(self._read, (-read, data))
            elif newest_read <= id:
                return
            else:
                _, data = heappop(self._read)
                if newest_read < self.oldest_yielded:
                    self.oldest_yielded = newest_read
                    yield newest_read, data


class Rollups:
    """The roll-ups next to the state files of a feed. Methods that read block. Memory holds one roll-up at most.

    :param template: the keys of the state files
    """

    def __init__(self, store: StoreReader, template: KeyTemplate) -> None:
        self._store = store
        self._template = template
        self._known: list[Rollup] = []
        self._content: dict[int, bytes] = {}
        self._content_key = ""

    def in_memory(self, id: int) -> bytes | None:
        """Return the state file of checkpoint *id* if the roll-up in memory has it. Does no I/O."""
        return self._content.get(id)

    def read(self, id: int) -> bytes | None:
        """Return the state file of checkpoint *id*; None if no roll-up has it.

        :raises CheckpointError: if the roll-up that should contain it is damaged
        :raises StoreError: if the store does not answer or refuses
        """
        if not any(rollup.first <= id <= rollup.last for rollup in self._known):
            self._known = self.list()
        for rollup in self._known:
            if rollup.first <= id <= rollup.last and (data := self.content(rollup).get(id)) is not None:
                return data
        return None

    def list(self) -> list[Rollup]:
        """Return all roll-ups, newest first. Lists them once."""
        prefix = self._template.prefix
        if not self._template.writable:
            return []
        matches = ((re.fullmatch(ROLLUP_NAME, key[len(prefix) :]), key) for key in self._store.keys(prefix + "rollup-"))
        mark = _mark(self._template)
        rollups = [Rollup(int(match[1]), int(match[2]), key) for match, key in matches if match and match[3] == mark]
        return sorted(rollups, key=attrgetter("last"), reverse=True)

    def content(self, rollup: Rollup) -> dict[int, bytes]:
        """Return the state files in *rollup* by id. Blocks.

        :raises CheckpointError: if it is damaged
        """
        if rollup.key != self._content_key:
            data = self._store.read(rollup.key)
            try:
                self._content = {} if data is None else dict(self._unpacked(data))
            except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
                raise CheckpointError(
                    f"the roll-up is damaged ({error})", uri=self._store.uri(rollup.key), remedy="restore it"
                ) from error
            self._content_key = rollup.key
        return self._content

    def _unpacked(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        folder = _folder(self._template)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                id, content = self._template.id_of(folder + member.name), archive.extractfile(member)
                if id is not None and content is not None:
                    yield id, content.read()


def rollup_key(template: KeyTemplate, first: int, last: int) -> str:
    """Return the key of the roll-up of the checkpoints from *first* to *last*."""
    return f"{template.prefix}rollup-{first:010d}-{last:010d}{_mark(template)}.tar.gz"


def pack(template: KeyTemplate, files: Iterable[tuple[str, bytes]], packed: IO[bytes]) -> None:
    """Write a roll-up of *files*, pairs of key and content in order, to *packed*.

    The same files always give the same bytes, so a prune that was killed can store the same roll-up again.
    """
    folder = _folder(template)
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for key, content in files:
            member = tarfile.TarInfo(key[len(folder) :])
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _mark(template: KeyTemplate) -> str:
    """Return the text after the id in the keys of *template*: "-flights" for ``state/%(batch_id)010d-flights.json``."""
    after = "".join(part for part in template.rest if isinstance(part, str))
    return os.path.splitext(after)[0].replace("/", "_") if after[:1] != "." else ""


def _folder(template: KeyTemplate) -> str:
    folder = os.path.dirname(template.prefix)
    return folder if folder in ("", "/") else folder + "/"
