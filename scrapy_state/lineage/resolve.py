"""Which checkpoint a run starts from: store in, :class:`Resolution` out. Knows no Scrapy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

from ..exceptions import CheckpointError, StateSettingsError, StoreRefused
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate
from ..model.times import format_time, parse_time
from ..stores import StoreReader
from .archive import StoreWithRollups
from .chain import ancestors
from .key_search import find_keys
from .resolution import At, Resolution
from .valid_checkpoints import TooMany, ValidCheckpoints, read_valid

__all__ = ["At", "Resolution", "resolve"]


def resolve(
    store: StoreReader, template: KeyTemplate, spider: str | None = None, at: At = "latest", *, or_none: bool = False
) -> Resolution:
    """Find a valid checkpoint: whole, its digest fits, and so does its parent's where that is there.

    Blocks. A listing of one page for up to 1,000 checkpoints, about 20 short ones for a million (where keys don't sort by id,
    all pages); then a read for what the listing may not show yet, one for each file that is passed over (of another spider's
    run a few), one for the checkpoint, one for its parent. An older one by -n takes n reads more, one by time a page and a
    read for each halving.

    :param spider: checkpoints of another spider are passed over; None: any
    :param at: which one
    :param or_none: if none is found among a thousand files, that is no error: where to start is known without
    :raises TooMany: if none is found among a thousand files, unless *at* is an id or "none"
    :raises StateSettingsError: if there is no checkpoint where *at* says, or a bare prefix names a folder of folders
    :raises CheckpointError: if the one that *at* names by its id is not valid
    :raises StoreError: if the store does not answer or refuses: that is never "no checkpoint"
    :raises CheckpointTooNew: if the newest one is of a later version of the format
    """
    keys = find_keys(store, template, newest_pruned=StoreWithRollups(store, template).newest_pruned)
    last = keys.newest()
    if last is None:
        _refuse_folders(store, template)
        return _at_nothing(store, template, at)
    valid = ValidCheckpoints(store, template, spider, keys)
    found, newest, by_id = None, None, template.writable and isinstance(at, int) and at > 0
    try:
        found, newest = next(valid.down(last.position), (None, None))
    except TooMany:
        if at == "latest" and or_none:
            at = "none"
        if at != "none" and not by_id:
            raise
    else:
        by_id = by_id and found is not None
    newest_id, passed_over, count = template.id_of(last.key) or 0, valid.passed_over, valid.passed_over_count
    uri = store.uri(found.key) if found else None
    resolution = Resolution(newest, uri, newest_id, passed_over, newest, template, count)
    if newest is None and not by_id:
        return resolution if at in ("latest", "none") else _at_nothing(store, template, at)
    if found is not None and newest is not None and not template.writable and newest.id is not None:
        template = template.like(found.key, newest.id)
        resolution = replace(resolution, template=template)
    valid = ValidCheckpoints(store, template, spider, keys)
    return _Choice(store, template, spider, valid, found.position if found else -1, resolution).at(at)


@dataclass(frozen=True)
class _Choice:
    """An older checkpoint than the newest valid one, which *position* is the place of."""

    store: StoreReader
    template: KeyTemplate
    spider: str | None
    valid: ValidCheckpoints
    position: int
    resolution: Resolution

    def at(self, at: At) -> Resolution:
        if at == "latest":
            return self.resolution
        if at == "none":
            return replace(self.resolution, checkpoint=None, uri=None)
        if isinstance(at, datetime):
            key, checkpoint = self._newest_where(lambda *each: self._time(*each) <= at)
            if checkpoint is None:
                key, checkpoint = self._newest_pruned_where(lambda *each: self._time(*each) <= at)
            return self._chosen(key, checkpoint, f"is as old as {format_time(at)}")
        assert isinstance(at, int)
        if at < 0:
            return self._back(-at)
        if self.template.writable:
            return self._by_key(self.template.key(at), at)
        key, checkpoint = self._newest_where(lambda *each: self._id(*each) <= at)
        return self._chosen(key, checkpoint if checkpoint and checkpoint.id == at else None, f"has the id {at}")

    def _by_key(self, key: str, id: int) -> Resolution:
        try:
            checkpoint = read_valid(self.store, self.template, key, self.spider)
        except CheckpointError as error:
            raise CheckpointError(f"STATE_AT: {self.store.uri(key)}: {error}; choose another checkpoint") from error
        return self._chosen(key, checkpoint, f"has the id {id}")

    def _chosen(self, key: str, checkpoint: Checkpoint | None, wanted: str) -> Resolution:
        if checkpoint is None:
            prefix, newest_id = self.store.uri(self.template.prefix), self.resolution.newest_id
            raise StateSettingsError(
                f"STATE_AT: no checkpoint under {prefix} {wanted}; the newest one is {newest_id or self.resolution.uri}. "
                "Correct STATE_AT, or leave it out"
            )
        return replace(self.resolution, checkpoint=checkpoint, uri=self.store.uri(key))

    def _back(self, count: int) -> Resolution:
        newest = self.resolution.newest
        assert newest is not None
        wanted = f"is {count} before the newest one in its lineage"
        if newest.parent is None and newest.id is None:  # files of Scrapy's own exporter, which name no parent
            key, checkpoint = next(islice(self._down(self.position), count, None), ("", None))
            return self._chosen(key, checkpoint, wanted)
        checkpoint = next(islice(ancestors(self.store, self.template, newest), count, None), None)
        return self._chosen("" if checkpoint is None else self.template.key(checkpoint.id or 0), checkpoint, wanted)

    def _newest_where(self, fits: Callable[[str, Checkpoint], bool]) -> tuple[str, Checkpoint | None]:
        """Return the newest valid one that *fits*, by bisecting: up to some id all do, then none (clocks may differ a bit)."""
        low, high = -1, self.position + 1
        while high - low > 1:
            middle = (low + high) // 2
            found = self.valid.up(middle, high)
            if found is not None and fits(found[0].key, found[1]):
                low = found[0].position
            else:
                high = middle
        return next((each for each in self._down(low) if fits(*each)), ("", None))

    def _down(self, position: int) -> Iterator[tuple[str, Checkpoint]]:
        return ((found.key, checkpoint) for found, checkpoint in self.valid.down(position))

    def _newest_pruned_where(self, fits: Callable[[str, Checkpoint], bool]) -> tuple[str, Checkpoint | None]:
        for key, data in StoreWithRollups(self.store, self.template).newest_first(()):
            checkpoint = replace(Checkpoint.from_bytes(data), id=self.template.id_of(key))
            if fits(key, checkpoint):
                return key, checkpoint
        return "", None

    def _id(self, key: str, checkpoint: Checkpoint) -> int:
        if checkpoint.id is None:
            raise StateSettingsError(f"STATE_AT is an id, but {self.store.uri(key)} has none; use a time or -n")
        return checkpoint.id

    def _time(self, key: str, checkpoint: Checkpoint) -> datetime:
        time = parse_time(checkpoint.time or self.template.time_in(key))
        if time is None:
            raise StateSettingsError(
                f"STATE_AT is a time, but {self.store.uri(key)} does not say when it was made; use -n or an id"
            )
        return time


def _refuse_folders(store: StoreReader, template: KeyTemplate) -> None:
    """Under a bare prefix only what lies right there counts: "nothing" would be wrong if the states are in a folder below."""
    below = None
    with suppress(StoreRefused):  # one of the folders, which may not be read
        below = None if template.rest else next(iter(store.keys(template.prefix, limit=1)), None)
    if below is not None and "/" in below[len(template.prefix) :]:
        raise StateSettingsError(
            f"{store.uri(template.prefix)} has no files, but there are some in folders below it ({store.uri(below)}): name the "
            "folder of the states, or the whole URI of the state feed"
        )


def _at_nothing(store: StoreReader, template: KeyTemplate, at: At) -> Resolution:
    if at not in ("latest", "none"):
        where = store.uri(template.prefix)
        raise StateSettingsError(f"STATE_AT: there is no valid checkpoint under {where}; leave STATE_AT out")
    return Resolution(template=template)
