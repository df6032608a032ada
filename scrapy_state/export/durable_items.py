"""Cut, wait, make durable: the item files of one run, and what becomes of it when something fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from scrapy import signals
from scrapy.crawler import Crawler
from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object

from ..barrier.barrier import Barrier, get_barrier
from ..barrier.tickets import Side, Ticket
from ..exceptions import ItemFailed, StateConflict, StateError, StoreError
from ..feedstorages import check_temporary_folder
from ..model.checkpoint import ItemFile
from ..scrapy_internals import fail_when_closed, until_closed
from ..settings import StateSettings
from ..stores.retry import patiently
from ..stores.threads import StoreThreads
from .open_batches import ItemFeeds
from .uploads import Retry, Uploads

logger = logging.getLogger("scrapy_state.state")
_LONG_WAIT_SECONDS = 60


def needs_durable_items(settings: BaseSettings) -> bool:
    """Whether the scheduler acknowledges requests only when their items are durable, and so asks for cuts."""
    return bool(getattr(load_object(settings["SCHEDULER"]), "needs_durable_items", False))


class Cuts:
    """Durable item files, from the opening to the close; the barrier's listener.

    As it is, it stores no checkpoint: for a crawl whose state is its frontier, kept outside the process. That asks for
    cuts by :meth:`make_durable`; state items mean nothing.

    :param items: makes the item feeds, given the uploads they go to
    """

    def __init__(self, crawler: Crawler, settings: StateSettings, items: Callable[[Uploads], ItemFeeds]) -> None:
        self.crawler = crawler
        self.settings = settings
        #: for all calls to stores
        self.threads = StoreThreads()
        retry = Retry(settings.retry_seconds, settings.close_seconds)
        self._uploads = Uploads(crawler, retry, settings.spool_bytes, partial(self.fail, "state_store_failed"))
        self.items = items(self._uploads)
        self._last_cut = time.monotonic()
        self._cut_side: Side | None = None
        self._all_settled = asyncio.Event()
        self._commit_task: asyncio.Task[None] | None = None
        self._opened = False
        #: what failed first, so that the crawl is being closed
        self.failure: Exception | None = None
        self._failure_reason = ""
        #: nothing that the spider has yielded since the last cut may be passed by another one
        self._blocked = False
        self._store_failed = False
        #: the last cut is made
        self.closed = False
        self._late = False
        crawler.signals.connect(self._engine_stopped, signals.engine_stopped)
        self.barrier: Barrier = get_barrier(crawler)
        self.barrier.listener = self

    async def opening(self) -> None:
        """See whether item files can be stored. Called before the spider's first request.

        :raises StateError: if they can't be; the crawl does not begin
        """
        await self.threads.run(check_temporary_folder, self.crawler.settings)
        for probe in self.items.probes():
            await self.threads.run(patiently, probe)
        await self._open()
        self._opened = True
        self._last_cut = time.monotonic()

    async def _open(self) -> None:
        """What else the opening asks for."""

    async def room(self) -> None:
        """Wait while the spool is full and something is being uploaded."""
        await self._uploads.spool.room()

    def state_yielded(self, state: dict[str, Any]) -> None:
        """Nothing: where to go on from is in the frontier."""

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

    def came_too_late(self) -> None:
        """An item that nobody yields again has come after the last cut: no feed has it."""
        if self.failure is None and not self._late:
            fail_when_closed(self.crawler)
            logger.error(
                "an item came after the last checkpoint, and is stored nowhere. Let a pipeline's close_spider() submit what is "
                "still to come, and wait for it there", extra={"spider": self.crawler.spider},
            )  # fmt: skip
        self._late = True
        self.crawler.stats.inc_value("state/items_late")

    def _cut(self, reason: str | None = None) -> Coroutine[Any, Any, None]:
        """Begin a new side now; return the coroutine that makes the old one durable, and stores its checkpoint.

        :param reason: why the crawl ends, at the last cut
        """
        side = self._cut_side = self.barrier.cut()
        self._last_cut = time.monotonic()
        self.crawler.stats.set_value("state/items_waiting", side.out)
        return self._commit(side, self._told(), reason)

    def _told(self) -> dict[str, Any]:
        """Return what a checkpoint of the side that is cut now has beside its files: fields of Checkpoint."""
        return {}

    async def make_durable(self, closing: bool = False) -> bool:
        """Cut now, without a state item; return whether all that is settled by now is durable. Waits for that."""
        if closing:
            self._uploads.spool.close()
            self._uploads.retry.closing(stopped=not self.crawler.crawling)
            if self.barrier.side.out or (self._cut_side is not None and self._cut_side.out):
                return False  # these will never be settled; close() says so
        while self._commit_task is not None:
            await asyncio.wait([self._commit_task])
        if self.failure is not None or self.closed:
            return False
        task = self._commit_task = asyncio.create_task(self._cut())
        await asyncio.wait([task])
        return self.failure is None

    async def _commit(self, side: Side, told: dict[str, Any], reason: str | None) -> None:
        began = time.monotonic()
        epoch = self.barrier.epoch
        try:
            await self._wait_until_settled(side)
            if reason is not None:
                self.items.split_side(side, epoch)
            self.items.close_side(side)
            await asyncio.gather(*(batch.upload for batch in side.batches))  # ends at once if one of them fails
            files = []
            for batch in side.batches:
                stored = batch.upload.result()
                files.append(ItemFile(stored.uri, stored.items, stored.bytes, batch.skip(epoch) if reason is not None else ()))
            errors = sum(count for at, count in side.errors.items() if at < epoch)
            await self._store(files, began, errors=errors, reason=reason, **told)
        except StateConflict as error:
            self.fail("state_conflict", error)
        except StateError as error:
            self.fail("state_store_failed", error)
        except Exception as error:
            logger.warning("Error storing a checkpoint", exc_info=True, extra={"spider": self.crawler.spider})
            self.fail("state_store_failed", StateError(f"{type(error).__name__}: {error}"))
        finally:
            self._commit_task = self._cut_side = None

    async def _store(self, files: list[ItemFile], began: float, **fields: Any) -> None:
        """Note that *files* are durable."""
        self.crawler.stats.inc_value("state/cuts")

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

    def fail(self, reason: str, failure: StateError, blocks: bool = True) -> None:
        """No checkpoint past here: say so once, and close the spider.

        :param blocks: whether that also holds for the newest state item
        """
        self._blocked = self._blocked or blocks
        self._store_failed = self._store_failed or isinstance(failure, StoreError)
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
        """The time begins to run if the crawl was told to stop. What is in flight still waits while the spool is full."""
        if not self.crawler.crawling:
            self._uploads.retry.closing(stopped=True)

    async def _engine_stopped(self) -> None:
        """The crawl was stopped while it was closing anyway: keep the process until that is done."""
        if self.crawler.engine.spider is not None:
            self._uploads.retry.closing(stopped=True)
            await until_closed(self.crawler.engine)

    async def close(self, reason: str) -> None:
        """Cut a last time, or say what stopped that. To be called once."""
        try:
            if self._opened:
                await self._close(reason)
        finally:
            self.threads.close()
            if self._opened and self.failure is not None:
                logger.error("%s", self._told_of_failure(), extra={"spider": self.crawler.spider})

    def _told_of_failure(self) -> str:
        return (
            f"items were not stored, because: {self.failure}. Put that right and start the crawl again: the requests they "
            "came from are still in the frontier"
        )

    def finish_reason(self, reason: str) -> str:
        """Return why the run ended: *reason*, which Scrapy closes the spider with, unless something failed on the way."""
        return self._failure_reason or reason

    async def _close(self, reason: str) -> None:
        self.barrier.ended = True  # start() may still be read, and its items come: they are for the next run
        self._uploads.spool.close()
        self._uploads.retry.closing(stopped=not self.crawler.crawling)
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
        if self.failure is None and reason == "finished" and tracking is not None and tracking.finished():
            self._failure_reason = reason = "state_units_failed"  # what they are, the tracker logs
            fail_when_closed(self.crawler)
        if not self._blocked:
            await self._cut(reason)
        self.items.discard()
        if self._store_failed:
            self._uploads.abandon()
        await self._uploads.wait()

    def _unsettled(self, count: int) -> None:
        failure = ItemFailed(f"{count} items never came out of the pipelines")
        self.fail("state_item_failed", failure)
