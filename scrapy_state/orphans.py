"""Item files that a killed run stored and no checkpoint names, found without listing all the item files there are.

Only in feeds whose URI begins to vary with ``%(run_id)s``: there a file's name says which run stored it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import NamedTuple, TypeAlias, TypeVar

from .checkpoint import Checkpoint
from .exceptions import CheckpointError, StateError, StoreUnreachable
from .history import Found, runs
from .keys import KeyTemplate, Placeholder
from .patience import patiently
from .resolver import Resolution, ancestors, read_checkpoint
from .stores import StoreReader, StoreWriter

#: for each item feed its store, and the keys of one run in it
OrphanFeeds: TypeAlias = Sequence[tuple[StoreWriter, KeyTemplate]]
R = TypeVar("R", bound=StoreReader)
logger = logging.getLogger("scrapy_state.state")

#: How far to go back for a feed's last files; one that stored nothing for so long is not looked at.
_CHECKPOINTS_BACK = 1000


class Orphan(NamedTuple):
    """An item file that no checkpoint names."""

    store: StoreWriter
    key: str


def find_orphans(
    states: StoreReader,
    state_keys: KeyTemplate,
    resolution: Resolution,
    feeds_of_run: Callable[[str], OrphanFeeds],
) -> list[Orphan]:
    """Return the item files that the last run stored and no checkpoint of any branch names. Blocks.

    What runs before it left was found when it started: each run looks after the one before. If it can't be told for sure
    there is a warning, and nothing is an orphan.

    :raises StoreUnreachable: if a store does not answer, which the run needs anyhow
    :param states: the store of the checkpoints; *state_keys*: their keys
    :param resolution: what was found there; the newest checkpoint's run is the last run
    :param feeds_of_run: gives for each item feed its store, and the keys that a run gave its files there
    """
    newest = resolution.newest
    if newest is None or newest.run is None:
        return []
    try:
        feeds = feeds_of_run(newest.run)

        def find() -> list[Orphan]:
            others = _named_by_newer(states, state_keys, newest, resolution.newest_id)
            return [
                Orphan(store, key)
                for store, item_keys in feeds
                for key in _unnamed(states, state_keys, newest, store, item_keys, others)
            ]

        return patiently(find)
    except StoreUnreachable:
        raise
    except StateError as error:
        logger.warning("could not look for orphans: %s", error)
        return []


def treat_orphans(orphans: Sequence[Orphan], delete: bool) -> None:
    """Log each, and *delete* it. Only after this run's opening checkpoint: from then on the last run can't name it. Blocks."""
    for store, key in orphans:
        try:
            if delete:
                store.delete(key)
            logger.info("orphan of the last run: %s: %s", store.uri(key), "deleted" if delete else "kept (STATE_ORPHANS)")
        except StateError as error:
            logger.warning("an orphan of the last run could not be deleted: %s", error)


def _named_by_newer(states: StoreReader, state_keys: KeyTemplate, newest: Checkpoint, newest_id: int) -> set[str]:
    """Return what is named by files that are newer than the newest checkpoint, and were passed over."""
    assert newest.id is not None
    others = (state_keys.key(id) for id in range(newest.id + 1, newest_id + 1))
    found = (read_checkpoint(states, state_keys, key) for key in others)
    return {each.uri for checkpoint in found if checkpoint is not None for each in checkpoint.files}


def _unnamed(
    states: StoreReader,
    state_keys: KeyTemplate,
    newest: Checkpoint,
    store: StoreReader,
    item_keys: KeyTemplate,
    named: set[str],
) -> list[str]:
    keys = item_keys.in_order(store.keys(item_keys.prefix))
    places = {store.uri(key): place for place, key in enumerate(keys)}
    settled = -1
    with_files = 0
    of_run = takewhile(lambda each: each.run == newest.run, ancestors(states, state_keys, newest))
    for checkpoint in islice(of_run, _CHECKPOINTS_BACK) if keys else ():
        uris = {each.uri for each in checkpoint.files}
        named = named | uris
        if with_files == 2:
            break
        with_files += bool(uris & places.keys())
        if with_files == 2:
            # A batch belongs to the side it was opened on, and a cut waits for the commit before it. So these batches were
            # all opened before any that may be an orphan, and after all that are named further back, but for those of the
            # side just before: its last items may have left the pipelines later. Hence one checkpoint more.
            settled = max(places[uri] for uri in uris & places.keys())
        if checkpoint.reason == "opened":
            break
    else:
        return []  # too far back, or the run's first checkpoints are gone: there is no telling
    return [key for uri, key in zip(places, keys, strict=True) if places[uri] > settled and uri not in named]


class AllOrphans:
    """The item files that no checkpoint of any branch names, of all runs that are over.

    A file is one only if its name says that a run stored it whose checkpoints are all there, from its opening on, and which can
    store none any more. So never what was there before the first checkpoint, never what another spider stored, never what
    a run that may be alive will name.

    :param found: every state file there is, newest first. It is read here: before the item files are listed
    :param now: gives for the URI in a checkpoint where the file lies now
    :param newest: the checkpoint whose lineage is to be marked in *runs*
    :raises CheckpointError: if one is not valid: there is no telling what it names
    """

    def __init__(self, found: Iterable[Found], now: Callable[[str], str], newest: Checkpoint | None = None) -> None:
        self._named: set[str] = set()
        #: for each shape of the names of item files one of them, and its run
        self._examples: dict[tuple[str, str], tuple[str, str]] = {}
        self.runs = runs(self._noting(found, now), newest)
        #: the runs whose files may be orphans
        self.over = {each.last.run for each in self.runs if each.is_whole and not each.may_be_alive}

    def _noting(self, found: Iterable[Found], now: Callable[[str], str]) -> Iterator[Found]:
        for each in found:
            if each.checkpoint is None:
                raise CheckpointError(f"{each.uri}: {each.why}: there is no telling which files it names; move it away first")
            run = each.checkpoint.run
            for file in each.checkpoint.files:
                uri = now(file.uri)
                self._named.add(uri)
                before, found_run, after = uri.rpartition(run) if run else ("", "", "")
                if found_run:
                    self._examples.setdefault((before, re.sub("[0-9]+", "0", after)), (found_run, after))
            yield each

    def templates(self) -> list[tuple[str, tuple[str | Placeholder, ...]]]:
        """Return how the URIs of named files are made, as far as can be seen: a prefix, and what follows on it."""
        return [(before, _shape(after)) for (before, _), (_, after) in self._examples.items()]

    def among(self, store: R, item_keys: KeyTemplate) -> Iterator[tuple[R, str]]:
        """Yield the orphans among the keys of an item feed. Blocks: they are all listed."""
        for key in store.keys(item_keys.prefix):
            if item_keys.run_of(key) in self.over and store.uri(key) not in self._named:
                yield store, key


def _shape(after: str) -> tuple[str | Placeholder, ...]:
    parts = (Placeholder("batch_id", "d") if part.isdecimal() else part for part in re.split("([0-9]+)", after) if part)
    return (Placeholder("run_id", "s"), *parts)
