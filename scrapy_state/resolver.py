"""Which checkpoint a run starts from: store in, :class:`Resolution` out. Knows no Scrapy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .checkpoint import Checkpoint
from .exceptions import CheckpointError
from .keys import KeyTemplate
from .stores import StoreReader


@dataclass(frozen=True)
class Resolution:
    """What was found under a prefix.

    :param checkpoint: the newest valid one, its ``id`` and ``digest`` set where they can be known; None: there is none
    :param uri: where it lies
    :param newest_id: the highest id present, valid or not; 0: none
    :param passed_over: newer files that are no valid checkpoints: (URI, why)
    """

    checkpoint: Checkpoint | None = None
    uri: str | None = None
    newest_id: int = 0
    passed_over: tuple[tuple[str, str], ...] = ()


def resolve(store: StoreReader, template: KeyTemplate, spider: str | None = None) -> Resolution:
    """Find the newest valid checkpoint: whole, its digest fits, and so does its parent's where that is there.

    Blocks. One listing, then a read for each file that is passed over, one for the checkpoint, one for its parent.

    :param spider: checkpoints of another spider are passed over; None: any
    :raises StoreError: if the store does not answer or refuses: that is never "no checkpoint"
    :raises CheckpointTooNew: if the newest one is of a later version of the format
    """
    keys = template.in_order(store.keys(template.prefix))
    ids = [found for key in keys if (found := template.id_of(key)) is not None]
    passed_over: list[tuple[str, str]] = []
    for key in reversed(keys):
        try:
            checkpoint = _read_valid(store, template, key, spider)
        except CheckpointError as error:
            passed_over.append((store.uri(key), str(error)))
            continue
        if checkpoint is not None:
            return Resolution(checkpoint, store.uri(key), max(ids, default=0), tuple(passed_over))
    return Resolution(None, None, max(ids, default=0), tuple(passed_over))


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


def lineage(store: StoreReader, template: KeyTemplate, newest: Checkpoint) -> list[Checkpoint]:
    """Return *newest* and its parents, newest first, as far back as they are stored. Blocks: a read for each.

    :raises CheckpointError: if a parent is not valid, or is not the one that its child names
    :raises StoreError: if the store does not answer or refuses
    """
    return list(ancestors(store, template, newest))


def ancestors(store: StoreReader, template: KeyTemplate, newest: Checkpoint) -> Iterator[Checkpoint]:
    """Yield what :func:`lineage` returns, reading no further than it is asked for."""
    child: Checkpoint | None = newest
    while child is not None:
        yield child
        if child.parent is None:
            return
        if child.id is not None and child.parent >= child.id:
            raise CheckpointError(f"checkpoint {child.id} names checkpoint {child.parent} as its parent, which came later")
        parent = read_checkpoint(store, template, template.key(child.parent))
        if parent is not None and child.parent_digest not in (None, parent.digest):
            raise CheckpointError(f"checkpoint {child.parent} is not the parent that checkpoint {child.id} names")
        child = parent


def _read_valid(store: StoreReader, template: KeyTemplate, key: str, spider: str | None) -> Checkpoint | None:
    checkpoint = read_checkpoint(store, template, key)
    if checkpoint is None:  # deleted since the listing
        return None
    if None not in (spider, checkpoint.spider) and checkpoint.spider != spider:
        raise CheckpointError(f"it is of the spider {checkpoint.spider!r}; put %(name)s into the state feed's URI")
    if checkpoint.parent is not None and checkpoint.parent_digest is not None and template.writable:
        try:
            parent = read_checkpoint(store, template, template.key(checkpoint.parent))
        except CheckpointError as error:
            raise CheckpointError(f"its parent, checkpoint {checkpoint.parent}, can't be read: {error}") from error
        if parent is not None and parent.digest != checkpoint.parent_digest:
            raise CheckpointError(f"checkpoint {checkpoint.parent} is not the parent it names")
    return checkpoint
