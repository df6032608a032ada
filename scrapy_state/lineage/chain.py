"""Reading checkpoints: one, also from a roll-up, and those it descends from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..exceptions import CheckpointError
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate
from ..stores import StoreReader
from .archive import StoreWithRollups


def read_checkpoint(store: StoreReader, template: KeyTemplate, key: str) -> Checkpoint | None:
    """Read the state file *key*; None if it does not exist. The checkpoint's id is the one in the key.

    :raises CheckpointError: if the file is not a valid checkpoint
    :raises StoreError: if the store does not answer or refuses
    """
    data = store.read(key)
    if data is None:
        return None
    checkpoint = Checkpoint.from_bytes(data)
    return replace(checkpoint, id=template.id_of(key) or checkpoint.id)


def find_checkpoint(store: StoreReader, template: KeyTemplate, id: int) -> Checkpoint | None:
    """Read checkpoint *id*, also one that was pruned; None if it does not exist.

    :raises CheckpointError: if the file is not a valid checkpoint
    :raises StoreError: if the store does not answer or refuses
    """
    return read_checkpoint(StoreWithRollups(store, template), template, template.key(id))


def lineage(store: StoreReader, template: KeyTemplate, newest: Checkpoint) -> list[Checkpoint]:
    """Return *newest* and its ancestors, newest first, as far back as they are stored. Blocks: one read for each.

    :raises CheckpointError: if an ancestor is not valid, or is not the parent that its child names
    :raises StoreError: if the store does not answer or refuses
    """
    return list(ancestors(store, template, newest))


def ancestors(store: StoreReader, template: KeyTemplate, newest: Checkpoint) -> Iterator[Checkpoint]:
    """Yield what :func:`lineage` returns; reads each checkpoint when it is needed."""
    store = StoreWithRollups(store, template)
    child: Checkpoint | None = newest
    while child is not None:
        yield child
        if child.parent is None or not template.rest:
            return
        if child.id is not None and child.parent >= child.id:
            raise CheckpointError(f"checkpoint {child.id} names checkpoint {child.parent} as its parent, which came later")
        parent = read_checkpoint(store, template, template.key(child.parent))
        if parent is not None and child.parent_digest not in (None, parent.digest):
            raise CheckpointError(f"checkpoint {child.parent} is not the parent that checkpoint {child.id} names")
        child = parent
