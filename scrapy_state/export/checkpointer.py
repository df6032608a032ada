"""Cut, wait, commit: when a checkpoint is due, and storing it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

from scrapy.crawler import Crawler

from ..exceptions import StateSettingsError
from ..extension import StateResolver, get_extension
from ..lineage.last_run_orphans import Orphan, OrphanFeeds, find_orphans, treat_orphans
from ..lineage.unfinished import abort_unfinished
from ..lineage.writer import CheckpointWriter
from ..model.checkpoint import Checkpoint, ItemFile
from ..model.json_values import in_log
from ..settings import StateSettings
from ..signals import checkpoint_stored
from ..stores.retry import patiently
from .durable_items import Cuts
from .open_batches import ItemFeeds
from .uploads import Uploads

logger = logging.getLogger("scrapy_state.state")


class Commits(Cuts):
    """The checkpoints of one run.

    :param items: makes the item feeds, given the uploads they go to
    :param orphan_feeds: where the last run's item files lie, given its id
    """

    def __init__(
        self,
        crawler: Crawler,
        settings: StateSettings,
        writer: CheckpointWriter,
        items: Callable[[Uploads], ItemFeeds],
        orphan_feeds: Callable[[str], OrphanFeeds],
    ) -> None:
        super().__init__(crawler, settings, items)
        self.writer = writer
        self._orphan_feeds = orphan_feeds
        self._orphans: list[Orphan] = []
        self._remembered: dict[str, Any] | None = None
        #: the handlers of the last checkpoint_stored
        self._handlers: asyncio.Task[None] | None = None

    async def _open(self) -> None:
        """Store the opening checkpoint."""
        resolver = get_extension(StateResolver, self.crawler)
        if resolver is None:
            raise StateSettingsError("EXTENSIONS has no scrapy_state.extension.StateResolver, which the state feed needs")
        began = time.monotonic()
        arguments = (self.writer.store, self.writer.template, resolver.resolution, self._orphan_feeds)
        self._orphans = await self.threads.run(find_orphans, *arguments)
        opening = partial(self.writer.open, resolver.state, resolver.resolution, resolver.resolve_own, start=resolver.start)
        checkpoint = await self.threads.run(patiently, opening)
        if not self.writer.store.atomic:
            logger.info(
                "%s may not write create-only for sure: a second writer there is detected, not prevented",
                self.writer.store.uri(self.writer.template.prefix), extra={"spider": self.crawler.spider},
            )  # fmt: skip
        if checkpoint.overlap:
            logger.warning(
                "this run does not start from the state of checkpoint %s, its parent: along the lineage items stand twice "
                "if it starts earlier (overlap), and are missing if later", checkpoint.parent,
                extra={"spider": self.crawler.spider},
            )  # fmt: skip
        await self._stored(began)
        if checkpoint.id != resolver.resolution.newest_id + 1:
            self._orphans = []  # another run's checkpoint came in between, and may name them
        self.crawler.stats.set_value("state/orphans", len(self._orphans))
        if self.writer.store.atomic:
            await self._treat_orphans()
        await self._abort_unfinished(resolver.resolution.newest)

    async def _abort_unfinished(self, last: Checkpoint | None) -> None:
        """Abort the last run's uploads: now that an opening follows its checkpoints, it can name no more files."""
        if last is not None and last.run is not None:
            aborted = await self.threads.run(abort_unfinished, self._orphan_feeds(last.run).feeds)
            self.crawler.stats.set_value("state/uploads_aborted", aborted)

    async def _treat_orphans(self) -> None:
        """Only when the run they are of can't name them any more: once we have an opening that is sure to be the only one.

        On a store that may let two win, the first commit after it has seen that it is still there.
        """
        orphans, self._orphans = self._orphans, []
        if orphans:
            await self.threads.run(treat_orphans, orphans, self.settings.orphans == "delete")

    def state_yielded(self, state: dict[str, Any]) -> None:
        """Cut at this state item if one is due; else remember it."""
        if self.barrier.ended:
            return
        self.barrier.next_epoch()
        self._remembered = state
        stopping = not self.crawler.crawling
        due = stopping or time.monotonic() - self._last_cut >= self.settings.interval_seconds
        if due and self._commit_task is None:
            self._commit_task = asyncio.create_task(self._cut())

    def _told(self) -> dict[str, Any]:
        state, self._remembered = self._remembered, None
        tracking = self.barrier.tracking
        return {"state": state, "units": None if tracking is None else tracking.report()}

    async def _store(self, files: list[ItemFile], began: float, **fields: Any) -> None:
        """Store the checkpoint of a side whose *files* are durable. Its state, if it is None: that of the last one."""
        checkpoint = self.writer.next(files=files, **fields)
        commit = partial(self.threads.run, self.writer.commit, checkpoint)
        await self._uploads.retry.run(f"checkpoint {checkpoint.id}", commit)
        await self._stored(began)
        await self._treat_orphans()

    async def _stored(self, began: float) -> None:
        checkpoint = self.barrier.stored = self.writer.last
        assert checkpoint is not None
        logger.info(
            "checkpoint %s stored: STATE %s, items: %s, files: %s, seconds: %.3f%s",
            checkpoint.id, in_log(checkpoint.state), checkpoint.items, len(checkpoint.files), time.monotonic() - began,
            f", {checkpoint.reason}" if checkpoint.reason else "", extra={"spider": self.crawler.spider},
        )  # fmt: skip
        stats = self.crawler.stats
        stats.inc_value("state/checkpoints")
        stats.max_value("state/commit_time_max", time.monotonic() - began)
        stats.set_value("state/last_id", checkpoint.id)
        stats.set_value("state/items_stored", checkpoint.items)
        self._handlers = asyncio.create_task(self._handle(deepcopy(checkpoint), self._handlers))

    async def _handle(self, checkpoint: Checkpoint, before: asyncio.Task[None] | None) -> None:
        """Send the signal for *checkpoint*, a handler's to change, when *before* is done. No other checkpoint waits for it."""
        if before is not None:
            await asyncio.wait([before])
        await self.crawler.signals.send_catch_log_async(checkpoint_stored, checkpoint=checkpoint, spider=self.crawler.spider)

    async def _close(self, reason: str) -> None:
        await super()._close(reason)
        if self._handlers is not None:
            await asyncio.wait([self._handlers])

    def _told_of_failure(self) -> str:
        last = self.writer.last
        assert last is not None
        return (
            f"checkpoints stopped at checkpoint {last.id}, STATE {in_log(last.state)}, because: {self.failure}. "
            "Put that right and start the crawl again: it goes on from there"
        )
