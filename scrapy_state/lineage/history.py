"""All the checkpoints of all branches, newest first, and the runs that stored them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from heapq import heappop, heappush
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from ..exceptions import CheckpointError
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate
from ..stores import StoreReader
from ..stores.retry import patiently
from .archive import Rollup, Rollups
from .key_search import find_keys

_THREADS, _AHEAD = 8, 24
#: The reasons that a run's first checkpoint may have: of a crawl, and by hand
_OPENINGS = ("opened", "set", "copied")
A = TypeVar("A")
B = TypeVar("B")


class Found(NamedTuple):
    """A state file: its checkpoint, or the reason why it is not one."""

    id: int | None
    uri: str
    checkpoint: Checkpoint | None
    why: str | None = None


def newest_first(store: StoreReader, template: KeyTemplate) -> Iterator[Found]:
    """Yield every state file under a prefix, newest first, pruned ones included. Reads no more than is asked for. Blocks.

    :raises CheckpointTooNew: for a file that a later scrapy_state stored
    :raises StoreError: if the store does not answer or refuses
    """
    keys = find_keys(store, template)
    newest = keys.newest()
    present = () if newest is None else (each.key for each in keys.down(newest.position))
    pruned = _Pruned(store, template)
    for key, data in ahead(store.read, present):
        if data is None:  # it has been pruned since the listing
            pruned.look_again()
            continue
        id = template.id_of(key)
        if id is not None:
            yield from pruned.down_to(id)
            pruned.seen.add(id)
        yield _found(store, key, id, data)
    pruned.look_again()
    yield from pruned.down_to(0)


class _Pruned:
    """The state files in roll-ups, newest first. A roll-up is read when its turn comes."""

    def __init__(self, store: StoreReader, template: KeyTemplate) -> None:
        self._store, self._template = store, template
        self._rollups = Rollups(store, template)
        self._waiting = self._rollups.list()
        self._looked_at = set(self._waiting)
        self._read: list[tuple[int, bytes]] = []
        #: the ids yielded so far, from here or elsewhere: a killed prune leaves files that are also in a roll-up
        self.seen: set[int] = set()

    def look_again(self) -> None:
        """Add the roll-ups that have appeared since."""
        new = [each for each in self._rollups.list() if each not in self._looked_at]
        self._looked_at.update(new)
        self._waiting = sorted([*self._waiting, *new], key=_last, reverse=True)

    def down_to(self, id: int) -> Iterator[Found]:
        """Yield the checkpoints newer than *id* that have not been yielded."""
        while True:
            newest_read = -self._read[0][0] if self._read else 0
            if self._waiting and self._waiting[0].last > max(newest_read, id):
                for found, data in self._rollups.content(self._waiting.pop(0)).items():
                    heappush(self._read, (-found, data))
            elif newest_read <= id:
                return
            else:
                _, data = heappop(self._read)
                if newest_read not in self.seen:
                    self.seen.add(newest_read)
                    yield _found(self._store, self._template.key(newest_read), newest_read, data)


def _last(rollup: Rollup) -> int:
    return rollup.last


def ahead(function: Callable[[A], B], arguments: Iterable[A]) -> Iterator[tuple[A, B]]:
    """Yield each argument with the result of *function*, in order; several threads work a little ahead. Blocks."""
    waiting: deque[tuple[A, Future[B]]] = deque()
    left = iter(arguments)
    pool = ThreadPoolExecutor(_THREADS, "scrapy_state")
    try:
        waiting.extend((each, pool.submit(patiently, partial(function, each))) for each in islice(left, _AHEAD))
        while waiting:
            argument, result = waiting.popleft()
            yield argument, result.result()
            waiting.extend((each, pool.submit(patiently, partial(function, each))) for each in islice(left, 1))
    finally:
        pool.shutdown(cancel_futures=True)


class ReadsAhead:
    """A store reader for state files that are read one after the other, newest first: it fetches the next ones ahead.

    :param template: the keys of the state files
    """

    def __init__(self, store: StoreReader, template: KeyTemplate) -> None:
        self._store, self._template = store, template
        self._pool = ThreadPoolExecutor(_THREADS, "scrapy_state")
        self._asked: dict[int, Future[bytes | None]] = {}
        self.uri, self.keys, self.read_part = store.uri, store.keys, store.read_part
        self.ordered = store.ordered

    def read(self, key: str) -> bytes | None:
        """See :class:`~scrapy_state.stores.base.StoreReader`."""
        id = self._template.id_of(key)
        if id is None or not self._template.writable:
            return self._store.read(key)
        for other in [each for each in self._asked if each > id]:
            self._asked.pop(other).cancel()
        for each in range(id, max(id - _AHEAD, 0), -1):
            if each not in self._asked:
                self._asked[each] = self._pool.submit(patiently, partial(self._store.read, self._template.key(each)))
        return self._asked[id].result()

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(cancel_futures=True)


def _found(store: StoreReader, key: str, id: int | None, data: bytes) -> Found:
    try:
        checkpoint = Checkpoint.from_bytes(data)
    except CheckpointError as error:
        return Found(id, store.uri(key), None, str(error))
    return Found(id, store.uri(key), replace(checkpoint, id=id or checkpoint.id))


@dataclass(eq=False)
class Run:
    """A run, as seen in the checkpoints it stored.

    :param last: its newest checkpoint
    :param first: its oldest checkpoint that has been read
    :param checkpoints: how many checkpoints it stored; *files*, *bytes* and *items*: what they name
    :param parent: the run it continued; None if there is none, or if that one has not been read
    :param in_lineage: whether the newest checkpoint descends from it
    :param superseded: whether another run has stored a checkpoint since, so that this run can't store any more
    """

    last: Checkpoint
    first: Checkpoint
    checkpoints: int = 0
    files: int = 0
    bytes: int = 0
    parent: Run | None = None
    in_lineage: bool = False
    superseded: bool = False
    items: int = 0

    @property
    def ended(self) -> str | None:
        """Its finish reason; None if it stored no last checkpoint."""
        return None if self.last.reason == "opened" and self.last is self.first else self.last.reason

    @property
    def may_be_alive(self) -> bool:
        """Whether it may still store checkpoints."""
        return self.ended is None and not self.superseded

    @property
    def is_whole(self) -> bool:
        """Whether all its checkpoints have been read, from the first one on and without a gap."""
        ids = (self.last.id or 0) - (self.first.id or 0) + 1
        return self.first.reason in _OPENINGS and not self.first.files and ids == self.checkpoints

    def add(self, checkpoint: Checkpoint) -> None:
        """Add its next older checkpoint."""
        self.first = checkpoint
        self.checkpoints += 1
        self.files += len(checkpoint.files)
        self.bytes += sum(each.bytes or 0 for each in checkpoint.files)
        self.items += sum(each.counted for each in checkpoint.files)


def runs(found: Iterable[Found], newest: Checkpoint | None, limit: int | None = None) -> list[Run]:
    """Return the runs, newest first, from what :func:`newest_first` yields.

    :param newest: the checkpoint whose lineage is marked
    :param limit: how many runs at most; reads no more than these need
    """
    by_name: dict[Any, Run] = {}
    children: dict[int, list[Run]] = {}
    for each in found:
        checkpoint = each.checkpoint
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


def tree(found: Iterable[Run]) -> Iterator[tuple[str, Run | None]]:
    """Yield each run, newest first, with its row of a drawn tree; rows that only join branches come with None.

    ``*`` marks a run of the lineage, ``o`` one of another branch.
    """
    lanes: list[Run | None] = []
    for run in found:
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
