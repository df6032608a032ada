"""Stores a run's checkpoints, one after the other: ids, parents, digests, and who else writes. Knows no Scrapy."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from ..exceptions import CheckpointError, KeyTaken, StateConflict
from ..model.checkpoint import Checkpoint, ItemFile
from ..model.key_template import KeyTemplate
from ..model.times import format_time
from ..stores import StoreWriter
from .chain import read_checkpoint
from .resolution import Resolution

#: Before the opening is tried again under another id: what took this one may be seen only later.
_WAITS_SECONDS = (0, 0.5, 1, 2, 4, 8)


class CheckpointWriter:
    """The write side of one run. Its methods block, and are called one at a time, from any thread.

    :param format: a key of :data:`~scrapy_state.checkpoint.FORMATS`
    :param spider: the spider's name, if it is known; *run*: the run's id; *job*: the platform's name for it
    :param arguments: the spider's, as a checkpoint keeps them; None: those of the parent
    """

    def __init__(
        self,
        store: StoreWriter,
        template: KeyTemplate,
        *,
        format: str,
        spider: str | None,
        run: str,
        job: str | None,
        arguments: Mapping[str, str] | None = None,
    ) -> None:
        self.store = store
        self.template = template
        self.format = format
        self.spider = spider
        self.run = run
        self.job = job
        self.arguments = arguments
        #: the newest checkpoint that this run stored
        self.last: Checkpoint | None = None

    def open(
        self,
        state: dict[str, Any],
        resolution: Resolution,
        resolve_again: Callable[[], Resolution],
        reason: str = "opened",
        extra: Mapping[str, Any] | None = None,
        start: Checkpoint | None = None,
    ) -> Checkpoint:
        """Store the opening checkpoint: proves that the prefix can be written, and claims the run's first id.

        Blocks; for about 15 s more if the id is taken each time.

        :param state: where the run starts
        :param resolution: what was found under the prefix; its checkpoint becomes the parent
        :param resolve_again: resolves again, for when another run took the id since
        :param reason: why it is stored; *extra*: what else is to stand in it
        :param start: the checkpoint, of here or elsewhere, that *state* is of, with the units finished beyond it
        :raises StateConflict: if another run got on in the meantime, so that *state* is no longer where to start
        :raises StoreError: if it can't be stored
        """
        began_with = resolution.checkpoint
        units = _units_of(start)
        began_at = _place(began_with or Checkpoint(state, **units))
        for wait_seconds in (*_WAITS_SECONDS, None):
            parent = resolution.checkpoint
            newest = resolution.newest or parent
            if newest is not None and newest.run == self.run:  # a try before took, and its reply was lost
                self.last = newest
                return newest
            if parent is not began_with and (parent is None or _place(parent) != began_at):
                break
            opening = self._sealed(
                Checkpoint(
                    state,
                    id=resolution.newest_id + 1,
                    parent=parent.id if parent else None,
                    parent_digest=parent.digest if parent else None,
                    items=parent.items if parent else 0,
                    errors=parent.errors if parent else 0,
                    reason=reason,
                    extra=dict(extra or {}),
                    arguments=parent.arguments if parent else None,
                    overlap=parent is not None and _place(parent) != (state, units["ahead"]),
                    **units,
                )
            )
            try:
                self._create(opening)
                return opening
            except KeyTaken:
                if wait_seconds is None:
                    break
                time.sleep(wait_seconds)
                resolution = resolve_again()
        raise StateConflict(
            f"{self.store.uri(self.template.prefix)}: there are checkpoints that were not to be seen when this run looked for "
            "one. Either another run is storing them right now: let it end, or stop it. Or the store shows late what it holds "
            "(OpenStack Swift under load): wait a minute. Then start again"
        )

    def next(
        self,
        state: dict[str, Any] | None,
        files: Sequence[ItemFile],
        *,
        errors: int = 0,
        reason: str | None = None,
        units: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Return the checkpoint to store next, a child of the last one. Does no input or output.

        :param state: None: that of the last one
        :param files: the item files of the side it closes, all of them durable
        :param units: a checkpoint's fields about units; None: as in the last one
        """
        parent = self.last
        assert parent is not None, "open() comes first"
        assert parent.id is not None
        return self._sealed(
            Checkpoint(
                parent.state if state is None else state,
                id=parent.id + 1,
                parent=parent.id,
                parent_digest=parent.digest,
                items=parent.items + sum(each.counted for each in files),
                errors=parent.errors + errors,
                files=tuple(files),
                reason=reason,
                arguments=parent.arguments,
                **(_units_of(parent) if units is None else units),
            )
        )

    def commit(self, checkpoint: Checkpoint) -> None:
        """Store *checkpoint*, which :meth:`next` made. May be called again with the same one after a StoreUnreachable.

        :raises StateConflict: if another run has written under the prefix
        :raises StoreError: if it can't be stored
        """
        try:
            if not self.store.atomic:
                self._check_last()
                self._check_free(checkpoint)
            self._create(checkpoint)
        except KeyTaken as error:
            raise StateConflict(f"{error}: {self._whose(self._key(checkpoint))}") from error
        if checkpoint.reason is not None and not self.store.atomic:
            self._check_last()  # no commit comes after the last one that would see it

    def _sealed(self, checkpoint: Checkpoint) -> Checkpoint:
        now = format_time(datetime.now(timezone.utc))
        checkpoint = replace(checkpoint, spider=self.spider, run=self.run, job=self.job, time=now)
        if self.arguments is not None:
            checkpoint = replace(checkpoint, arguments=self.arguments)
        return replace(checkpoint, digest=checkpoint.to_json()["digest"])

    def _create(self, checkpoint: Checkpoint) -> None:
        self.store.create(self._key(checkpoint), io.BytesIO(checkpoint.to_bytes(self.format)))
        self.last = checkpoint

    def _key(self, checkpoint: Checkpoint) -> str:
        assert checkpoint.id is not None
        return self.template.key(checkpoint.id)

    def _check_last(self) -> None:
        """Where two writers may both be told that they won: see whether what we stored last is still ours."""
        assert self.last is not None
        key = self._key(self.last)
        try:
            stored = read_checkpoint(self.store, self.template, key)
        except CheckpointError:
            stored = None
        if stored is None or stored.digest != self.last.digest:
            raise StateConflict(f"{self.store.uri(key)} is no longer what this run stored: {self._whose(key)}")

    def _check_free(self, checkpoint: Checkpoint) -> None:
        """Where the store may not heed "create only": look first, so that only a writer in the same instant is missed."""
        key = self._key(checkpoint)
        data = self.store.read(key)
        if data is not None and data != checkpoint.to_bytes(self.format):
            raise KeyTaken(f"{self.store.uri(key)} is there already, with other content; nothing is overwritten")

    def _whose(self, key: str) -> str:
        try:
            other = read_checkpoint(self.store, self.template, key)
        except CheckpointError:
            other = None
        return f"it is of run {other.run}" if other else "it is nobody's checkpoint"


def _units_of(checkpoint: Checkpoint | None) -> dict[str, Any]:
    names = ("ahead", "missing", "missing_units")
    return {name: getattr(checkpoint or Checkpoint({}), name) for name in names}


def _place(checkpoint: Checkpoint) -> tuple[dict[str, Any], tuple[str, ...]]:
    return checkpoint.state, checkpoint.ahead
