"""Item files that a killed run stored and no checkpoint names.

Only in feeds whose URI has ``%(run_id)s``: there a file's name says which run stored it. A run that ended has none: what lies
behind its last state item is the user's.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from itertools import islice, takewhile
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from ..exceptions import CheckpointError, StateError, StoreUnreachable
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate, Placeholder, without_credentials
from ..stores import StoreReader, StoreWriter
from ..stores.base import keys_within
from ..stores.local import open_reader as open_local
from ..stores.retry import patiently
from .chain import ancestors
from .history import Run, StateFile, runs
from .read_ahead import ReadsAhead
from .resolution import Resolution

T = TypeVar("T")
#: A file: its store and its key there
Stored: TypeAlias = "tuple[StoreReader | StoreWriter, str]"
logger = logging.getLogger("scrapy_state.state")
#: How far a run's checkpoints are read back before a crawl starts. A longer run's orphans are left to ``scrapy state orphans``.
_CHECKPOINTS_BACK = 2000
#: So many of them are read one by one, which is enough for most runs; then several at a time.
_ONE_BY_ONE = 20


class Orphan(NamedTuple):
    """An item file that no checkpoint names."""

    store: StoreWriter
    key: str


class OrphanFeeds(NamedTuple):
    """Where a run's item files lie.

    :param feeds: for each item feed that checkpoints name its store, and the keys of the run in it
    :param others: see :func:`files_left_out`
    """

    feeds: Sequence[tuple[StoreWriter, KeyTemplate]]
    others: Sequence[KeyTemplate] = ()


def files_left_out(feeds: Iterable[tuple[str, Mapping[str, Any]]], spider: str, params_function: Any) -> list[KeyTemplate]:
    """Return the URIs, as :func:`_place` has them, that files of feeds may have which checkpoints never name.

    :param feeds: their URI templates and feed options
    :param params_function: FEED_URI_PARAMS
    """
    return [
        KeyTemplate.of_any_run(
            _place(without_credentials(uri)), None if options.get("uri_params") or params_function else spider
        )
        for uri, options in feeds
    ]


def unnamed(
    run: str, named: Set[str], feeds: Sequence[Mapping[str, T]], others: Sequence[KeyTemplate], sure: bool = False
) -> tuple[list[T], list[str]]:
    """Return the item files of a run that no checkpoint names, and one URI from each feed where that can't be told.

    It can't where the checkpoints name no file that is there: they may name them all, by URIs that nobody recognises now.

    :param named: the URIs that the run's checkpoints name: all of them
    :param feeds: for each feed the run's files there, by URI
    :param others: see :func:`files_left_out`
    :param sure: whether that can be told even so
    """
    if all(uri in named for files in feeds for uri in files):
        return [], []
    places = {uri: _place(uri) for files in feeds for uri in files}
    there = {places[uri] for uri in named & places.keys()}
    # A named file that is not where its checkpoint says may have been moved: any file of its name may be it.
    moved = {_name(uri, run) for uri in named - places.keys()}
    found: list[T] = []
    no_telling = []
    for files in feeds:
        unknown = [uri for uri in files if places[uri] not in there and _name(uri, run) not in moved]
        orphans = [uri for uri in unknown if not any(each.fits(places[uri]) for each in others)]
        if sure or len(unknown) < len(files):
            found += [files[uri] for uri in orphans]
        elif orphans:
            no_telling.append(min(orphans))
    return found, no_telling


def _place(uri: str) -> str:
    """Return a URI, or a template of one, as it can be compared: decoded, a local one absolute and without symbolic links."""
    if urlsplit(uri).scheme in ("", "file"):
        return "file://" + os.path.realpath(open_local(uri, {})[1])
    return unquote(uri)


def _name(uri: str, run: str) -> str:
    """Return what of a file's URI stays the same when its folder is moved."""
    return unquote(uri).rpartition(run)[2]


