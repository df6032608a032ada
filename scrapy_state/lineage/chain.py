"""Reading checkpoints: one, also from a roll-up, and those it descends from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..exceptions import CheckpointError
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate
from ..stores import StoreReader
from .archive import Rollups


def read_checkpoint(store: StoreReader, template: KeyTemplate, key: str) -> Checkpoint | None:
    """Read one checkpoint; None if there is none. Its id is the one in its key.

    :raises CheckpointError: if it is there and not valid
    :raises StoreError: if the store does not answer or refuses
    """
    data = store.read(key)
    if data is None:
        return None
    checkpoint = Checkpoint.from_bytes(data)
    return replace(checkpoint, id=template.id_of(key) or checkpoint.id)


def find_checkpoint(store: StoreReader, template: KeyTemplate, id: int, rollups: Rollups | None = None) -> Checkpoint | None:
    """Read checkpoint *id*, also one that was pruned; None if there is none.

    :param rollups: give the same one again when several are read
    :raises CheckpointError: if it is there and not valid
    :raises StoreError: if the store does not answer or refuses
    """
    rollups = Rollups(store, template) if rollups is None else rollups
    data = rollups.held(id)
    if data is None:
        data = store.read(template.key(id))
    if data is None:  # only now: prune deletes a state file after its roll-up is stored
        data = rollups.read(id)
    return None if data is None else replace(Checkpoint.from_bytes(data), id=id)


def lineage(store: StoreReader, template: KeyTemplate, newest: Checkpoint) -> list[Checkpoint]:
    """Return *newest* and its parents, newest first, as far back as they are stored. Blocks: a read for each.

    :raises CheckpointError: if a parent is not valid, or is not the one that its child names
    :raises StoreError: if the store does not answer or refuses
    """
    return list(ancestors(store, template, newest))


def ancestors(store: StoreReader, template: KeyTemplate, newest: Checkpoint) -> Iterator[Checkpoint]:
    """Yield what :func:`lineage` returns, reading no further than it is asked for."""
    rollups = Rollups(store, template)
    child: Checkpoint | None = newest
    while child is not None:
        yield child
        if child.parent is None or not template.rest:
            return
        if child.id is not None and child.parent >= child.id:
            raise CheckpointError(f"checkpoint {child.id} names checkpoint {child.parent} as its parent, which came later")
        parent = find_checkpoint(store, template, child.parent, rollups)
        if parent is not None and child.parent_digest not in (None, parent.digest):
            raise CheckpointError(f"checkpoint {child.parent} is not the parent that checkpoint {child.id} names")
        child = parent
