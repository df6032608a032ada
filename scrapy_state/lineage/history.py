"""The checkpoints of all branches, newest first, and the runs that stored them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..exceptions import CheckpointError
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate
from ..model.requests import Requests
from ..stores import StoreReader
from .archive import StoreWithRollups
from .key_search import find_keys
from .read_ahead import ahead

#: The reasons that a run's first checkpoint may have: of a crawl, and by hand
_OPENINGS = ("opened", "set", "copied")


class StateFile(NamedTuple):
    """A state file: its checkpoint, or the reason *why* it is not one."""

    id: int | None
    uri: str
    checkpoint: Checkpoint | None
    why: str | None = None


def newest_first(store: StoreReader, template: KeyTemplate) -> Iterator[StateFile]:
    """Yield every state file under a prefix, newest first, pruned ones included. Reads each when it is needed. Blocks.

    :raises CheckpointTooNew: for a file that a newer scrapy_state stored
    :raises StoreError: if the store does not answer or refuses
    """
    with_rollups = StoreWithRollups(store, template)
    keys = find_keys(store, template, newest_pruned=with_rollups.newest_pruned)
    newest = keys.newest()
    stored = () if newest is None else (placed.key for placed in keys.down(newest.position))
    for key, data in with_rollups.newest_first(ahead(store.read, stored)):
        yield _state_file(store, key, template.id_of(key), data)


def _state_file(store: StoreReader, key: str, id: int | None, data: bytes) -> StateFile:
    try:
        checkpoint = Checkpoint.from_bytes(data)
    except CheckpointError as error:
        return StateFile(id, store.uri(key), None, str(error))
    return StateFile(id, store.uri(key), replace(checkpoint, id=id or checkpoint.id))


@dataclass(eq=False)
class Run:
    """A run, as seen in the checkpoints it stored.

    :param last: its newest checkpoint
    :param first: its oldest checkpoint that has been read
    :param checkpoints: how many checkpoints it stored; *files*, *bytes* and *items*: how much they name
    :param parent: the run it continued; None if it continued none, or if that run has not been read
    :param in_lineage: whether the newest checkpoint descends from it
    :param requests: those of its newest checkpoint or, if that has none (its crawl is over), of the one before
    :param superseded: whether another run has stored a checkpoint since, so that this run can't store any more
    """

    last: Checkpoint
    first: Checkpoint
    checkpoints: int = 0
    files: int = 0
    bytes: int = 0
    parent: Run | None = None
    in_lineage: bool = False
    requests: Requests | None = None
    superseded: bool = False
    items: int = 0

    @property
    def ended(self) -> str | None:
        """Its finish reason; None if it stored no closing checkpoint."""
        return None if self.last.reason == "opened" and self.last is self.first else self.last.reason

    @property
    def may_be_alive(self) -> bool:
        """Whether it may still store checkpoints."""
        return self.ended is None and not self.superseded

    @property
    def is_whole(self) -> bool:
        """Whether all its checkpoints have been read, from the first one on, with no id missing."""
        ids = (self.last.id or 0) - (self.first.id or 0) + 1
        return self.first.reason in _OPENINGS and not self.first.files and ids == self.checkpoints

    def add(self, checkpoint: Checkpoint) -> None:
        """Add its next older checkpoint."""
        self.first = checkpoint
        if self.checkpoints < (2 if self.last.is_over else 1):
            self.requests = self.requests or checkpoint.requests
        self.checkpoints += 1
        self.files += len(checkpoint.files)
        self.bytes += sum(file.bytes or 0 for file in checkpoint.files)
        self.items += sum(file.counted for file in checkpoint.files)


def runs(files: Iterable[StateFile], newest: Checkpoint | None, limit: int | None = None) -> list[Run]:
    """Return the runs that stored *files*, newest first.

    :param files: what :func:`newest_first` yields; read no further than *limit* runs need
    :param newest: the checkpoint whose lineage is marked
    :param limit: how many runs at most
    """
    by_name: dict[Any, Run] = {}
    children: dict[int, list[Run]] = {}
    for file in files:
        checkpoint = file.checkpoint
        if checkpoint is None:
            continue
        run = by_name.get(checkpoint.run)
        if run is None:
            if len(by_name) == limit:
                break
            run = by_name[checkpoint.run] = Run(checkpoint, checkpoint, superseded=bool(by_name))
        run.add(checkpoint)
        run.in_lineage = run.in_lineage or (newest is not None and checkpoint.id == newest.id)
        for child in children.pop(checkpoint.id or 0, ()):
            if child is not run:
                child.parent = run
        if checkpoint.parent is not None:
            children.setdefault(checkpoint.parent, []).append(run)
    for run in by_name.values():  # newest first: children before their parents
        if run.in_lineage and run.parent is not None:
            run.parent.in_lineage = True
    return list(by_name.values())


def tree(listed: Iterable[Run]) -> Iterator[tuple[str, Run | None]]:
    """Yield each run, newest first, with its row of a drawn tree; rows that only join branches come with None.

    ``*`` marks a run of the lineage, ``o`` one of another branch.
    """
    lanes: list[Run | None] = []
    for run in listed:
        mine = [at for at, waits_for in enumerate(lanes) if waits_for is run]
        if not mine:
            mine = [len(lanes)]
            lanes.append(run)
        for other in reversed(mine[1:]):
            yield " ".join("/" if at == other else "|" for at in range(len(lanes))).replace("| /", "|/"), None
            del lanes[other]
        sign = "*" if run.in_lineage else "o"
        yield " ".join(sign if at == mine[0] else "|" for at in range(len(lanes))), run
        if run.parent is None:
            del lanes[mine[0]]
        else:
            lanes[mine[0]] = run.parent
