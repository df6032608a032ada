"""Before the first request: read what the last run has kept, and build the parts that keep it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from scrapy.crawler import Crawler
from scrapy.utils.job import job_dir

from ..barrier.barrier import get_barrier
from ..barrier.log import SpiderLog
from ..extension import StateResolver, get_extension
from ..feeds import StateFeed, open_template
from ..feedstorages import temporary_files, temporary_folder
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate
from ..settings import get_settings
from ..stores import StoreReader, StoreWriter, open_reader, open_writer
from ..stores.stored_files import StoredFiles
from . import files, objects
from .components import find_components
from .copying import is_sidecar
from .files import KeptFiles, files_from_json
from .objects import Kept, KeptObjects, begin, read_objects
from .registry import get_registry
from .restoring import Restored, finish, restore
from .selection import WORK, Selection, project_folder

#: How many names of files a line of the log shows
_SHOWN = 5


@dataclass(frozen=True)
class Last:
    """Where a run finds what the last one has kept.

    :param checkpoint: the checkpoint that names it; None if there is none
    :param is_elsewhere: whether that is in another place than this run's checkpoints (STATE_FROM)
    """

    checkpoint: Checkpoint | None
    is_elsewhere: bool
    store: StoreReader
    template: KeyTemplate

    def files(self, crawler: Crawler, memory: str, what: str, remedy: str) -> StoredFiles:
        """Return the files of *memory*, to be read."""
        return StoredFiles(
            self.store, f"{self.template.prefix}{memory}/", what, remedy, temporary_files(crawler.settings)
        )  # fmt: skip


def keep(crawler: Crawler, writes: bool, run: str) -> None:
    """Have this run begin with what the last one has kept. *writes*: whether it stores checkpoints, as the run *run*."""
    get_barrier(crawler).openers.append(partial(_open, crawler, writes, run))


async def _open(crawler: Crawler, writes: bool, run: str) -> None:
    last = find_last(crawler)
    await _open_files(crawler, last, run if writes else None)
    await _open_objects(crawler, last, run if writes else None)


def find_last(crawler: Crawler) -> Last | None:
    """Return where this run finds what the last one has kept; None if it knows no checkpoints."""
    settings, resolver = get_settings(crawler), get_extension(StateResolver, crawler)
    if resolver is None:
        return None
    if isinstance(settings.read_from, str) and not settings.explicit:
        store, template = open_template(crawler, settings.read_from, None, open_reader)
        return Last(resolver.found.checkpoint, True, store, template)
    if resolver.feed is None:
        return None
    store, template = open_template(crawler, resolver.feed.uri, resolver.feed.options.get("uri_params"), open_reader)
    return Last(resolver.resolution.checkpoint, False, store, template)


def open_own(crawler: Crawler) -> tuple[StoreWriter, str]:
    """Return the store of this run's checkpoints, and the prefix of their keys."""
    feed = StateFeed.from_settings(crawler.settings)
    assert feed is not None
    store, template = open_template(crawler, feed.uri, feed.options.get("uri_params"), open_writer)
    return store, template.prefix


def make_selection(crawler: Crawler, root: Path) -> Selection:
    """Return the files in *root* that STATE_FILES names.

    :raises StateSettingsError: if it must not name them
    """
    refused = {}
    if folder := job_dir(crawler.settings):
        refused[Path(folder)] = (
            "JOBDIR holds the requests, which are in the checkpoints already; its files would be copied in the middle of a "
            "change, and fit neither the state nor the items"
        )
    feed = StateFeed.from_settings(crawler.settings)
    if feed is not None:
        store, template = open_template(crawler, feed.uri, feed.options.get("uri_params"), open_reader)
        uri = urlsplit(store.uri(template.prefix))
        if uri.scheme == "file":
            refused[Path(unquote(uri.path)).parent if not uri.path.endswith("/") else Path(unquote(uri.path))] = (
                "the checkpoints themselves are there"
            )
    return Selection(root, get_settings(crawler).files, refused)


