"""Item files that a run stored and no checkpoint names.

If the run was killed, they are orphans. If it ended, they follow its last state item and belong to the user.

Only feeds whose URI has ``%(run_id)s`` are searched: there a file's name says which run stored it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from ..exceptions import CheckpointError
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate, Placeholder, without_credentials
from ..stores import StoreReader, StoreWriter
from ..stores.base import keys_within
from ..stores.local import open_reader as open_local
from ..stores.temporary_names import FileNames, ListedFile
from .history import Run, StateFile, runs

T = TypeVar("T")
#: A file: its store and its key there
Stored: TypeAlias = "tuple[StoreReader | StoreWriter, str]"


def files_left_out(feeds: Iterable[tuple[str, Mapping[str, Any]]], spider: str, params_function: Any) -> list[KeyTemplate]:
    """Return the URIs that the files of *feeds*, which checkpoints never name, may have; in the form of :func:`_comparable`.

    :param feeds: their URI templates and feed options
    :param params_function: FEED_URI_PARAMS
    """
    return [
        KeyTemplate.of_any_run(
            _comparable(without_credentials(uri)), None if options.get("uri_params") or params_function else spider
        )
        for uri, options in feeds
    ]


def unnamed_files(
    run: str, named: Set[str], feeds: Sequence[Mapping[str, T]], others: Sequence[KeyTemplate], sure: bool = False
) -> tuple[list[T], list[str]]:
    """Return the item files of a run that no checkpoint names, and one URI from each feed where that is uncertain.

    It is uncertain if the checkpoints name none of a feed's files: they may name them all, by URIs that have changed since.

    :param named: all the URIs that the run's checkpoints name
    :param feeds: for each feed the run's files there, by URI
    :param others: see :func:`files_left_out`
    :param sure: whether to return these files even so
    """
    if all(uri in named for files in feeds for uri in files):
        return [], []
    comparable = {uri: _comparable(uri) for files in feeds for uri in files}
    named_here = {comparable[uri] for uri in named & comparable.keys()}
    # A named file that is not where its checkpoint says may have been moved: then any file of that name may be the one.
    moved = {_name(uri, run) for uri in named - comparable.keys()}
    unnamed: list[T] = []
    uncertain = []
    for files in feeds:
        unknown = [uri for uri in files if comparable[uri] not in named_here and _name(uri, run) not in moved]
        candidates = [uri for uri in unknown if not any(template.fits(comparable[uri]) for template in others)]
        if sure or len(unknown) < len(files):
            unnamed += [files[uri] for uri in candidates]
        elif candidates:
            uncertain.append(min(candidates))
    return unnamed, uncertain


def _comparable(uri: str) -> str:
    """Return a URI, or a template of one, so that two can be compared: decoded; local ones absolute, without symbolic links."""
    if urlsplit(uri).scheme in ("", "file"):
        return "file://" + os.path.realpath(open_local(uri, {})[1])
    return unquote(uri)


def _name(uri: str, run: str) -> str:
    """Return the part of a file's URI that stays the same when its folder is moved."""
    return unquote(uri).rpartition(run)[2]


class Unnamed(NamedTuple):
    """A run, the item files that it stored and no checkpoint names, and what is *uncertain*: see :func:`unnamed_files`."""

    run: Run
    files: list[Stored]
    uncertain: list[str]


