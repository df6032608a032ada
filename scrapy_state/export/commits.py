"""Storing the checkpoints of one run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

from scrapy.crawler import Crawler

from ..barrier.log import SpiderLog
from ..lineage.last_run import Orphan, OrphanFeeds, abort_unfinished, find_orphans, treat_orphans
from ..lineage.writer import CheckpointWriter
from ..model.checkpoint import Checkpoint
from ..model.item_file import ItemFile
from ..model.json_values import in_log
from ..model.requests import Requests
from ..model.totals import Totals
from ..signals import checkpoint_stored
from ..stores.retry import patiently
from ..stores.threads import StoreThreads
from .retry import Retry

if TYPE_CHECKING:
    from ..extension import StateResolver


class Commits:
    """Stores the opening checkpoint of one run, and one checkpoint for each cut. Says so in log, stats and signal.

    :param writer: gives checkpoints their ids and writes them
    :param get_resolver: returns the extension that knows where this run starts
    :param orphan_feeds: returns where the item files of the last run are, given its id
    :param delete_orphans: STATE_ORPHANS = "delete"
    """

    def __init__(
        self,
        crawler: Crawler,
        writer: CheckpointWriter,
        threads: StoreThreads,
        retry: Retry,
        get_resolver: Callable[[], StateResolver],
        orphan_feeds: Callable[[str], OrphanFeeds],
        delete_orphans: bool,
    ) -> None:
        self._crawler = crawler
        self._log = SpiderLog(crawler)
        self._writer = writer
        self._threads = threads
        self._retry = retry
        self._get_resolver = get_resolver
        self._orphan_feeds = orphan_feeds
        self._delete_orphans = delete_orphans
        self._orphans: list[Orphan] = []
        #: when the newest checkpoint was cut, by ``time.monotonic()``, and how many pages the run had by then
        self._last_cut = (0.0, 0)
        #: the handlers of the newest checkpoint_stored
        self._handlers: asyncio.Task[None] | None = None

    @property
    def last(self) -> Checkpoint | None:
        """The newest checkpoint; None before the opening one."""
        return self._writer.last

    async def open(self, requests: Requests | None, memories: Mapping[str, Mapping[str, Any]]) -> None:
        """Store the opening checkpoint, with the *requests* that this run continues with, and its *memories*.

        :raises StateError: if it can't be stored
        """
        resolver = self._get_resolver()
        began = time.monotonic()
        writer, resolution = self._writer, resolver.resolution
        self._orphans = await self._threads.run(find_orphans, writer.store, writer.template, resolution, self._orphan_feeds)
        state = resolver.state if resolver.start is None else resolver.start.state
        opening = partial(
            writer.open, state, resolution, resolver.resolve_own, start=resolver.start, requests=requests, memories=memories
        )  # fmt: skip
        checkpoint = await self._threads.run(patiently, opening)
        if not writer.store.atomic:
            self._log.info(
                "%s may not write create-only for sure: a second writer there is detected, not prevented",
                writer.store.uri(writer.template.prefix),
            )  # fmt: skip
        if checkpoint.overlap:
            self._log.warning(
                "this run does not start from the state of checkpoint %s, its parent: along the lineage there are items twice "
                "if it starts earlier (overlap), and items are missing if it starts later", checkpoint.parent,
            )  # fmt: skip
        self._stored(checkpoint, began)
        self._last_cut = (time.monotonic(), 0)
        if checkpoint.id != resolution.newest_id + 1:
            self._orphans = []  # another run has stored a checkpoint since, which may name them
        self._crawler.stats.set_value("state/orphans", len(self._orphans))
        if writer.store.atomic:
            await self._treat_orphans()
        await self._abort_unfinished(resolution.newest)

    async def commit(self, files: list[ItemFile], began: float, **fields: Any) -> None:
        """Store the checkpoint of a side whose *files* are durable.

        :param began: when it was cut, by ``time.monotonic()``
        :param fields: further arguments of :meth:`CheckpointWriter.next`
        :raises StateConflict: if another run stores checkpoints in the same place
        :raises StoreError: if it can't be stored
        """
        checkpoint = self._writer.next(files=files, spent=self._spent(began), **fields)
        commit = partial(self._threads.run, self._writer.commit, checkpoint)
        await self._retry.run(f"checkpoint {checkpoint.id}", commit)
        self._stored(checkpoint, began)
        await self._treat_orphans()

    def _spent(self, began: float) -> Totals:
        """Return the pages and seconds since the last cut."""
        stats, (last, before) = self._crawler.stats, self._last_cut
        pages = stats.get_value("response_received_count", 0) - stats.get_value("robotstxt/response_count", 0)
        self._last_cut = (began, pages)
        return Totals(pages=max(0, pages - before), seconds=max(0.0, began - last))

    async def close(self) -> None:
        """Wait for the handlers of checkpoint_stored."""
        if self._handlers is not None:
            await asyncio.wait([self._handlers])

    def where_stopped(self, error: Exception) -> str:
        """Return a message that says at which checkpoint *error* has stopped the checkpoints, and what to do."""
        last = self.last
        assert last is not None
        return (
            f"checkpoints stopped at checkpoint {last.id}, STATE {in_log(last.state)}, because: {error}. "
            "Put that right and start the crawl again: it continues from there"
        )

    def _stored(self, checkpoint: Checkpoint, began: float) -> None:
        self._log.info(
            "checkpoint %s stored: STATE %s, items: %s, files: %s, seconds: %.3f%s%s",
            checkpoint.id, in_log(checkpoint.state), checkpoint.items, len(checkpoint.files), time.monotonic() - began,
            f", requests: {checkpoint.requests.pending}" if checkpoint.requests is not None else "",
            f", {checkpoint.reason}" if checkpoint.reason else "",
        )  # fmt: skip
        stats = self._crawler.stats
        stats.inc_value("state/checkpoints")
        stats.set_value("state/commit_time", time.monotonic() - began)
        stats.max_value("state/commit_time_max", time.monotonic() - began)
        stats.set_value("state/last_id", checkpoint.id)
        stats.set_value("state/items_stored", checkpoint.items)
        self._handlers = asyncio.create_task(self._handle(deepcopy(checkpoint), self._handlers))

    async def _handle(self, checkpoint: Checkpoint, before: asyncio.Task[None] | None) -> None:
        """Send the signal for *checkpoint*, which handlers may change, after *before*. No other checkpoint waits for it."""
        if before is not None:
            await asyncio.wait([before])
        await self._crawler.signals.send_catch_log_async(checkpoint_stored, checkpoint=checkpoint, spider=self._crawler.spider)

    async def _treat_orphans(self) -> None:
        """Report or delete the orphans. Not before it is sure that their run can't name them any more.

        It is sure once our opening checkpoint is stored. On a store without create-only writes another run may have overwritten
        that; there the first commit after it finds out.
        """
        orphans, self._orphans = self._orphans, []
        if orphans:
            await self._threads.run(treat_orphans, orphans, self._delete_orphans)

    async def _abort_unfinished(self, last: Checkpoint | None) -> None:
        """Abort the last run's unfinished uploads: an opening follows its checkpoints now, so it can name no more files."""
        if last is not None and last.run is not None:
            aborted = await self._threads.run(abort_unfinished, self._orphan_feeds(last.run).feeds)
            self._crawler.stats.set_value("state/uploads_aborted", aborted)
