"""Reducing the number of state files: older ones are packed into roll-ups, then deleted.

A prune that is killed leaves a complete history: it stores all roll-ups, and reads them back, before it deletes any file. The
next prune continues where it stopped. This is not part of archive.py, which every crawl uses: only a prune may delete.
"""

from __future__ import annotations

import io
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from ..exceptions import CheckpointError
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate
from ..model.times import parse_time
from ..stores import StoreReader, StoreWriter
from ..stores.base import keys_within
from ..stores.temporary_names import StoredName, StoredNames
from .archive import Rollup, Rollups, pack, rollup_key
from .read_ahead import ahead

#: How many state files, and how many bytes of them, a roll-up holds at most: it is read whole.
ROLLUP_FILES, ROLLUP_BYTES = 10_000, 32 * 1024 * 1024


class _File(NamedTuple):
    at: int
    key: str
    data: bytes


class Pruned:
    """The progress of :func:`roll_up`."""

    def __init__(self) -> None:
        #: URIs of the roll-ups stored
        self.rollups: list[str] = []
        #: how many state files they contain
        self.rolled_up = 0
        #: how many state files were deleted
        self.deleted = 0
        #: how many files that checkpoints name beside item files were deleted, such as segments of requests
        self.stored = 0
        #: (URI, why) of files that are not checkpoints; they stay
        self.left: list[tuple[str, str]] = []


def prunable(
    store: StoreReader, template: KeyTemplate, newest_id: int, *, keep: int | None = None, before: datetime | None = None
) -> Sequence[str]:
    """Return the keys of the state files to prune, oldest first. Blocks while it lists them all.

    Never includes the newest valid checkpoint (*newest_id*) or anything newer: runs resume and count from there.

    :param template: one that can be written
    :param keep: how many of the newest to keep
    :param before: prune only files made before this time, up to the first one that was not
    :raises StoreError: if the store does not answer or refuses
    """
    keys = template.in_order(keys_within(store, template.prefix, template.depth))
    if keep is not None:
        keys = keys[:-keep]
    keys = keys[: bisect_left(keys, newest_id, key=lambda key: template.id_of(key) or newest_id)]
    if before is None:
        return keys
    for index, (_, data) in enumerate(ahead(store.read, keys)):
        made = _time(data)
        if made is not None and made >= before:
            return keys[:index]
    return keys


def roll_up(
    store: StoreWriter,
    template: KeyTemplate,
    keys: Sequence[str],
    pruned: Pruned,
    step: Callable[[], object] = lambda: None,
    drop: Callable[[StoredNames], object] = lambda stored: None,
) -> None:
    """Pack the state files *keys*, oldest first, into roll-ups, and delete them. Blocks.

    Files that are not valid checkpoints stay where they are. Files that a roll-up already contains are only deleted.

    :param pruned: filled in along the way
    :param step: called for each file that has been read
    :param drop: called with the files that the state files name beside item files, before those are deleted: so a prune that
        is killed is followed by one that still knows the names
    :raises CheckpointTooNew: if a newer scrapy_state stored one of the files
    :raises CheckpointError: if a roll-up is damaged
    :raises StoreError: if the store does not answer or refuses
    """
    rollups = Rollups(store, template)
    known = rollups.list()
    pending: list[_File] = []
    done = array("Q")  # indexes of *keys*
    stored = StoredNames()
    size = 0
    for at, (key, data) in enumerate(ahead(store.read, keys)):
        step()
        if data is None:  # another prune is running
            continue
        try:
            stored.update(_stored(data))
        except CheckpointError as error:
            pruned.left.append((store.uri(key), str(error)))
            continue
        id = template.id_of(key) or 0
        if any(rollups.content(rollup).get(id) == data for rollup in known if rollup.first <= id <= rollup.last):
            done.append(at)
            continue
        pending.append(_File(at, key, data))
        size += len(data)
        if len(pending) >= ROLLUP_FILES or size >= ROLLUP_BYTES:
            done.extend(_store(store, template, pending, pruned))
            pending, size = [], 0
    if pending:
        done.extend(_store(store, template, pending, pruned))
    drop(stored)
    for _ in ahead(store.delete, (keys[at] for at in done)):
        pruned.deleted += 1


def leave_signpost(store: StoreWriter, template: KeyTemplate, newest: Checkpoint) -> None:
    """Say under *store* which checkpoint is the newest, so that a start finds it in one page, however many there are. Blocks.

    This is a hint. Without it, or if it is old, a start takes more requests. So a prune may be killed at any moment.

    :param newest: the newest of all state files, which is a valid checkpoint with a valid parent
    :raises StoreError: if the store does not answer or refuses
    """
    if not store.ordered or newest.digest is None or newest.id is None or len(str(newest.id)) > template.width:
        return
    key = template.signpost(newest.id, newest.digest)
    older = [each for each in store.keys(template.key(0)) if each < key and template.signposted(each)]
    store.create(key, io.BytesIO())
    for each in older:
        store.delete(each)


def keep_needed(states: StoreReader, template: KeyTemplate, keys: Sequence[str], stored: StoredNames) -> None:
    """Remove from *stored* what a checkpoint other than *keys* names, on whatever branch. Blocks.

    :param states: the store of the state files; *template*: their keys
    :raises CheckpointTooNew: if a newer scrapy_state stored one of the other checkpoints
    :raises StoreError: if the store does not answer or refuses
    """
    if not stored:
        return
    others = (key for key in template.in_order(keys_within(states, template.prefix, template.depth)) if key not in keys)
    for _, data in ahead(states.read, others):
        with suppress(CheckpointError):  # a torn file is no checkpoint
            stored.remove(_stored(data))


def delete_stored(store: StoreWriter, keys: Iterable[str], pruned: Pruned) -> None:
    """Delete files that checkpoints name beside item files. Blocks.

    :raises StoreError: if the store does not answer or refuses
    """
    for _ in ahead(store.delete, keys):
        pruned.stored += 1


def _store(store: StoreWriter, template: KeyTemplate, files: list[_File], pruned: Pruned) -> Iterable[int]:
    """Store a roll-up of *files*, read it back, and return their indexes."""
    ids = [template.id_of(file.key) or 0 for file in files]
    rollup = Rollup(ids[0], ids[-1], rollup_key(template, ids[0], ids[-1]))
    with tempfile.TemporaryFile() as packed:
        pack(template, ((file.key, file.data) for file in files), packed)
        store.create(rollup.key, packed)
    if Rollups(store, template).content(rollup) != {id: file.data for id, file in zip(ids, files, strict=True)}:
        raise CheckpointError("the roll-up differs from what was stored; nothing was deleted", uri=store.uri(rollup.key))
    pruned.rollups.append(store.uri(rollup.key))
    pruned.rolled_up += len(files)
    return (file.at for file in files)


def _stored(data: bytes | None) -> set[StoredName]:
    stored = {} if data is None else Checkpoint.from_bytes(data).stored
    return {(folder, file.name) for folder, files in stored.items() for file in files}


def _time(data: bytes | None) -> datetime | None:
    try:
        return None if data is None else parse_time(Checkpoint.from_bytes(data).time)
    except CheckpointError:
        return None
