"""What checkpoints say of the pages that gave items: the keys of each side become a run of their own."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from scrapy.statscollectors import StatsCollector

from ..barrier.tickets import Side
from ..exceptions import StateError
from ..frontier.segments import to_merge
from ..model.checkpoint import Checkpoint
from ..model.stored_file import StoredFile
from .files import NAME, RunFiles

if TYPE_CHECKING:
    from ..export.retry import Retry
    from ..stores.threads import StoreThreads

logger = logging.getLogger("scrapy_state.state")
DAY_SECONDS = 86400


@dataclass(frozen=True)
class Remembered:
    """The runs that a checkpoint names, oldest first.

    :param old: with the pages of earlier crawls; *new*: with those of the crawl that a run from this checkpoint continues
    """

    old: tuple[StoredFile, ...] = ()
    new: tuple[StoredFile, ...] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint | None) -> Remembered:
        """Return what *checkpoint* names; nothing if it has no such memory."""
        if checkpoint is None:
            return cls()
        files, memory = checkpoint.stored.get(NAME, ()), checkpoint.memories.get(NAME, {})
        new = memory.get("new") if memory.get("crawl") == next_crawl(checkpoint) else 0
        begin = len(files) - new if isinstance(new, int) and 0 <= new <= len(files) else len(files)
        return cls(files[:begin], files[begin:])

    def to_json(self, crawl: int) -> dict[str, Any]:
        """Return what a checkpoint of that crawl says."""
        return {"crawl": crawl, "new": len(self.new), "stored": [asdict(file) for file in (*self.old, *self.new)]}


def next_crawl(checkpoint: Checkpoint | None) -> int:
    """Return the number of the crawl to which a run from *checkpoint* belongs."""
    return 1 if checkpoint is None else (checkpoint.crawl or 1) + checkpoint.is_over


def today() -> int:
    """Return the day, UTC, as runs have it."""
    return int(time.time() // DAY_SECONDS)


class DeltaMemory:
    """The pages of a crawl, as its checkpoints remember them. Use it only in the event loop's thread.

    :param files: stores runs of keys
    :param remembered: the runs that are there when this run begins
    :param crawl: the number of the crawl
    """

    name = NAME

    def __init__(self, files: RunFiles, remembered: Remembered, crawl: int, stats: StatsCollector) -> None:
        self._files = files
        self._old, self._new = list(remembered.old), list(remembered.new)
        self._crawl = crawl
        self._stats = stats
        #: how many runs of keys this run has stored
        self._number = 0
        self._merging: asyncio.Task[None] | None = None

    async def opening(self, threads: StoreThreads, retry: Retry) -> Mapping[str, Any]:
        """See :class:`~scrapy_state.barrier.parts.Memory`. A crawl may be too short to merge runs later, so it waits."""
        self.stored(threads)
        if self._merging is not None:
            await self._merging
        return self._content

    def snapshot(self, side: Side) -> Side:
        """See :class:`~scrapy_state.barrier.parts.Memory`. The keys are known when the last items of *side* are exported."""
        return side

    async def store(self, snapshot: Side, threads: StoreThreads, retry: Retry) -> Mapping[str, Any]:
        """See :class:`~scrapy_state.barrier.parts.Memory`."""
        days = dict.fromkeys((key for key, epoch in snapshot.keys.items() if epoch < math.inf), today())
        if days:
            self._number += 1
            store = partial(threads.run, self._files.store, self._number, days)
            self._new.append(await retry.run("the keys of the pages that gave items", store))
            self._stats.inc_value("state/delta_stored", len(days))
        return self._content

    def stored(self, threads: StoreThreads) -> None:
        """See :class:`~scrapy_state.barrier.parts.Memory`. Merges runs if there are many; no checkpoint waits for that."""
        if self._merging is not None:
            return
        for files in (self._old, self._new):
            found = to_merge([file.bytes for file in files])
            if found is not None:
                is_oldest = found[0] == 0 and (files is self._old or not self._old)
                self._merging = asyncio.create_task(self._merge(threads, files, *found, is_oldest))
                return

    @property
    def _content(self) -> dict[str, Any]:
        return Remembered(tuple(self._old), tuple(self._new)).to_json(self._crawl)

    async def _merge(self, threads: StoreThreads, files: list[StoredFile], first: int, end: int, is_oldest: bool) -> None:
        self._number += 1
        chosen: Sequence[StoredFile] = files[first:end]
        try:
            merged = await threads.run(self._files.merge, self._number, chosen, is_oldest)
        except (StateError, OSError) as error:
            logger.warning("runs of keys could not be merged, so a start will read more files: %s", error)
            return
        finally:
            self._merging = None
        files[first:end] = [merged]  # only runs behind these may have been added since
