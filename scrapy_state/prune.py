"""Fewer state files: the older ones are packed into roll-ups, then deleted.

Killed at any point it leaves a whole history: a roll-up is stored, and read back, before any of its files is deleted. Started
again, it goes on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from .checkpoint import Checkpoint
from .exceptions import CheckpointError
from .history import ahead
from .keys import KeyTemplate
from .rollup import Rollup, Rollups, pack, rollup_key
from .stores import StoreReader, StoreWriter
from .stores.base import keys_within

#: A roll-up is read whole, so it holds at most so many state files, and so many bytes of them.
ROLLUP_FILES, ROLLUP_BYTES = 10_000, 32 * 1024 * 1024


class Pruned:
    """What :func:`roll_up` has done so far."""

    def __init__(self) -> None:
        #: URIs of the roll-ups it stored
        self.rollups: list[str] = []
        #: how many state files are in these
        self.rolled_up = 0
        #: how many it deleted
        self.deleted = 0
        #: (URI, why) of files that are no checkpoints, and stay
        self.left: list[tuple[str, str]] = []


def prunable(
    store: StoreReader, template: KeyTemplate, newest_id: int, *, keep: int | None = None, before: datetime | None = None
) -> list[str]:
    """Return the keys of the state files to prune, oldest first. Blocks: they are all listed.

    Never the newest valid checkpoint (*newest_id*), nor what is newer: a run goes on from it, and ids count on from there.

    :param keep: all but the newest so many
    :param before: those made before that time, up to the first one that was not
    :raises StoreError: if the store does not answer or refuses
    """
    keys = template.in_order(keys_within(store, template.prefix, template.depth))
    if keep is not None:
        keys = keys[:-keep]
    keys = [key for key in keys if (template.id_of(key) or newest_id) < newest_id]
    if before is None:
        return keys
    for place, (_, data) in enumerate(ahead(store.read, keys)):
        made = _time(data)
        if made is not None and made >= before:
            return keys[:place]
    return keys


def roll_up(
    store: StoreWriter, template: KeyTemplate, keys: Sequence[str], pruned: Pruned, step: Callable[[], object] = lambda: None
) -> None:
    """Pack the state files *keys*, oldest first, into roll-ups, and delete them. Blocks.

    What is no valid checkpoint stays where it is. What is in a roll-up already is only deleted.

    :param pruned: filled in as it goes; *step* is called for each file that is read
    :raises CheckpointTooNew: for a file that a later scrapy_state stored
    :raises CheckpointError: if a roll-up is damaged
    :raises StoreError: if the store does not answer or refuses
    """
    rollups = Rollups(store, template)
    known = rollups.list()
    pending: list[tuple[str, bytes]] = []
    done: list[str] = []
    size = 0
    for key, data in ahead(store.read, keys):
        step()
        if data is None:  # somebody else prunes too
            continue
        try:
            Checkpoint.from_bytes(data)
        except CheckpointError as error:
            pruned.left.append((store.uri(key), str(error)))
            continue
        id = template.id_of(key) or 0
        if any(rollups.content(each).get(id) == data for each in known if each.first <= id <= each.last):
            done.append(key)
            continue
        pending.append((key, data))
        size += len(data)
        if len(pending) >= ROLLUP_FILES or size >= ROLLUP_BYTES:
            _store(store, template, pending, pruned)
            pending, size = [], 0
    _delete(store, done, pruned)
    if pending:
        _store(store, template, pending, pruned)


def _store(store: StoreWriter, template: KeyTemplate, files: list[tuple[str, bytes]], pruned: Pruned) -> None:
    ids = [template.id_of(key) or 0 for key, _ in files]
    rollup = Rollup(ids[0], ids[-1], rollup_key(template, ids[0], ids[-1]))
    with tempfile.TemporaryFile() as packed:
        pack(template, files, packed)
        store.create(rollup.key, packed)
    if Rollups(store, template).content(rollup) != {id: data for id, (_, data) in zip(ids, files, strict=True)}:
        raise CheckpointError(f"{store.uri(rollup.key)}: the roll-up does not hold what was stored; nothing was deleted")
    pruned.rollups.append(store.uri(rollup.key))
    pruned.rolled_up += len(files)
    _delete(store, [key for key, _ in files], pruned)


def _delete(store: StoreWriter, keys: Sequence[str], pruned: Pruned) -> None:
    for _ in ahead(store.delete, keys):
        pruned.deleted += 1


def _time(data: bytes | None) -> datetime | None:
    try:
        text = "" if data is None else Checkpoint.from_bytes(data).time or ""
        made = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (CheckpointError, ValueError):
        return None
    return made if made.tzinfo else made.replace(tzinfo=timezone.utc)
