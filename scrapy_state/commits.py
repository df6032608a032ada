"""Cut, wait, commit: when a checkpoint is due, what it waits for, and what becomes of it when something fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from copy import deepcopy
from functools import partial
from typing import Any

from scrapy.crawler import Crawler

from .checkpoint import ItemFile
from .exceptions import ItemFailed, StateConflict, StateError, StateSettingsError
from .extension import StateResolver, as_text, get_extension
from .feedstorages import check_temporary_folder
from .gaps import fail_when_closed
from .itemfeeds import ItemFeeds
from .orphans import Orphan, OrphanFeeds, find_orphans, treat_orphans
from .patience import patiently
from .settings import StateSettings
from .signals import checkpoint_stored
from .tickets import Barrier, Side, Ticket, get_barrier
from .uploads import Retry, Uploads
from .writer import CheckpointWriter

logger = logging.getLogger("scrapy_state.state")
_LONG_WAIT_SECONDS = 60


class Commits:
    """The checkpoints of one run, from the opening to the close; the barrier's listener.

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
        self.crawler = crawler
        self.settings = settings
        self.writer = writer
        retry = Retry(settings.retry_seconds, settings.close_seconds)
        self._uploads = Uploads(crawler, retry, settings.spool_bytes, partial(self.fail, "state_store_failed"))
        self.items = items(self._uploads)
        self._orphan_feeds = orphan_feeds
        self._orphans: list[Orphan] = []
        self._remembered: dict[str, Any] | None = None
        self._last_cut = time.monotonic()
        self._cut_side: Side | None = None
        self._all_settled = asyncio.Event()
        self._commit_task: asyncio.Task[None] | None = None
        #: what failed first, so that the crawl is being closed
        self.failure: Exception | None = None
        self._failure_reason = ""
        #: nothing that the spider has yielded since the last checkpoint may be passed by another one
        self._blocked = False
        #: the last cut is made
        self.closed = False
        self.barrier: Barrier = get_barrier(crawler)
        self.barrier.listener = self

    async def opening(self) -> None:
        """See whether item files can be stored, then store the opening checkpoint. Called before the spider's first request.

        :raises StateError: if they can't be stored; the crawl does not begin
        """
        resolver = get_extension(StateResolver, self.crawler)
        if resolver is None:
            raise StateSettingsError("EXTENSIONS has no scrapy_state.extension.StateResolver, which the state feed needs")
        await asyncio.to_thread(check_temporary_folder, self.crawler.settings)
        for probe in self.items.probes():
            await asyncio.to_thread(patiently, probe)
        began = time.monotonic()
        arguments = (self.writer.store, self.writer.template, resolver.resolution, self._orphan_feeds)
        self._orphans = await asyncio.to_thread(find_orphans, *arguments)
        opening = partial(self.writer.open, resolver.state, resolver.resolution, resolver.resolve_own, start=resolver.start)
        checkpoint = await asyncio.to_thread(patiently, opening)
        if not self.writer.store.atomic:
            logger.info(
                "%s may not write create-only for sure: a second writer there is detected, not prevented",
                self.writer.store.uri(""), extra={"spider": self.crawler.spider},
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
        self._last_cut = time.monotonic()

    async def room(self) -> None:
        """Wait while the spool is full and something is being uploaded."""
        await self._uploads.spool.room()

    async def _treat_orphans(self) -> None:
        """Only when the run they are of can't name them any more: once we have an opening that is sure to be the only one.

        On a store that may let two win, the first commit after it has seen that it is still there.
        """
        orphans, self._orphans = self._orphans, []
        if orphans:
            await asyncio.to_thread(treat_orphans, orphans, self.settings.orphans == "delete")

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

    def settled(self, side: Side) -> None:
        """See whether the old side is complete."""
        if side is self._cut_side and side.out == 0:
            self._all_settled.set()

    def item_failed(self, ticket: Ticket, error: BaseException) -> None:
        """A pipeline raised: stop, or pass over the item, as STATE_ON_ITEM_ERROR says."""
        if self.settings.on_item_error == "skip":
            ticket.side.errors[ticket.epoch] += 1
            self.barrier.settle(ticket)
            return
        if ticket.side.unit and self.barrier.tracking is not None:
            self.barrier.tracking.item_failed(ticket, error)
            self.barrier.settle(ticket)
            return
        # If it follows the newest state item, that one can still be stored: only what comes after can't.
        follows = ticket.epoch == self.barrier.epoch
        if follows:
            self.barrier.settle(ticket)
        failure = ItemFailed(f"an item raised {type(error).__name__} in a pipeline")
        self.fail("state_item_failed", failure, blocks=not follows)

    def _cut(self, reason: str | None = None) -> Coroutine[Any, Any, None]:
        """Begin a new side now; return the coroutine that commits the old one."""
        state, self._remembered = self._remembered, None
        side = self._cut_side = self.barrier.cut()
        self._last_cut = time.monotonic()
        self.crawler.stats.set_value("state/items_waiting", side.out)
        tracking = self.barrier.tracking
        return self._commit(side, state, None if tracking is None else tracking.report(), reason)

    async def make_durable(self, closing: bool = False) -> bool:
        """Cut now, without a state item; return whether all that is settled by now is durable. Waits for that."""
        if closing:
            self._uploads.spool.close()
            self._uploads.retry.closing()
            if self.barrier.side.out or (self._cut_side is not None and self._cut_side.out):
                return False  # these will never be settled; close() says so
        while self._commit_task is not None:
            await asyncio.wait([self._commit_task])
        if self.failure is not None or self.closed:
            return False
        task = self._commit_task = asyncio.create_task(self._cut())
        await asyncio.wait([task])
        return self.failure is None

    async def _commit(self, side: Side, state: dict[str, Any] | None, units: dict[str, Any] | None, reason: str | None) -> None:
        began = time.monotonic()
        epoch = self.barrier.epoch
        try:
            await self._wait_until_settled(side)
            if reason is not None:
                self.items.split_side(side, epoch)
            self.items.close_side(side)
            files = []
            for batch in side.batches:
                assert batch.upload is not None
                stored = await batch.upload
                files.append(ItemFile(stored.uri, stored.items, stored.bytes, batch.skip(epoch) if reason is not None else ()))
            errors = sum(count for at, count in side.errors.items() if at < epoch)
            await self._store(state, units, files, errors, reason, began)
        except StateConflict as error:
            self.fail("state_conflict", error)
        except StateError as error:
            self.fail("state_store_failed", error)
        except Exception as error:
            logger.warning("Error storing a checkpoint", exc_info=True, extra={"spider": self.crawler.spider})
            self.fail("state_store_failed", StateError(f"{type(error).__name__}: {error}"))
        finally:
            self._commit_task = self._cut_side = None

    async def _store(
        self,
        state: dict[str, Any] | None,
        units: dict[str, Any] | None,
        files: list[ItemFile],
        errors: int,
        reason: str | None,
        began: float,
    ) -> None:
        """Store the checkpoint of a side whose files are durable. *state* None: that of the last one."""
        if state is None:
            assert self.writer.last is not None
            state = self.writer.last.state
        checkpoint = self.writer.next(state, files, errors=errors, reason=reason, units=units)
        commit = partial(asyncio.to_thread, self.writer.commit, checkpoint)
        await self._uploads.retry.run(f"checkpoint {checkpoint.id}", commit)
        await self._stored(began)
        await self._treat_orphans()

    async def _wait_until_settled(self, side: Side) -> None:
        self._all_settled.clear()
        self.settled(side)
        settled = asyncio.ensure_future(self._all_settled.wait())
        try:
            done, _ = await asyncio.wait([settled], timeout=_LONG_WAIT_SECONDS)
            if not done:
                logger.warning(
                    "a checkpoint has been waiting for %s s: %s items that came before it are still in the pipelines",
                    _LONG_WAIT_SECONDS, side.out, extra={"spider": self.crawler.spider},
                )  # fmt: skip
            await settled
        finally:
            settled.cancel()

    async def _stored(self, began: float) -> None:
        checkpoint = self.barrier.stored = self.writer.last
        assert checkpoint is not None
        logger.info(
            "checkpoint %s stored: STATE %s, items: %s, files: %s, seconds: %.3f%s",
            checkpoint.id, as_text(checkpoint.state), checkpoint.items, len(checkpoint.files), time.monotonic() - began,
            f", {checkpoint.reason}" if checkpoint.reason else "", extra={"spider": self.crawler.spider},
        )  # fmt: skip
        stats = self.crawler.stats
        stats.inc_value("state/checkpoints")
        stats.max_value("state/commit_time_max", time.monotonic() - began)
        stats.set_value("state/last_id", checkpoint.id)
        stats.set_value("state/items_stored", checkpoint.items)
        shown = deepcopy(checkpoint)  # a handler may change what it gets
        await self.crawler.signals.send_catch_log_async(checkpoint_stored, checkpoint=shown, spider=self.crawler.spider)

    def fail(self, reason: str, failure: StateError, blocks: bool = True) -> None:
        """No checkpoint past here: say so once, and close the spider.

        :param blocks: whether that also holds for the newest state item
        """
        self._blocked = self._blocked or blocks
        if self.failure is not None:
            return
        self.failure = failure
        self._failure_reason = reason
        fail_when_closed(self.crawler)
        self.barrier.ended = True
        self._uploads.spool.close()
        logger.warning("the crawl is closed (%s): %s", reason, failure, extra={"spider": self.crawler.spider})
        if self.crawler.engine.spider is not None:
            self._closing = asyncio.create_task(self.crawler.engine.close_spider_async(reason=reason))

    def closing(self) -> None:
        """Hold nothing back any more: what is in flight shall come to its end."""
        self._uploads.spool.close()

    async def close(self, reason: str) -> None:
        """Store the last state item's checkpoint, or say where the checkpoints stopped and why. To be called once."""
        if self.writer.last is None:  # the opening failed
            return
        try:
            await self._close(reason)
        finally:
            if self.failure is not None:
                last = self.writer.last
                logger.error(
                    "checkpoints stopped at checkpoint %s, STATE %s, because: %s. Put that right and start the crawl again: "
                    "it goes on from there", last.id, as_text(last.state), self.failure,
                    extra={"spider": self.crawler.spider},
                )  # fmt: skip

    def finish_reason(self, reason: str) -> str:
        """Return why the run ended: *reason*, which Scrapy closes the spider with, unless something failed on the way."""
        return self._failure_reason or reason

    async def _close(self, reason: str) -> None:
        self.barrier.ended = True  # start() may still be read, and its items come: they are for the next run
        self._uploads.spool.close()
        self._uploads.retry.closing()
        # Every item has been through the pipelines by now. What is not settled was cancelled, or has failed.
        if self._commit_task is not None:
            if self._cut_side is not None and self._cut_side.out:
                self._commit_task.cancel()
                self._unsettled(self._cut_side.out)
            await asyncio.wait([self._commit_task])
        if self.barrier.side.out:
            self._unsettled(self.barrier.side.out)
        self.closed = True
        tracking = self.barrier.tracking
        if self.failure is None and reason == "finished" and tracking is not None and tracking.holding:
            self._failure_reason = reason = "state_units_failed"  # what they are, the tracker logs
            fail_when_closed(self.crawler)
        if not self._blocked:
            await self._cut(reason)
        self.items.discard()
        await self._uploads.wait()

    def _unsettled(self, count: int) -> None:
        failure = ItemFailed(f"{count} items never came out of the pipelines")
        self.fail("state_item_failed", failure)