def find_orphans(
    states: StoreReader,
    state_keys: KeyTemplate,
    resolution: Resolution,
    feeds_of_run: Callable[[str], OrphanFeeds],
) -> list[Orphan]:
    """Return the item files that the last run stored and no checkpoint of any branch names, if it was killed. Blocks.

    What runs before it left was found when it started: each run looks after the one before. Where it can't be told for sure
    there is one warning, and nothing is an orphan.

    :raises StoreUnreachable: if a store does not answer, which the run needs anyhow
    :param states: the store of the checkpoints; *state_keys*: their keys
    :param resolution: what was found there; the newest checkpoint's run is the last run
    :param feeds_of_run: says where that run's item files lie
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
            raise CheckpointError("there are newer state files that can't be used, but may name them")
        named = set() if newest.reason == "opened" else _named_by_run(states, state_keys, newest)
        return unnamed(run, named, listed, others)

    try:
        orphans, no_telling = patiently(find)
    except StoreUnreachable:
        raise
    except StateError as error:
        _warn(run, str(error))
        return []
    if no_telling:
        _warn(run, f"its checkpoints name none of the files there, such as {' and '.join(no_telling)}")
    return orphans


def _warn(run: str, why: str) -> None:
    logger.warning("orphans of run %s can't be determined: %s. Such files stay; see scrapy state orphans", run, why)


def _named_by_run(states: StoreReader, state_keys: KeyTemplate, newest: Checkpoint) -> set[str]:
    """Return what the run of its *newest* checkpoint has named, from its opening on.

    :raises CheckpointError: if that can't be read
    """
    named: set[str] = set()
    with closing(_back_from(states, state_keys, newest)) as lineage:
        for checkpoint in takewhile(lambda each: each.run == newest.run, islice(lineage, _CHECKPOINTS_BACK)):
            named.update(each.uri for each in checkpoint.files)
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
    """Log each, and *delete* it. Only after this run's opening checkpoint: from then on the last run can't name it. Blocks."""
    for store, key in orphans:
        try:
            if delete:
                store.delete(key)
            logger.info("orphan of the last run: %s: %s", store.uri(key), "deleted" if delete else "kept (STATE_ORPHANS)")
        except StateError as error:
            logger.warning("an orphan of the last run could not be deleted: %s", error)


class Unnamed(NamedTuple):
    """A run and the item files that it stored and no checkpoint names; *no_telling*: as :func:`unnamed` returns it."""

    run: Run
    files: list[Stored]
    no_telling: list[str]


class AllOrphans:
    """The item files that no checkpoint of any branch names, of all runs that are over: :meth:`among`.

    A file is one only if its name says that a run stored it whose checkpoints are all there, from its opening on, and which can
    store none any more. So never what was there before the first checkpoint, never what another spider stored, never what
    a run that may be alive will name.

    :param found: every state file there is, newest first. It is read here: before the item files are listed
    :param now: gives for the URI in a checkpoint where the file lies now
    :param newest: the checkpoint whose lineage is to be marked in *runs*
    :raises CheckpointError: if one is not valid: there is no telling what it names
    """

    def __init__(self, found: Iterable[StateFile], now: Callable[[str], str], newest: Checkpoint | None = None) -> None:
        self._named: dict[str, set[str]] = {}
        #: for each shape of the names of item files one of them, and its run
        self._examples: dict[tuple[str, str], tuple[str, str]] = {}
        self.runs = runs(self._noting(found, now), newest)
        #: the runs of whose files that can be told
        self.over = {each.last.run or "": each for each in self.runs if each.is_whole and not each.may_be_alive}

    def _noting(self, found: Iterable[StateFile], now: Callable[[str], str]) -> Iterator[StateFile]:
        for each in found:
            if each.checkpoint is None:
                raise CheckpointError(f"{each.uri}: {each.why}: there is no telling which files it names; move it away first")
            run = each.checkpoint.run or ""
            named = self._named.setdefault(run, set())
            for file in each.checkpoint.files:
                uri = now(file.uri)
                named.add(uri)
                before, found_run, after = uri.rpartition(run) if run else ("", "", "")
                if found_run:
                    self._examples.setdefault((before, re.sub("[0-9]+", "0", after)), (found_run, after))
            yield each

    def templates(self) -> list[tuple[str, tuple[str | Placeholder, ...]]]:
        """Return how the URIs of named files are made, as far as can be seen: a prefix, and what follows on it."""
        return [(before, _shape(after)) for (before, _), (_, after) in self._examples.items()]

    def among(
        self, feeds: Iterable[tuple[StoreReader | StoreWriter, KeyTemplate]], others: Sequence[KeyTemplate]
    ) -> Iterator[Unnamed]:
        """Yield each run that is over, newest first, with its files that nothing names. Blocks.

        A killed run's are orphans. Those of a run that ended lie behind its last state.

        :param feeds: for each item feed its store, and its keys there: all are listed; *others*: see :func:`files_left_out`
        """
        listed: dict[str, list[dict[str, Stored]]] = {}
        for store, keys in feeds:
            of_feed: dict[str, dict[str, Stored]] = {}
            for key in keys_within(store, keys.prefix, keys.depth):
                name = keys.run_of(key)
                if name in self.over:
                    of_feed.setdefault(name, {})[store.uri(key)] = store, key
            for name, files in of_feed.items():
                listed.setdefault(name, []).append(files)
        named_by_any: set[str] = set().union(*self._named.values())
        for name, run in self.over.items():
            named, of_feeds = self._named[name], listed.get(name, [])
            named_by_others = {uri for each in of_feeds for uri in each if uri in named_by_any}
            yield Unnamed(run, *unnamed(name, named | named_by_others, of_feeds, others, sure=not named))


def _shape(after: str) -> tuple[str | Placeholder, ...]:
    """Return how a file's name goes on behind the run's id. Numbers vary; one that begins with a zero has so many digits."""
    parts = (_number(part) if part.isdecimal() else part for part in re.split("([0-9]+)", after) if part)
    return (Placeholder("run_id", "s"), *parts)


def _number(digits: str) -> Placeholder:
    return Placeholder("batch_id", f"0{len(digits)}d" if digits.startswith("0") else "d")
