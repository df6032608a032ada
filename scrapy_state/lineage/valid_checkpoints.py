"""The valid checkpoints among the keys under a prefix; which files are skipped, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from ..exceptions import CheckpointError, CheckpointTooNew, StateSettingsError
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate
from ..stores import StoreReader
from .archive import StoreWithRollups
from .chain import read_checkpoint
from .key_search import Keys, PlacedKey

#: How many files may be skipped; after that it is an error
_MOST = 1000
#: How many checkpoints of another spider's run are read one by one; then the search looks for the other end of that run.
_ONE_BY_ONE = 4


class TooMany(StateSettingsError):
    """Very many files are not valid checkpoints. Whether a valid one follows is not known."""


class _OtherSpiders(CheckpointError):
    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(f"it belongs to the spider {checkpoint.spider!r}", remedy="put %(name)s into the state feed's URI")
        self.run = checkpoint.run


class ValidCheckpoints:
    """The checkpoints among *keys* that are whole, whose digest and parent fit, and that belong to *spider* (None: to any).

    Of another spider's run only a few checkpoints are read: a run's ids are consecutive, because a run that finds an id taken
    stops. The methods block.

    :raises CheckpointTooNew: for a checkpoint that a newer scrapy_state stored
    :raises TooMany: after a thousand files that are not valid
    :raises StoreError: if the store does not answer or refuses
    """

    def __init__(self, store: StoreReader, template: KeyTemplate, spider: str | None, keys: Keys) -> None:
        self._store, self._template, self._spider, self._keys = store, template, spider, keys
        #: reason -> the first URI, and how many files were skipped for it
        self._reasons: dict[str, tuple[str, int]] = {}
        self._read = 0
        self._run: str | None = None
        self._of_run = 0
        #: (run, way) -> the position where the run ends that way
        self._ends: dict[tuple[str | None, int], int] = {}

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """What was skipped so far: for each reason the first URI, and the reason."""
        return tuple(
            (uri, f"{why}; likewise {count - 1:,} older ones" if count > 1 else why)
            for why, (uri, count) in self._reasons.items()
        )

    @property
    def skipped_count(self) -> int:
        """How many files were skipped so far."""
        return sum(count for _, count in self._reasons.values())

    def down(self, position: int) -> Iterator[tuple[PlacedKey, Checkpoint]]:
        """Yield the valid checkpoint at *position* and the older ones, newest first. Reads each when it is needed."""
        keys = self._keys.down(position)
        while (key := next(keys, None)) is not None:
            checkpoint, skipped = self._look(key, -1)
            if checkpoint is not None:
                yield key, checkpoint
            elif skipped > 1:
                keys = self._keys.down(key.position - skipped)

    def up(self, position: int, high: int) -> tuple[PlacedKey, Checkpoint] | None:
        """Return the oldest valid checkpoint from *position* on and before *high*; None if there is none."""
        while (key := self._keys.up(position)) is not None and key.position < high:
            checkpoint, skipped = self._look(key, 1)
            if checkpoint is not None:
                return key, checkpoint
            position = key.position + skipped
        return None

    def _look(self, key: PlacedKey, way: Literal[1, -1]) -> tuple[Checkpoint | None, int]:
        """Return the checkpoint; or None, and how many files to skip from there on."""
        try:
            return read_valid(self._store, self._template, key.key, self._spider, self._needs_parent), 1
        except _OtherSpiders as error:
            self._of_run = self._of_run + 1 if error.run == self._run else 1
            self._run = error.run
            whole_run = self._of_run >= _ONE_BY_ONE or (self._run, way) in self._ends
            skipped = self._rest_of_run(key.position, way) if whole_run and self._run and self._template.writable else 1
            self._skip(key, error, skipped)
            return None, skipped
        except CheckpointError as error:
            self._skip(key, error, 1)
            return None, 1

    def _needs_parent(self, checkpoint: Checkpoint) -> bool:
        """Whether it is neither known that the parent is not stored any more, nor that it fits."""
        known = self._keys.is_gone(checkpoint.parent or 0) or self._keys.is_signposted(
            checkpoint.id or 0, checkpoint.digest or ""
        )
        return not known

    def _skip(self, key: PlacedKey, error: CheckpointError, count: int) -> None:
        why = str(error)
        uri, before = self._reasons.get(why, (self._store.uri(key.key), 0))
        self._reasons[why] = (uri, before + count)
        self._count_read()

    def _count_read(self) -> None:
        self._read += 1
        if self._read >= _MOST:
            (uri, why), *_ = self.skipped
            whose = f" of the spider {self._spider!r}" if self._spider else ""
            raise TooMany(
                f"{_MOST:,} files were read, and none is a valid checkpoint{whose} ({uri}: {why})",
                uri=self._store.uri(self._template.prefix),
                remedy="put %(name)s into the state feed's URI if several spiders store there, and move away files that are no "
                "checkpoints; or say where to start: STATE_AT=<id>, or STATE_AT=none to begin anew",
            )

    def _rest_of_run(self, position: int, way: Literal[1, -1]) -> int:
        """Return how many checkpoints from *position* on belong to the same run, by galloping and bisecting."""
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
        self._count_read()
        try:
            checkpoint = None if key is None else read_checkpoint(self._store, self._template, key)
        except (CheckpointError, CheckpointTooNew):
            return None
        return None if checkpoint is None else checkpoint.run


def read_valid(
    store: StoreReader,
    template: KeyTemplate,
    key: str,
    spider: str | None,
    needs_parent: Callable[[Checkpoint], bool] = lambda checkpoint: True,
) -> Checkpoint | None:
    """Read one checkpoint, also one that was pruned; None if it does not exist.

    :param needs_parent: whether its parent must be read, if it names one
    :raises CheckpointError: if it is not valid, or belongs to another spider
    """
    checkpoint = read_checkpoint(StoreWithRollups(store, template), template, key)
    if checkpoint is None:  # someone has deleted it since the listing
        return None
    if None not in (spider, checkpoint.spider) and checkpoint.spider != spider:
        raise _OtherSpiders(checkpoint)
    if checkpoint.parent is None or checkpoint.parent_digest is None or not template.writable:
        return checkpoint
    if needs_parent(checkpoint):
        try:
            parent = read_checkpoint(store, template, template.key(checkpoint.parent))
        except CheckpointError as error:
            raise CheckpointError(f"its parent, checkpoint {checkpoint.parent}, can't be read: {error}") from error
        if parent is not None and parent.digest != checkpoint.parent_digest:
            raise CheckpointError(f"checkpoint {checkpoint.parent} is not the parent that it names")
    return checkpoint
