"""Roll-ups: archives that keep pruned state files unchanged, by the thousand.

A roll-up lies beside the state files and never changes. Its name is ``<prefix>rollup-<first id>-<last id>.tar.gz``; if text
other than a suffix follows the id in the keys, that text comes before ``.tar.gz``. Its members are whole state files under
their own names, so ``tar xzf`` in the folder undoes a prune.
"""

from __future__ import annotations

import gzip
import io
import os.path
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

from ..exceptions import CheckpointError
from ..model.key_template import ROLLUP_NAME, KeyTemplate
from ..stores import StoreReader


class Rollup(NamedTuple):
    """A roll-up, as its name describes it: *first* and *last* are the ids of its first and last checkpoint."""

    first: int
    last: int
    key: str


class Rollups:
    """The roll-ups beside the state files of a feed. Methods that read block. Memory holds one roll-up at most.

    :param template: the keys of the state files
    """

    def __init__(self, store: StoreReader, template: KeyTemplate) -> None:
        self._store = store
        self._template = template
        self._known: list[Rollup] = []
        self._held: dict[int, bytes] = {}
        self._held_key = ""

    def held(self, id: int) -> bytes | None:
        """Return the state file of checkpoint *id* if the roll-up in memory has it. Does no I/O."""
        return self._held.get(id)

    def read(self, id: int) -> bytes | None:
        """Return the state file of checkpoint *id*; None if no roll-up has it.

        :raises CheckpointError: if the roll-up that should contain it is damaged
        :raises StoreError: if the store does not answer or refuses
        """
        if not any(each.first <= id <= each.last for each in self._known):
            self._known = self.list()
        for each in self._known:
            if each.first <= id <= each.last and (found := self.content(each).get(id)) is not None:
                return found
        return None

    def list(self) -> list[Rollup]:
        """Return all roll-ups, newest first. Lists them once."""
        prefix = self._template.prefix
        if not self._template.writable:
            return []
        found = ((re.fullmatch(ROLLUP_NAME, key[len(prefix) :]), key) for key in self._store.keys(prefix + "rollup-"))
        mark = _mark(self._template)
        rollups = [Rollup(int(match[1]), int(match[2]), key) for match, key in found if match and match[3] == mark]
        return sorted(rollups, key=lambda each: each.last, reverse=True)

    def content(self, rollup: Rollup) -> dict[int, bytes]:
        """Return the state files in *rollup* by id. Blocks.

        :raises CheckpointError: if it is damaged
        """
        if rollup.key != self._held_key:
            data = self._store.read(rollup.key)
            try:
                self._held = {} if data is None else dict(self._unpacked(data))
            except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
                raise CheckpointError(f"{self._store.uri(rollup.key)}: the roll-up is damaged ({error}); restore it") from error
            self._held_key = rollup.key
        return self._held

    def newest_first(self) -> Iterator[tuple[int, bytes]]:
        """Yield the id and the state file of every checkpoint in a roll-up."""
        for rollup in self.list():
            yield from sorted(self.content(rollup).items(), reverse=True)

    def _unpacked(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        folder = _folder(self._template)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as packed:
            for member in packed:
                id, content = self._template.id_of(folder + member.name), packed.extractfile(member)
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
    after = "".join(each for each in template.rest if isinstance(each, str))
    return os.path.splitext(after)[0].replace("/", "_") if after[:1] != "." else ""


def _folder(template: KeyTemplate) -> str:
    folder = os.path.dirname(template.prefix)
    return folder if folder in ("", "/") else folder + "/"
