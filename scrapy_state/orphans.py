"""Item files that a killed run stored and no checkpoint names, found without listing all the item files there are.

Only in feeds whose URI begins to vary with ``%(run_id)s``: there a file's name says which run stored it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from typing import NamedTuple, TypeAlias

from .checkpoint import Checkpoint
from .exceptions import StateError
from .extension import patiently
from .keys import KeyTemplate
from .resolver import Resolution, ancestors, read_checkpoint
from .stores import StoreReader, StoreWriter

#: for each item feed its store, and the keys of one run in it
OrphanFeeds: TypeAlias = Sequence[tuple[StoreWriter, KeyTemplate]]
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
        with_files += bool(uris & places.keys())
        if with_files == 2:
            # A batch belongs to the side it was opened on, and a cut waits for the commit before it. So these batches were
            # all opened before any that may be an orphan.
            settled = max(places[uri] for uri in uris & places.keys())
            break
        if checkpoint.reason == "opened":
            break
    else:
        return []  # too far back, or the run's first checkpoints are gone: there is no telling
    return [key for uri, key in zip(places, keys, strict=True) if places[uri] > settled and uri not in named]