class AllOrphans:
    """The item files of all runs that are over and that no checkpoint of any branch names: see :meth:`among`.

    To be listed, a file must have a name that says which run stored it; all checkpoints of that run must be there, from its
    opening on; and the run must be unable to store any more. So files from before the first checkpoint, files of other
    spiders and files of a run that may be alive are never listed.

    :param files: every state file, newest first. They are read here, before the item files are listed
    :param now: returns, for the URI in a checkpoint, the URI at which the file is now
    :param newest: the checkpoint whose lineage is marked in *runs*
    :raises CheckpointError: if a state file is not valid: nobody knows which files it names
    """

    def __init__(self, files: Iterable[StateFile], now: Callable[[str], str], newest: Checkpoint | None = None) -> None:
        self._names = FileNames()
        #: one URI for each pattern of names, in three parts: what precedes the run's id, the id, and what follows it
        self._examples: dict[tuple[str, str], tuple[str, str]] = {}
        self.runs = runs(self._noting(files, now), newest)
        #: the runs, by id, whose files can be judged
        self.over = {run.last.run or "": run for run in self.runs if run.is_whole and not run.may_be_alive}

    def _noting(self, files: Iterable[StateFile], now: Callable[[str], str]) -> Iterator[StateFile]:
        for state_file in files:
            if state_file.checkpoint is None:
                raise CheckpointError(
                    f"{state_file.why}: nobody knows which files it names", uri=state_file.uri, remedy="move it away first"
                )
            run = state_file.checkpoint.run or ""
            uris = [now(file.uri) for file in state_file.checkpoint.files]
            self._names.name(run, uris)
            for uri in uris:
                before, run_id, after = uri.rpartition(run) if run else ("", "", "")
                if run_id:
                    self._examples.setdefault((before, re.sub("[0-9]+", "0", after)), (run_id, after))
            yield state_file

    def templates(self) -> list[tuple[str, tuple[str | Placeholder, ...]]]:
        """Return how the URIs of named files are made, as far as they show it: a prefix, and what follows it."""
        return [(before, _pattern(after)) for (before, _), (_, after) in self._examples.items()]

    def among(
        self, feeds: Iterable[tuple[StoreReader | StoreWriter, KeyTemplate]], others: Sequence[KeyTemplate]
    ) -> Iterator[Unnamed]:
        """Yield each run that is over, newest first, with its files that no checkpoint names. Blocks.

        The files of a killed run are orphans. The files of a run that ended follow its last state.

        :param feeds: for each item feed its store, and its keys there, which are listed
        :param others: see :func:`files_left_out`
        """
        stores = []
        for feed, (store, keys) in enumerate(feeds):
            stores.append(store)
            for key in keys_within(store, keys.prefix, keys.depth):
                name = keys.run_of(key)
                if name in self.over:
                    self._names.list(name, ListedFile(feed, store.uri(key), key))
        for name, run in self.over.items():
            named, files = self._in_doubt(name)
            of_feeds = [{file.uri: (store, file.key) for file in files if file.feed == at} for at, store in enumerate(stores)]
            yield Unnamed(run, *unnamed_files(name, named, of_feeds, others, sure=not self._names.names_any(name)))

    def _in_doubt(self, run: str) -> tuple[set[str], list[ListedFile]]:
        """Return what :func:`unnamed_files` must know to judge a run's files: URIs that are named, and files that are there.

        A run may have a million files, nearly all of them named and there. Of these it needs one for each feed, and those that
        may be a file in doubt under another URI.
        """
        files = list(self._names.unnamed(run))
        if not files:
            return set(), []
        unnamed, names = {_comparable(file.uri) for file in files}, {_name(file.uri, run) for file in files}
        named: set[str] = set()
        feeds: set[int] = set()
        for file in self._names.named(run):
            if file.feed not in feeds or _comparable(file.uri) in unnamed:
                feeds.add(file.feed)
                named.add(file.uri)
                files.append(file)
        named.update(uri for uri in self._names.missing(run) if _name(uri, run) in names)
        return named, files


def _pattern(after: str) -> tuple[str | Placeholder, ...]:
    """Return how file names continue after the run's id. Numbers vary; one that begins with a zero has a fixed width."""
    parts = (_number(part) if part.isdecimal() else part for part in re.split("([0-9]+)", after) if part)
    return (Placeholder("run_id", "s"), *parts)


def _number(digits: str) -> Placeholder:
    return Placeholder("batch_id", f"0{len(digits)}d" if digits.startswith("0") else "d")