async def _open_files(crawler: Crawler, last: Last | None, run: str | None) -> None:
    """Put the files of the last run back, and keep them. *run*: the id of this run, if it stores checkpoints.

    :raises StateError: if STATE_FILES can't be used, or a file can't be put back
    """
    settings, barrier, log, root = get_settings(crawler), get_barrier(crawler), SpiderLog(crawler), project_folder()
    if (root / WORK).is_dir():  # even if this run keeps no files
        await asyncio.to_thread(finish, root)
    if not settings.files:
        return
    if last is None:
        log.warning("STATE_FILES has no effect: without a state feed (or STATE_FROM) there are no checkpoints to keep files in")
        return
    if run is None and settings.files_folder is not None:
        root = settings.files_folder.resolve()
    selection = make_selection(crawler, root)
    checkpoint = last.checkpoint
    kept = files_from_json({} if checkpoint is None else checkpoint.memories.get(files.NAME, {}))
    wanted = {path: file for path, file in kept.items() if selection.has(path)}
    restored, stored = Restored(), None
    if checkpoint is not None and files.NAME in checkpoint.memories:
        stored = last.files(crawler, files.NAME, "file", files.REMEDY)
        unknown = await asyncio.to_thread(_unknown, selection, wanted)
        restored = await asyncio.to_thread(restore, root, wanted, stored)
        log.info(
            "files of checkpoint %s: %s restored, %s as they were", checkpoint.id, len(restored.replaced), len(restored.same)
        )
        _log_some(log, "not in the checkpoint, and left as they are (%s): %s", unknown)
        _log_some(log, "not in STATE_FILES, and not restored (%s): %s", kept.keys() - wanted)
    if run is None:
        return
    store, prefix = open_own(crawler)
    elsewhere = stored if last.is_elsewhere else None
    barrier.memories.append(
        KeptFiles(
            barrier, log, selection, wanted, restored.same, elsewhere, store, f"{prefix}{files.NAME}/",
            settings.files_interval_seconds, settings.files_bytes, temporary_folder(crawler.settings),
            temporary_files(crawler.settings), run,
        )
    )  # fmt: skip


def _unknown(selection: Selection, wanted: Collection[str]) -> list[str]:
    return [path for path, _ in selection.files() if path not in wanted and not is_sidecar(str(selection.root / path))]


def _log_some(log: SpiderLog, message: str, paths: Collection[str]) -> None:
    if paths:
        some = sorted(paths)
        log.info(message, len(some), ", ".join([*some[:_SHOWN], *(["…"] if len(some) > _SHOWN else [])]))


async def _open_objects(crawler: Crawler, last: Last | None, run: str | None) -> None:
    """*run*: the id of this run, if it stores checkpoints.

    :raises StateError: if what is kept can't be read, or a component refuses it
    """
    registry, found = get_registry(crawler), find_components(crawler)
    if not registry and not found:
        registry.begin({}, is_new_crawl=False, writes=False)  # whoever makes an object from here on gets an error
        return
    checkpoint = None if last is None else last.checkpoint
    kept = Kept.from_json({} if checkpoint is None else checkpoint.memories.get(objects.NAME, {}))
    stored = None if last is None else last.files(crawler, objects.NAME, "file", objects.REMEDY)
    contents: dict[str, dict[Any, Any]] = {}
    data: dict[str, Any] = {}
    if stored is not None:
        contents, data = await asyncio.to_thread(read_objects, stored, kept, found)
    begin(registry, found, contents, data, checkpoint is not None and checkpoint.is_over, writes=run is not None)
    if run is None:
        return
    store, prefix = open_own(crawler)
    elsewhere = stored if last is not None and last.is_elsewhere else None
    folder, open_file = f"{prefix}{objects.NAME}/", temporary_files(crawler.settings)
    memory = KeptObjects(SpiderLog(crawler), registry, found, kept, elsewhere, store, folder, run, open_file)
    get_barrier(crawler).memories.append(memory)
