"""The segments that checkpoints name, for the verbs that copy, check or delete them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from ..exceptions import StateSettingsError
from ..frontier.segments.files import SegmentFiles, StoredSegments, open_requests
from ..lineage.prune import Pruned, delete_segments
from ..model.checkpoint import Checkpoint
from ..model.key_template import placeholders
from ..model.requests import Requests
from ..settings import get_settings
from ..stores import StoreReader, open_reader, open_writer
from .target import Target

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


def drop_segments(target: Target, keys: Sequence[str], pruned: Pruned, names: set[str]) -> None:
    """Delete the segments *names*, but none that a checkpoint other than *keys* names. Blocks.

    :raises StateError: as :func:`~scrapy_state.lineage.prune.delete_segments`
    """
    if names:
        folder = _folder(target, open_writer, target.writer())
        delete_segments(target.store, target.template, keys, names, *folder, pruned)


def segment_problems(target: Target, checkpoint: Checkpoint, deep: bool) -> Iterator[tuple[str, str | None]]:
    """Yield the URI of each segment of *checkpoint*, and what is wrong with it, if anything. Blocks.

    :param deep: whether to read them, not just their ends
    :raises StoreError: if a store does not answer or refuses
    """
    if checkpoint.requests is not None and checkpoint.requests.segments:
        stored = stored_segments(target)
        for segment in checkpoint.requests.segments:
            yield stored.uri(segment), stored.problem(segment, deep)


def _folder(target: Target, opener: Callable[..., tuple[S, str]], states: S) -> tuple[S, str]:
    uri = get_settings(target.crawler).requests_uri
    if uri is not None and target.spider is None and "name" in placeholders(uri):
        raise StateSettingsError("STATE_REQUESTS_URI has %(name)s", remedy="give the name of the spider: -a name=…")
    return open_requests(target.crawler, opener, (states, target.template))
