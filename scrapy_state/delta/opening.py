"""What earlier crawls have stored, as far as the checkpoint that a run starts from knows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from scrapy.crawler import Crawler

from ..exceptions import CheckpointError
from ..extension import StateResolver
from ..feeds import open_template
from ..feedstorages import temporary_files
from ..lineage.chain import read_checkpoint
from ..lineage.resolve import resolve
from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate, placeholders
from ..model.stored_file import StoredFile
from ..stores import StoreReader, open_reader, open_writer
from ..stores.base import keys_within
from .files import RunFiles, StoredRuns
from .known import Known
from .memory import Remembered, next_crawl

#: The newest checkpoints of this many workers are read. Each names what was stored before its worker began.
_MOST_WORKERS = 50


@dataclass
class Found:
    """What a run begins with.

    :param runs: where *remembered* is
    :param crawl: the number of the crawl in the run's own checkpoints
    """

    runs: StoredRuns
    remembered: Remembered
    crawl: int
    known: Known


def find(crawler: Crawler, resolver: StateResolver, reset: bool) -> Found | None:
    """Read the pages of earlier crawls. Return None if there is neither a state feed nor STATE_FROM. Blocks.

    :param reset: STATE_DELTA_RESET
    :raises CheckpointError: if a file that a checkpoint names is missing or damaged
    :raises StoreError: if a store does not answer or refuses
    """
    settings, feed = resolver.settings, resolver.feed
    if _starts_elsewhere(resolver):
        place: tuple[str, Any] = str(settings.read_from), None
    elif feed is not None:
        place = feed.uri, feed.options.get("uri_params")
    else:
        return None
    store, template = open_template(crawler, *place, open_reader)
    if not _starts_elsewhere(resolver) and "run_id" in placeholders(place[0]):
        remembered = _of_workers(store, template)
    elif settings.explicit and (settings.readonly or feed is None):  # nobody has looked yet
        remembered = Remembered.of(resolve(store, template, or_none=True).checkpoint)
    else:
        remembered = Remembered.of((resolver.found if _starts_elsewhere(resolver) else resolver.resolution).checkpoint)
    if reset:
        remembered = replace(remembered, old=())
    runs = StoredRuns(store, template.prefix, temporary_files(crawler.settings))
    return Found(runs, remembered, next_crawl(resolver.resolution.checkpoint), runs.known(remembered.old))


def to_write(crawler: Crawler, resolver: StateResolver, found: Found, run: str) -> RunFiles:
    """Return where this *run* stores runs of keys. Copies what was *found* there if that is elsewhere. Blocks.

    :raises CheckpointError: as :func:`find`
    :raises StoreError: as :func:`find`
    """
    assert resolver.feed is not None
    store, template = open_template(crawler, resolver.feed.uri, resolver.feed.options.get("uri_params"), open_writer)
    files = RunFiles(store, template.prefix, run, temporary_files(crawler.settings))
    if _starts_elsewhere(resolver):
        files.copy(found.runs, (*found.remembered.old, *found.remembered.new))
    return files


def _starts_elsewhere(resolver: StateResolver) -> bool:
    """Whether what counts is another prefix's checkpoint (STATE_FROM)."""
    return isinstance(resolver.settings.read_from, str) and (resolver.feed is None or not resolver.settings.explicit)


def _of_workers(store: StoreReader, template: KeyTemplate) -> Remembered:
    """Return what workers that have a lineage each have stored.

    The crawl of a frontier in Redis is over for all workers when it is over for one of them.
    """
    keys_of: defaultdict[str, list[str]] = defaultdict(list)
    for key in template.in_order(keys_within(store, template.prefix, template.depth)):
        run = template.run_of(key)
        if run is not None:
            keys_of[run].append(key)
    newest = (_newest(store, template, keys_of[run]) for run in sorted(keys_of)[-_MOST_WORKERS:])
    checkpoints = [checkpoint for checkpoint in newest if checkpoint is not None]
    over = max((checkpoint.time or "" for checkpoint in checkpoints if checkpoint.is_over), default="")
    old: list[Sequence[StoredFile]] = []
    new: list[Sequence[StoredFile]] = []
    for checkpoint in checkpoints:
        remembered = Remembered.of(checkpoint)
        old.append(remembered.old)
        (old if (checkpoint.time or "") <= over else new).append(remembered.new)
    before = {file.name: file for file in sorted(chain(*old), key=_name)}
    since = {file.name: file for file in sorted(chain(*new), key=_name) if file.name not in before}
    return Remembered(tuple(before.values()), tuple(since.values()))


def _newest(store: StoreReader, template: KeyTemplate, keys: Sequence[str]) -> Checkpoint | None:
    for key in reversed(keys):
        with suppress(CheckpointError):  # torn: the one before it counts
            checkpoint = read_checkpoint(store, template, key)
            if checkpoint is not None:
                return checkpoint
    return None


def _name(file: StoredFile) -> str:
    return file.name
