"""Storing a run's checkpoints one after the other: ids, parents, digests, and who else writes. Knows no Scrapy."""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from ..exceptions import CheckpointError, KeyTaken, StateConflict
from ..model.checkpoint import Checkpoint
from ..model.item_file import ItemFile
from ..model.key_template import KeyTemplate
from ..model.requests import Requests
from ..model.times import format_time
from ..model.totals import NOTHING, Totals
from ..stores import StoreWriter
from .chain import read_checkpoint
from .resolution import Resolution

#: How long to wait before each new try to store the opening under another id: what took the id may become visible late.
_WAITS_SECONDS = (0, 0.5, 1, 2, 4, 8)
#: The fields of a checkpoint that say which units are done
_UNIT_FIELDS = ("ahead", "missing", "missing_units")


class CheckpointWriter:
    """The write side of one run. Its methods block. Call them one at a time, from any thread.

    :param format: a key of :data:`~scrapy_state.model.checkpoint.FORMATS`
    :param spider: the spider's name, if it is known; *run*: the run's id; *job*: the platform's name for it
    :param arguments: the spider's arguments, as a checkpoint keeps them; None: those of the parent
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
        requests: Requests | None = None,
        memories: Mapping[str, Mapping[str, Any]] | None = None,
        ended: bool = False,
    ) -> Checkpoint:
        """Store the opening checkpoint. This proves that the run can write under the prefix, and claims its first id.
        Blocks; for about 15 s more if the id is taken each time.

        :param state: where the run starts
        :param resolution: what was found under the prefix; its checkpoint becomes the parent
        :param resolve_again: resolves again, in case another run has taken the id since
        :param reason: why the checkpoint is stored; *extra*: what else it contains
        :param start: the checkpoint, from this prefix or another, whose state *state* is, with the units finished beyond it,
            and with the requests that this run continues with
        :param requests: these requests, as the opening has them; *ended*: whether the crawl is over with this checkpoint
        :param memories: what else it contains for the next run, in place of the parent's memories of the same names
        :raises StateConflict: if another run has stored a checkpoint since, so that *state* is no longer where to start
        :raises StoreError: if the opening can't be stored
        """
        began_with = resolution.checkpoint
        for wait_seconds in (*_WAITS_SECONDS, None):
            parent = resolution.checkpoint
            newest = resolution.newest or parent
            if newest is not None and newest.run == self.run:  # an earlier try succeeded, and its reply was lost
                self.last = newest
                return newest
            if parent is not began_with and not _is_where_it_began(parent, began_with, _began_at(state, start)):
                break
            opening = self._opening(state, resolution, reason, extra, start, requests, memories or {}, ended)
            try:
                self._create(opening)
                return opening
            except KeyTaken:
                if wait_seconds is None:
                    break
                time.sleep(wait_seconds)
                resolution = resolve_again()
        raise StateConflict(
            "checkpoints have appeared that this run did not see when it started. Either another run is storing them right "
            "now, or the store lists new files late (OpenStack Swift under load)",
            uri=self.store.uri(self.template.prefix),
            remedy="let the other run end or stop it, or wait a minute; then start again",
        )

    def _opening(
        self,
        state: dict[str, Any],
        resolution: Resolution,
        reason: str,
        extra: Mapping[str, Any] | None,
        start: Checkpoint | None,
        requests: Requests | None,
        memories: Mapping[str, Mapping[str, Any]],
        ended: bool,
    ) -> Checkpoint:
        parent = resolution.checkpoint
        opening = replace(
            _began_at(state, start),
            id=resolution.newest_id + 1,
            reason=reason,
            extra=dict(extra or {}),
            requests=requests,
            memories=memories,
            crawl=1,
            ended=ended,
            totals=NOTHING,
        )
        if parent is not None:
            opening = replace(
                opening,
                parent=parent.id,
                parent_digest=parent.digest,
                items=parent.items,
                errors=parent.errors,
                arguments=parent.arguments,
                memories={**parent.memories, **memories},
                totals=parent.totals or NOTHING,
                crawl=(parent.crawl or 1) + parent.is_over,
                overlap=_position(parent) != _position(_began_at(state, start)),
            )
        return self._sealed(opening)

    def next(
        self,
        state: dict[str, Any] | None,
        files: Sequence[ItemFile],
        *,
        errors: int = 0,
        reason: str | None = None,
        units: Mapping[str, Any] | None = None,
        requests: Requests | None = None,
        memories: Mapping[str, Mapping[str, Any]] | None = None,
        spent: Totals = NOTHING,
        is_over: bool = False,
    ) -> Checkpoint:
        """Return the checkpoint to store next, a child of the last one. Does no I/O.

        :param state: None: the last one's
        :param files: the item files of the side it closes, all of them durable
        :param units: a checkpoint's fields about units; None: the last one's
        :param requests: what the next run continues with, besides the state
        :param memories: what else it must know, in place of the last one's memories of the same names
        :param spent: pages and seconds since the last checkpoint
        :param is_over: whether the next run begins a new crawl
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
                items=parent.items + sum(file.counted for file in files),
                errors=parent.errors + errors,
                files=tuple(files),
                reason=reason,
                arguments=parent.arguments,
                crawl=parent.crawl,
                requests=requests,
                memories={**parent.memories, **(memories or {})},
                totals=(parent.totals or NOTHING).plus(spent._replace(bytes=sum(file.bytes or 0 for file in files))),
                ended=is_over,
                **(_units_of(parent) if units is None else units),
            )
        )

    def commit(self, checkpoint: Checkpoint) -> None:
        """Store *checkpoint*, which :meth:`next` made. After a StoreUnreachable, call it again with the same checkpoint.

        :raises StateConflict: if another run has written under the prefix
        :raises StoreError: if the checkpoint can't be stored
        """
        try:
            if not self.store.atomic:
                self._check_last()
            self._create(checkpoint)
        except KeyTaken as error:
            key = self._key(checkpoint)
            raise StateConflict(f"the file exists already, and {self._whose(key)}", uri=self.store.uri(key)) from error
        if checkpoint.reason is not None and not self.store.atomic:
            self._check_last()  # no later commit will see a conflict

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
        """Where two writers may both succeed: check that the last checkpoint is still the one this run stored."""
        assert self.last is not None
        key = self._key(self.last)
        try:
            stored = read_checkpoint(self.store, self.template, key)
        except CheckpointError:
            stored = None
        if stored is None or stored.digest != self.last.digest:
            raise StateConflict(f"the file is no longer what this run stored: it {self._whose(key)}", uri=self.store.uri(key))

    def _whose(self, key: str) -> str:
        try:
            other = read_checkpoint(self.store, self.template, key)
        except CheckpointError:
            other = None
        return f"belongs to run {other.run}, which stores checkpoints here, too" if other else "is not a checkpoint"


def _units_of(checkpoint: Checkpoint | None) -> dict[str, Any]:
    return {name: getattr(checkpoint or Checkpoint({}), name) for name in _UNIT_FIELDS}


def _began_at(state: dict[str, Any], start: Checkpoint | None) -> Checkpoint:
    """Return a checkpoint with what a run began with: *state*, and the units and requests of *start*."""
    return Checkpoint(state, requests=None if start is None else start.requests, **_units_of(start))


def _is_where_it_began(parent: Checkpoint | None, began_with: Checkpoint | None, began_at: Checkpoint) -> bool:
    """Whether *parent*, which has appeared since, says the same as *began_with*; without that, the same as *began_at*."""
    if parent is None or _position(parent) != _position(began_with or began_at):
        return False
    return began_with is None or parent.memories == began_with.memories


def _position(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Return what a run resumes from."""
    requests = checkpoint.requests
    return checkpoint.state, checkpoint.ahead, None if requests is None else (requests.segments, requests.start)


def new_run_id() -> str:
    """Return a short unique id that sorts by time."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
