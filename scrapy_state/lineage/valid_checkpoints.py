"""The valid checkpoints among the keys under a prefix, from a place on; what is passed over, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ..exceptions import CheckpointError, CheckpointTooNew, StateSettingsError
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate
from ..stores import StoreReader
from .archive import StoreWithRollups
from .chain import read_checkpoint
from .key_search import Keys, PlacedKey

#: So many files are read that are passed over, then it is an error.
_MOST = 1000
#: So many checkpoints of one run are passed over one by one; then the other end of the run is looked for.
_ONE_BY_ONE = 4


class TooMany(StateSettingsError):
    """Nothing valid among very many files: whether there is anything behind them is not known."""


class _OtherSpiders(CheckpointError):
    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(f"it is of the spider {checkpoint.spider!r}; put %(name)s into the state feed's URI")
        self.run = checkpoint.run


class ValidCheckpoints:
    """Those of *keys* that are whole, whose digest and parent fit, and that are of *spider* (None: of any).

    Of another spider's run a few are read, not all: its ids follow on each other, since whoever finds one taken stops.
    The methods block.

    :raises CheckpointTooNew: for one of a later version of the format
    :raises TooMany: once a thousand files were read in vain
    :raises StoreError: if the store does not answer or refuses
    """

    def __init__(self, store: StoreReader, template: KeyTemplate, spider: str | None, keys: Keys) -> None:
        self._store, self._template, self._spider, self._keys = store, template, spider, keys
        self._reasons: dict[str, tuple[str, int]] = {}
        self._read = 0
        self._run: str | None = None
        self._of_run = 0
        #: (run, way) -> the position where the run ends that way
        self._ends: dict[tuple[str | None, int], int] = {}

    @property
    def passed_over(self) -> tuple[tuple[str, str], ...]:
        """What was passed over so far: for each reason the first URI, and the reason."""
        found = []
        for why, (uri, count) in self._reasons.items():
            found.append((uri, f"{why}; likewise {count - 1:,} older ones" if count > 1 else why))
        return tuple(found)

    @property
    def passed_over_count(self) -> int:
        """How many files that are."""
        return sum(count for _, count in self._reasons.values())

    def down(self, position: int) -> Iterator[tuple[PlacedKey, Checkpoint]]:
        """Yield the valid ones at *position* and before, newest first, reading no further than it is asked for."""
        places = self._keys.down(position)
        while (found := next(places, None)) is not None:
            checkpoint, passed = self._look(found, -1)
            if checkpoint is not None:
                yield found, checkpoint
            elif passed > 1:
                places = self._keys.down(found.position - passed)

    def up(self, position: int, high: int) -> tuple[PlacedKey, Checkpoint] | None:
        """Return the first valid one at *position* or after it, and before *high*; None if there is none."""
        while (found := self._keys.up(position)) is not None and found.position < high:
            checkpoint, passed = self._look(found, 1)
            if checkpoint is not None:
                return found, checkpoint
            position = found.position + passed
        return None

    def _look(self, found: PlacedKey, way: Literal[1, -1]) -> tuple[Checkpoint | None, int]:
        """Return the checkpoint, or None and how many are passed over from there on."""
        try:
            return read_valid(self._store, self._template, found.key, self._spider), 1
        except _OtherSpiders as error:
            self._of_run = self._of_run + 1 if error.run == self._run else 1
            self._run = error.run
            skip = self._of_run >= _ONE_BY_ONE or (self._run, way) in self._ends
            passed = self._rest_of_run(found.position, way) if skip and self._run and self._template.writable else 1
            self._pass_over(found, error, passed)
            return None, passed
        except CheckpointError as error:
            self._pass_over(found, error, 1)
            return None, 1

    def _pass_over(self, found: PlacedKey, error: CheckpointError, count: int) -> None:
        why = str(error)
        uri, before = self._reasons.get(why, (self._store.uri(found.key), 0))
        self._reasons[why] = (uri, before + count)
        self._count()

    def _count(self) -> None:
        self._read += 1
        if self._read >= _MOST:
            (uri, why), *_ = self.passed_over
            whose = f" of the spider {self._spider!r}" if self._spider else ""
            raise TooMany(
                f"{self._store.uri(self._template.prefix)}: {_MOST:,} files were read, and none is a valid checkpoint{whose} "
                f"({uri}: {why}). Put %(name)s into the state feed's URI if several spiders store there, and move away what is "
                "no checkpoint; or say where to start: STATE_AT=<id>, or STATE_AT=none to begin anew"
            )

    def _rest_of_run(self, position: int, way: Literal[1, -1]) -> int:
        """Return how many from *position* on are of the same run, by galloping and halving."""
        if (self._run, way) not in self._ends:
            end, step, further = position, 1, True
            while step:
                if self._run_at(end + way * step) == self._run:
                    end += way * step
                else:
                    further = False
                step = step * 2 if further else step // 2
            self._ends[self._run, way] = end
        return abs(self._ends[self._run, way] - position) + 1

    def _run_at(self, position: int) -> str | None:
        key = self._keys.at(position)
        self._count()
        try:
            checkpoint = None if key is None else read_checkpoint(self._store, self._template, key)
        except (CheckpointError, CheckpointTooNew):
            return None
        return None if checkpoint is None else checkpoint.run


def read_valid(store: StoreReader, template: KeyTemplate, key: str, spider: str | None) -> Checkpoint | None:
    """Read one checkpoint, also one that was pruned; None if it is gone.

    :raises CheckpointError: if it is not valid, or of another spider
    """
    checkpoint = read_checkpoint(StoreWithRollups(store, template), template, key)
    if checkpoint is None:  # deleted since the listing
        return None
    if None not in (spider, checkpoint.spider) and checkpoint.spider != spider:
        raise _OtherSpiders(checkpoint)
    if checkpoint.parent is not None and checkpoint.parent_digest is not None and template.writable:
        try:
            parent = read_checkpoint(store, template, template.key(checkpoint.parent))
        except CheckpointError as error:
            raise CheckpointError(f"its parent, checkpoint {checkpoint.parent}, can't be read: {error}") from error
        if parent is not None and parent.digest != checkpoint.parent_digest:
            raise CheckpointError(f"checkpoint {checkpoint.parent} is not the parent it names")
    return checkpoint
