"""Segments in a store: where they are, storing, reading and merging them. Every call to a store blocks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from tempfile import TemporaryFile
from typing import IO, TypeVar

from scrapy.crawler import Crawler

from ...exceptions import CheckpointError, CheckpointTooNew, StateSettingsError
from ...feeds import StateFeed, open_template, requests_template
from ...model.key_template import KeyTemplate, without_credentials
from ...model.stored_file import StoredFile
from ...settings import get_settings
from ...stores import StoreReader, StoreWriter
from ...stores.stored_files import StoredFiles, temporary_file_errors
from .merging import merge
from .reading import Target, read_segments

S = TypeVar("S", bound=StoreReader)
_REMEDY = "restore it, or start without requests: -s STATE_REQUESTS=False"


def open_requests(
    crawler: Crawler, opener: Callable[..., tuple[S, str]], states: tuple[S, KeyTemplate] | None = None
) -> tuple[S, str]:
    """Return the store with the segments, and the prefix of their keys. Does no input or output.

    :param opener: :func:`~scrapy_state.stores.open_reader` or :func:`~scrapy_state.stores.open_writer`
    :param states: the store of the state files, and their keys, if they are not those of the state feed (STATE_FROM)
    :raises StateSettingsError: if there is neither a state feed nor STATE_REQUESTS_URI, or something varies in that
    """
    if states is not None and get_settings(crawler).requests_uri is None:
        store, template = states
        return store, f"{template.prefix}requests/"
    feed = StateFeed.from_settings(crawler.settings)
    uri = requests_template(crawler.settings)
    if uri is None:
        raise StateSettingsError("requests can't be stored without a state feed", remedy="set STATE_REQUESTS_URI")
    store, template = open_template(crawler, uri, feed and feed.options.get("uri_params"), opener)
    if template.rest:
        raise StateSettingsError(
            f"STATE_REQUESTS_URI is {without_credentials(uri)!r}, which differs between runs",
            remedy="leave out %(run_id)s, %(batch_id)d, %(time)s and %(batch_time)s",
        )
    return store, template.prefix


class StoredSegments:
    """The segments that checkpoints name, to be read.

    :param folder: the prefix of their keys
    :param open_file: returns a new temporary file
    """

    def __init__(self, store: StoreReader, folder: str, open_file: Callable[[], IO[bytes]] = TemporaryFile) -> None:
        self._folder = folder
        self._open_file = open_file
        self._files = StoredFiles(store, folder, "segment", _REMEDY, open_file)
        #: returns where a segment is stored, and a copy of it in a temporary file: see :class:`StoredFiles`
        self.uri, self.open = self._files.uri, self._files.open

    def read(self, segments: Sequence[StoredFile], target: Target) -> None:
        """Tell *target* what is in *segments*, oldest first; see :func:`~.reading.read_segments`.

        :raises CheckpointError: as :meth:`open`
        :raises StoreError: as :meth:`open`
        """
        reading = segments[:1]

        def files() -> Generator[IO[bytes], None, None]:
            nonlocal reading
            for segment in segments:
                reading = [segment]
                with self.open(segment) as file:
                    yield file

        with closing(files()) as opened:
            try:
                with temporary_file_errors("segment"):
                    read_segments(opened, target)
            except (CheckpointError, CheckpointTooNew) as error:
                error.uri, error.remedy = self.uri(reading[0]), error.remedy or _REMEDY
                raise

    def problem(self, segment: StoredFile, deep: bool) -> str | None:
        """Return what is wrong with *segment*; None if nothing is.

        :param deep: whether to read all of it, not just its end
        :raises StoreError: if the store does not answer or refuses
        """
        if not deep:
            return self._files.problem(segment)
        try:
            self.read([segment], _Nobody())
        except CheckpointError as error:
            return error.reason
        return None


class SegmentFiles(StoredSegments):
    """The write side, too.

    :param run: the run's id, with which names begin
    """

    def __init__(self, store: StoreWriter, folder: str, run: str, open_file: Callable[[], IO[bytes]] = TemporaryFile) -> None:
        super().__init__(store, folder, open_file)
        self._writer = store
        self._run = run

    def name(self, number: int) -> str:
        """Return the name of a run's segment *number*."""
        return f"{self._run}-{number:05d}.tsv.gz"

    def store_segment(self, name: str, file: IO[bytes], size: int, digest: str) -> StoredFile:
        """Store a segment. After a StoreUnreachable, call it again with the same one.

        :raises StoreError: if it can't be stored
        """
        self._writer.create(self._folder + name, file)
        return StoredFile(name, size, digest)

    def copy(self, stored: StoredSegments, segments: Sequence[StoredFile]) -> tuple[StoredFile, ...]:
        """Store copies of *segments*, which are in another place, as this run's first ones.

        :param stored: where they are
        :raises CheckpointError: as :meth:`open`
        :raises StoreError: as :meth:`open`
        """
        copies: list[StoredFile] = []
        for number, segment in enumerate(segments, 1):
            with stored.open(segment) as file:
                copies.append(self.store_segment(self.name(number), file, segment.bytes, segment.digest))
        return tuple(copies)

    def merge(self, segments: Sequence[StoredFile], is_oldest: bool, number: int) -> StoredFile:
        """Store one segment, *number*, that says what *segments* say, oldest first. It may be called again after an error.

        :param is_oldest: whether no older segment precedes them
        :raises CheckpointError: as :meth:`open`
        :raises StoreError: if the store does not answer or refuses
        """
        with ExitStack() as opened:
            files = [opened.enter_context(self.open(segment)) for segment in segments]
            into = opened.enter_context(self._open_file())
            size, digest = merge(files, is_oldest, into)
            return self.store_segment(self.name(number), into, size, digest)

    def probe(self) -> None:
        """Prove that segments can be stored, without leaving anything behind.

        :raises StoreError: if they can't
        """
        self._writer.probe(self._folder + self.name(0))


class _Nobody:
    """A target that only needs the segments to be readable."""

    def _ignore(self, *values: object) -> None:
        pass

    add = remove = saw = form = forget_forms = deaths = failed = held = cookies = name = in_flight = _ignore
