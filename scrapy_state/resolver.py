"""Which checkpoint a run starts from: store in, :class:`Resolution` out. Knows no Scrapy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import islice
from typing import TypeAlias

from .checkpoint import Checkpoint
from .exceptions import CheckpointError, StateSettingsError, StoreRefused
from .keys import KeyTemplate
from .rollup import Rollups
from .search import Found, Keys, find_keys
from .stores import StoreReader

#: What STATE_AT says: "latest", "none", an id (1 and up), -n along the lineage, or a time with its zone
At: TypeAlias = "str | int | datetime"


@dataclass(frozen=True)
class Resolution:
    """What was found under a prefix.

    :param checkpoint: the one to start from, its ``id`` and ``digest`` set where they can be known; None: there is none
    :param uri: where it lies
    :param newest_id: the id in the newest key, valid or not; 0: none
    :param passed_over: newer files that are no valid checkpoints: (URI, why)
    :param newest: the newest valid checkpoint: *checkpoint*, unless an older one was asked for
    :param template: the keys; for a bare prefix, what the newest one's name says of them
    """

    checkpoint: Checkpoint | None = None
    uri: str | None = None
    newest_id: int = 0
    passed_over: tuple[tuple[str, str], ...] = ()
    newest: Checkpoint | None = None
    template: KeyTemplate | None = field(default=None, compare=False)


def resolve(store: StoreReader, template: KeyTemplate, spider: str | None = None, at: At = "latest") -> Resolution:
    """Find a valid checkpoint: whole, its digest fits, and so does its parent's where that is there.

    Blocks. A listing of one page for up to 1,000 checkpoints, about 20 short ones for a million (where keys don't sort by id,
    all pages); then a read for what the listing may not show yet, one for each file that is passed over, one for the
    checkpoint, one for its parent. An older one
    by -n takes n reads more, one by time a page and a read for each halving.

    :param spider: checkpoints of another spider are passed over; None: any
    :param at: which one
    :raises StateSettingsError: if there is no checkpoint where *at* says, or a bare prefix names a folder of folders
    :raises CheckpointError: if the one that *at* names by its id is not valid
    :raises StoreError: if the store does not answer or refuses: that is never "no checkpoint"
    :raises CheckpointTooNew: if the newest one is of a later version of the format
    """
    keys = find_keys(store, template)
    last = keys.newest()
    if last is None:
        _refuse_folders(store, template)
        return _at_nothing(store, template, at)
    passed_over: list[tuple[str, str]] = []
    found, newest = _first_valid(store, template, keys.down(last.position), spider, passed_over)
    resolution = Resolution(
        newest, store.uri(found.key) if found else None, template.id_of(last.key) or 0, tuple(passed_over), newest, template
    )
    if found is None or newest is None:
        return resolution if at in ("latest", "none") else _at_nothing(store, template, at)
    if not template.writable and newest.id is not None:
        template = template.like(found.key, newest.id)
        resolution = replace(resolution, template=template)
    return _Choice(store, template, spider, keys, found, resolution).at(at)


@dataclass(frozen=True)
class _Choice:
    """An older checkpoint than the newest valid one, which *found* is the place of."""

    store: StoreReader
    template: KeyTemplate
    spider: str | None
    keys: Keys
    found: Found
    resolution: Resolution

    def at(self, at: At) -> Resolution:
        newest = self.resolution.newest
        assert newest is not None
        if at == "latest":
            return self.resolution
        if at == "none":
            return replace(self.resolution, checkpoint=None, uri=None)
        if isinstance(at, datetime):
            key, checkpoint = self._newest_where(lambda *each: self._time(*each) <= at)
            if checkpoint is None:
                key, checkpoint = self._newest_pruned_where(lambda *each: self._time(*each) <= at)
            return self._chosen(key, checkpoint, f"is as old as {at.isoformat()}")
        assert isinstance(at, int)
        if at < 0:
            return self._back(newest, -at)
        if self.template.writable:
            return self._by_key(self.template.key(at), at)
        key, checkpoint = self._newest_where(lambda *each: self._id(*each) <= at)
        return self._chosen(key, checkpoint if checkpoint and checkpoint.id == at else None, f"has the id {at}")

    def _by_key(self, key: str, id: int) -> Resolution:
        try:
            checkpoint = _read_valid(self.store, self.template, key, self.spider)
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

    def _back(self, newest: Checkpoint, count: int) -> Resolution:
        wanted = f"is {count} before the newest one in its lineage"
        if newest.parent is None and newest.id is None:  # files of Scrapy's own exporter, which name no parent
            key, checkpoint = next(islice(self._valid_down(self.found.position), count, None), ("", None))
            return self._chosen(key, checkpoint, wanted)
        checkpoint = next(islice(ancestors(self.store, self.template, newest), count, None), None)
        return self._chosen("" if checkpoint is None else self.template.key(checkpoint.id or 0), checkpoint, wanted)

    def _newest_where(self, fits: Callable[[str, Checkpoint], bool]) -> tuple[str, Checkpoint | None]:
        """Return the newest valid one that *fits*, by bisecting: up to some id all do, then none (clocks may differ a bit)."""
        low, high = -1, self.found.position + 1
        while high - low > 1:
            middle = (low + high) // 2
            found, checkpoint = self._first_valid_up(middle, high)
            if found is not None and checkpoint is not None and fits(found.key, checkpoint):
                low = found.position
            else:
                high = middle
        return next((each for each in self._valid_down(low) if fits(*each)), ("", None))

    def _newest_pruned_where(self, fits: Callable[[str, Checkpoint], bool]) -> tuple[str, Checkpoint | None]:
        for id, data in Rollups(self.store, self.template).newest_first():
            checkpoint = replace(Checkpoint.from_bytes(data), id=id)
            if fits(key := self.template.key(id), checkpoint):
                return key, checkpoint
        return "", None

    def _first_valid_up(self, position: int, high: int) -> tuple[Found | None, Checkpoint | None]:
        while (found := self.keys.up(position)) is not None and found.position < high:
            try:
                return found, _read_valid(self.store, self.template, found.key, self.spider)
            except CheckpointError:
                position = found.position + 1
        return None, None

    def _valid_down(self, position: int) -> Iterator[tuple[str, Checkpoint]]:
        places = self.keys.down(position)
        while True:
            found, checkpoint = _first_valid(self.store, self.template, places, self.spider, [])
            if found is None or checkpoint is None:
                return
            yield found.key, checkpoint

    def _id(self, key: str, checkpoint: Checkpoint) -> int:
        if checkpoint.id is None:
            raise StateSettingsError(f"STATE_AT is an id, but {self.store.uri(key)} has none; use a time or -n")
        return checkpoint.id

    def _time(self, key: str, checkpoint: Checkpoint) -> datetime:
        text = checkpoint.time or self.template.time_in(key)
        try:
            time = datetime.fromisoformat((text or "").replace("Z", "+00:00"))
        except ValueError as error:
            raise StateSettingsError(
                f"STATE_AT is a time, but {self.store.uri(key)} does not say when it was made; use -n or an id"
            ) from error
        return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


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


def _first_valid(
    store: StoreReader, template: KeyTemplate, places: Iterator[Found], spider: str | None, passed_over: list[tuple[str, str]]
) -> tuple[Found | None, Checkpoint | None]:
    for found in places:
        try:
            checkpoint = _read_valid(store, template, found.key, spider)
        except CheckpointError as error:
            passed_over.append((store.uri(found.key), str(error)))
            continue
        if checkpoint is not None:
            return found, checkpoint
    return None, None


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


def find_checkpoint(store: StoreReader, template: KeyTemplate, id: int, rollups: Rollups | None = None) -> Checkpoint | None:
    """Read checkpoint *id*, also one that was pruned; None if there is none.

    :param rollups: give the same one again when several are read
    :raises CheckpointError: if it is there and not valid
    :raises StoreError: if the store does not answer or refuses
    """
    rollups = Rollups(store, template) if rollups is None else rollups
    data = rollups.held(id)
    if data is None:
        data = store.read(template.key(id))
    if data is None:  # only now: prune deletes a state file after its roll-up is stored
        data = rollups.read(id)
    return None if data is None else replace(Checkpoint.from_bytes(data), id=id)


def lineage(store: StoreReader, template: KeyTemplate, newest: Checkpoint) -> list[Checkpoint]:
    """Return *newest* and its parents, newest first, as far back as they are stored. Blocks: a read for each.

    :raises CheckpointError: if a parent is not valid, or is not the one that its child names
    :raises StoreError: if the store does not answer or refuses
    """
    return list(ancestors(store, template, newest))


def ancestors(store: StoreReader, template: KeyTemplate, newest: Checkpoint) -> Iterator[Checkpoint]:
    """Yield what :func:`lineage` returns, reading no further than it is asked for."""
    rollups = Rollups(store, template)
    child: Checkpoint | None = newest
    while child is not None:
        yield child
        if child.parent is None or not template.rest:
            return
        if child.id is not None and child.parent >= child.id:
            raise CheckpointError(f"checkpoint {child.id} names checkpoint {child.parent} as its parent, which came later")
        parent = find_checkpoint(store, template, child.parent, rollups)
        if parent is not None and child.parent_digest not in (None, parent.digest):
            raise CheckpointError(f"checkpoint {child.parent} is not the parent that checkpoint {child.id} names")
        child = parent


def _read_valid(store: StoreReader, template: KeyTemplate, key: str, spider: str | None) -> Checkpoint | None:
    id = template.id_of(key) if template.writable else None
    checkpoint = read_checkpoint(store, template, key) if id is None else find_checkpoint(store, template, id)
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
