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
    """Find a valid checkpoint: a whole one whose digest fits, and whose parent, if it is stored, has the digest it names.

    Blocks. Lists one page for up to 1,000 checkpoints, about 20 short pages for a million, and all pages if the keys don't sort
    by id. Then reads what the listing may not show yet, each file that is skipped (of another spider's run a few), the
    checkpoint, and its parent. An older checkpoint takes n more reads by -n; by time, a page and a read for each bisection.

    :param spider: checkpoints of other spiders are skipped; None: of none
    :param at: which checkpoint
    :param or_none: return no checkpoint if a thousand files are not valid, because the caller knows where to start without
    :raises TooMany: if a thousand files are not valid, unless *at* is an id or "none"
    :raises StateSettingsError: if there is no checkpoint where *at* says, or a bare prefix names a folder of folders
    :raises CheckpointError: if the checkpoint whose id *at* gives is not valid
    :raises StoreError: if the store does not answer or refuses: that never means "no checkpoint"
    :raises CheckpointTooNew: if a newer scrapy_state stored the newest checkpoint
    """
    keys = find_keys(store, template, newest_pruned=StoreWithRollups(store, template).newest_pruned)
    last = keys.newest()
    if last is None:
        _refuse_folders(store, template)
        return _at_nothing(store, template, at)
    valid = ValidCheckpoints(store, template, spider, keys)
    key, newest, by_id = None, None, template.writable and isinstance(at, int) and at > 0
    try:
        key, newest = next(valid.down(last.position), (None, None))
    except TooMany:
        if at == "latest" and or_none:
            at = "none"
        if at != "none" and not by_id:
            raise
    else:
        by_id = by_id and key is not None
    uri = store.uri(key.key) if key else None
    newest_id = template.id_of(last.key) or 0
    resolution = Resolution(newest, uri, newest_id, valid.skipped, newest, template, valid.skipped_count)
    if newest is None and not by_id:
        return resolution if at in ("latest", "none") else _at_nothing(store, template, at)
    if key is not None and newest is not None and not template.writable and newest.id is not None:
        template = template.like(key.key, newest.id)
        resolution = replace(resolution, template=template)
    valid = ValidCheckpoints(store, template, spider, keys)
    return _Choice(store, template, spider, valid, key.position if key else -1, resolution).at(at)


@dataclass(frozen=True)
class _Choice:
    """Finds the checkpoint that STATE_AT names. *position*: that of the newest valid checkpoint."""

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
            key, checkpoint = self._newest_where(lambda *candidate: self._time(*candidate) <= at)
            if checkpoint is None:
                key, checkpoint = self._newest_pruned_where(lambda *candidate: self._time(*candidate) <= at)
            return self._chosen(key, checkpoint, f"is as old as {format_time(at)}")
        assert isinstance(at, int)
        if at < 0:
            return self._back(-at)
        if self.template.writable:
            return self._by_key(self.template.key(at), at)
        key, checkpoint = self._newest_where(lambda *candidate: self._id(*candidate) <= at)
        return self._chosen(key, checkpoint if checkpoint and checkpoint.id == at else None, f"has the id {at}")

    def _by_key(self, key: str, id: int) -> Resolution:
        try:
            checkpoint = read_valid(self.store, self.template, key, self.spider)
        except CheckpointError as error:
            uri = self.store.uri(key)
            raise CheckpointError(
                f"STATE_AT names this checkpoint, but {error}", uri=uri, remedy="choose another checkpoint"
            ) from error
        return self._chosen(key, checkpoint, f"has the id {id}")

    def _chosen(self, key: str, checkpoint: Checkpoint | None, wanted: str) -> Resolution:
        if checkpoint is None:
            prefix, newest_id = self.store.uri(self.template.prefix), self.resolution.newest_id
            raise StateSettingsError(
                f"STATE_AT: no checkpoint under {prefix} {wanted} (the newest one is {newest_id or self.resolution.uri})",
                remedy="correct STATE_AT, or leave it out",
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
        """Return the newest valid checkpoint that *fits*, by bisecting.

        That takes for granted that all checkpoints up to some id fit, and none after it; clocks may differ a little.
        """
        low, high = -1, self.position + 1
        while high - low > 1:
            middle = (low + high) // 2
            key, checkpoint = self.valid.up(middle, high) or (None, None)
            if key is not None and checkpoint is not None and fits(key.key, checkpoint):
                low = key.position
            else:
                high = middle
        return next((candidate for candidate in self._down(low) if fits(*candidate)), ("", None))

    def _down(self, position: int) -> Iterator[tuple[str, Checkpoint]]:
        return ((key.key, checkpoint) for key, checkpoint in self.valid.down(position))

    def _newest_pruned_where(self, fits: Callable[[str, Checkpoint], bool]) -> tuple[str, Checkpoint | None]:
        for key, data in StoreWithRollups(self.store, self.template).newest_first(()):
            checkpoint = replace(Checkpoint.from_bytes(data), id=self.template.id_of(key))
            if fits(key, checkpoint):
                return key, checkpoint
        return "", None

    def _id(self, key: str, checkpoint: Checkpoint) -> int:
        if checkpoint.id is None:
            raise StateSettingsError(f"STATE_AT is an id, but {self.store.uri(key)} has none", remedy="use a time or -n")
        return checkpoint.id

    def _time(self, key: str, checkpoint: Checkpoint) -> datetime:
        time = parse_time(checkpoint.time or self.template.time_in(key))
        if time is None:
            raise StateSettingsError(
                f"STATE_AT is a time, but {self.store.uri(key)} does not say when it was made", remedy="use -n or an id"
            )
        return time


def _refuse_folders(store: StoreReader, template: KeyTemplate) -> None:
    """Raise if a bare prefix names a folder that has only folders: the state files may be in one of these."""
    below = None
    with suppress(StoreRefused):  # the user may not read one of the folders
        below = None if template.rest else next(iter(store.keys(template.prefix, limit=1)), None)
    if below is not None and "/" in below[len(template.prefix) :]:
        raise StateSettingsError(
            f"it has no files, but there are some in folders below it ({store.uri(below)})",
            uri=store.uri(template.prefix),
            remedy="name the folder of the states, or the whole URI of the state feed",
        )


def _at_nothing(store: StoreReader, template: KeyTemplate, at: At) -> Resolution:
    if at not in ("latest", "none"):
        where = store.uri(template.prefix)
        raise StateSettingsError(f"STATE_AT: there is no valid checkpoint under {where}", remedy="leave STATE_AT out")
    return Resolution(template=template)
