"""What the last run left behind when it was killed: orphans, and uploads in parts that nobody will complete."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import islice, takewhile
from typing import NamedTuple

from ..exceptions import CheckpointError, StateError, StoreUnreachable
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate
from ..stores import StoreReader, StoreWriter
from ..stores.base import UploadsInParts, keys_within
from ..stores.retry import patiently
from .chain import ancestors
from .orphans import unnamed_files
from .read_ahead import ReadsAhead
from .resolution import Resolution

logger = logging.getLogger("scrapy_state.state")
#: How far a run's checkpoints are read back before a crawl starts. A longer run's orphans are left to ``scrapy state orphans``.
_CHECKPOINTS_BACK = 2000
#: How many of them are read one by one, which is enough for most runs; after that, several at a time.
_ONE_BY_ONE = 20


class Orphan(NamedTuple):
    """An item file that no checkpoint names."""

    store: StoreWriter
    key: str


class OrphanFeeds(NamedTuple):
    """Where a run's item files are.

    :param feeds: for each item feed that checkpoints name its store, and the keys of the run in it
    :param others: see :func:`~scrapy_state.lineage.orphans.files_left_out`
    """

    feeds: Sequence[tuple[StoreWriter, KeyTemplate]]
    others: Sequence[KeyTemplate] = ()


def find_orphans(
    states: StoreReader,
    state_keys: KeyTemplate,
    resolution: Resolution,
    feeds_of_run: Callable[[str], OrphanFeeds],
) -> list[Orphan]:
    """Return the item files that the last run stored and no checkpoint of any branch names, if that run was killed. Blocks.

    Each run looks after the one before it, so the orphans of earlier runs have been found already. If the orphans can't be
    determined, one warning says why, and the result is empty.

    :param states: the store of the checkpoints; *state_keys*: their keys
    :param resolution: what was found there; the newest checkpoint's run is the last run
    :param feeds_of_run: returns where a run's item files are
    :raises StoreUnreachable: if a store does not answer: the run needs it anyhow
    """
    newest = resolution.newest
    if newest is None or newest.run is None or newest.reason not in (None, "opened"):
        return []
    run = newest.run

    def find() -> tuple[list[Orphan], list[str]]:
        assert newest is not None
        feeds, others = feeds_of_run(run)
        listed = [
            {store.uri(key): Orphan(store, key) for key in keys_within(store, keys.prefix, keys.depth) if keys.fits(key)}
            for store, keys in feeds
        ]
        if not any(listed):
            return [], []
        if resolution.newest_id != newest.id:
            raise CheckpointError("newer state files can't be used, but may name them")
        named = set() if newest.reason == "opened" else _named_by_run(states, state_keys, newest)
        return unnamed_files(run, named, listed, others)

    try:
        orphans, uncertain = patiently(find)
    except StoreUnreachable:
        raise
    except StateError as error:
        _warn(run, str(error))
        return []
    if uncertain:
        _warn(run, f"its checkpoints name none of the files there, such as {' and '.join(uncertain)}")
    return orphans


def _warn(run: str, why: str) -> None:
    logger.warning("orphans of run %s can't be determined: %s. Such files stay; see scrapy state orphans", run, why)


def _named_by_run(states: StoreReader, state_keys: KeyTemplate, newest: Checkpoint) -> set[str]:
    """Return the URIs that the checkpoints of a run name, from its opening to its *newest* checkpoint.

    :raises CheckpointError: if one can't be read
    """
    named: set[str] = set()
    with closing(_back_from(states, state_keys, newest)) as checkpoints:
        for checkpoint in takewhile(lambda older: older.run == newest.run, islice(checkpoints, _CHECKPOINTS_BACK)):
            named.update(file.uri for file in checkpoint.files)
            if checkpoint.reason == "opened":
                return named
    raise CheckpointError(f"its first checkpoint is missing, or more than {_CHECKPOINTS_BACK} back")


def _back_from(states: StoreReader, state_keys: KeyTemplate, newest: Checkpoint) -> Generator[Checkpoint, None, None]:
    """Yield *newest* and its ancestors."""
    checkpoint = newest
    for checkpoint in islice(ancestors(states, state_keys, newest), _ONE_BY_ONE):
        yield checkpoint
    reads = ReadsAhead(states, state_keys)
    try:
        yield from islice(ancestors(reads, state_keys, checkpoint), 1, None)
    finally:
        reads.close()


def treat_orphans(orphans: Sequence[Orphan], delete: bool) -> None:
    """Log each orphan, and *delete* it. Blocks. Call this after the opening checkpoint is stored: then nobody can name them."""
    for store, key in orphans:
        try:
            if delete:
                store.delete(key)
            logger.info("orphan of the last run: %s: %s", store.uri(key), "deleted" if delete else "kept (STATE_ORPHANS)")
        except StateError as error:
            logger.warning("an orphan of the last run could not be deleted: %s", error)


def abort_unfinished(feeds: Iterable[tuple[StoreWriter, KeyTemplate]]) -> int:
    """Abort the unfinished uploads of a run that is over, and return how many there were. Blocks.

    That is tidying up: where it fails, the log says so and the run goes on.

    :param feeds: for each item feed its store, and the keys of that run in it
    """
    count = 0
    for store, keys in feeds:
        if not isinstance(store, UploadsInParts):
            continue
        try:
            for key in store.abort_uploads(keys.prefix):
                count += 1
                logger.info("aborted an unfinished upload of the last run: %s", store.uri(key))
        except StateError as error:
            logger.info("unfinished uploads of the last run, if there are any, are left where they are: %s", error)
    return count
