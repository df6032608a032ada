"""The files that checkpoints name beside item files, for the verbs that copy, check or delete them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

from ...delta.files import NAME as DELTA
from ...delta.memory import Remembered
from ...exceptions import StateSettingsError
from ...frontier.segments.files import SegmentFiles, StoredSegments, open_requests
from ...lineage.prune import Pruned, delete_stored, keep_needed
from ...model.checkpoint import Checkpoint
from ...model.key_template import placeholders
from ...model.requests import Requests
from ...settings import get_settings
from ...stores import StoreReader, open_reader, open_writer
from ...stores.stored_files import StoredFiles, copy_files
from ...stores.temporary_names import StoredNames
from ..target import Target

S = TypeVar("S", bound=StoreReader)


def stored_segments(target: Target) -> StoredSegments:
    """Return the segments that the checkpoints of *target* name. Does no input or output.

    :raises StateSettingsError: if it is not known where they are
    """
    return StoredSegments(*_folder(target, open_reader, target.store))


def copy_segments(source: Target, target: Target, checkpoint: Checkpoint, run: str) -> Requests | None:
    """Copy the segments of *checkpoint* to the folder of *target*; return the requests as they are there. Blocks.

    :param run: the run whose name the copies get: if both targets have the same folder, either can be pruned
    :raises CheckpointError: if a segment is missing or damaged
    :raises StoreError: if a store does not answer or refuses
    """
    if checkpoint.requests is None:
        return None
    originals, copies = stored_segments(source), SegmentFiles(*_folder(target, open_writer, target.writer()), run)
    return replace(checkpoint.requests, segments=copies.copy(originals, checkpoint.requests.segments))


def copy_memories(source: Target, target: Target, checkpoint: Checkpoint, crawl: int) -> dict[str, Mapping[str, Any]]:
    """Copy the files of *checkpoint*'s memories to the folders of *target*. Return the memories as they are there. Blocks.

    :param crawl: the number of the crawl that continues from the copy
    :raises CheckpointError: if a file is missing or damaged
    :raises StoreError: if a store does not answer or refuses
    """
    for name, files in checkpoint.stored.items():
        if name != "requests":
            copy_files(_memory(source, name), files, target.writer(), f"{target.template.prefix}{name}/")
    memories = dict(checkpoint.memories)
    if DELTA in memories:
        memories[DELTA] = Remembered.of(checkpoint).to_json(crawl)
    return memories


def drop_stored(target: Target, keys: Sequence[str], pruned: Pruned, stored: StoredNames) -> None:
    """Delete the files *stored*, but none that a checkpoint other than *keys* names. Blocks.

    :raises StateError: as :func:`~scrapy_state.lineage.prune.keep_needed`
    """
    keep_needed(target.store, target.template, keys, stored)
    for folder, names in groupby(stored, itemgetter(0)):
        store, prefix = (
            _folder(target, open_writer, target.writer())
            if folder == "requests"
            else (target.writer(), f"{target.template.prefix}{folder}/")
        )
        delete_stored(store, (prefix + name for _, name in names), pruned)


def stored_problems(target: Target, checkpoint: Checkpoint, deep: bool) -> Iterator[tuple[str, str | None]]:
    """Yield the URI of each file that *checkpoint* names beside item files, and what is wrong with it, if anything. Blocks.

    :param deep: whether to read them, not just their ends
    :raises StoreError: if a store does not answer or refuses
    """
    for name, files in checkpoint.stored.items():
        if files:
            stored = stored_segments(target) if name == "requests" else _memory(target, name)
            for file in files:
                yield stored.uri(file), stored.problem(file, deep)


def _memory(target: Target, name: str) -> StoredFiles:
    return StoredFiles(target.store, f"{target.template.prefix}{name}/", "file", "restore it")


def _folder(target: Target, opener: Callable[..., tuple[S, str]], states: S) -> tuple[S, str]:
    uri = get_settings(target.crawler).requests_uri
    if uri is not None and target.spider is None and "name" in placeholders(uri):
        raise StateSettingsError("STATE_REQUESTS_URI has %(name)s", remedy="give the name of the spider: -a name=…")
    return open_requests(target.crawler, opener, (states, target.template))
