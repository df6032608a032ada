"""When to cut, and what follows: durable item files first, then the checkpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from scrapy import signals
from scrapy.crawler import Crawler

from ..barrier.barrier import Barrier
from ..barrier.failure import all_requests_failed
from ..barrier.log import SpiderLog
from ..barrier.tickets import Side
from ..exceptions import ItemFailed, StateConflict, StateError, as_state_error
from ..model.checkpoint import Checkpoint
from ..model.requests import Requests
from ..scrapy_internals import until_closed
from ..settings import StateSettings
from ..stores.threads import all_done
from .commits import Commits
from .due import Due
from .durable_items import DurableItems
from .item_errors import ItemErrors
from .memories import Memories, Snapshots


class Checkpointer:
    """Cuts when a checkpoint is due. Each cut is made durable and committed before the next one.

    :param items: makes the files of the old side durable
    :param commits: stores the checkpoints. None if there is no state feed: then the scheduler keeps the state, state items mean
        nothing, and only :meth:`make_durable` cuts
    """

    def __init__(
        self, crawler: Crawler, settings: StateSettings, barrier: Barrier, items: DurableItems, commits: Commits | None
    ) -> None:
        self._crawler = crawler
        self._log = SpiderLog(crawler)
        self._settings = settings
        self._barrier = barrier
        self._tickets = barrier.tickets
        self._failure = barrier.failure
        self._items = items
        self._commits = commits
        self._memories = Memories(barrier.memories, items.threads, items.retry)
        #: the newest state since the last cut; None if there is none
        self._state: dict[str, Any] | None = None
        self._due = Due(settings.interval_seconds, self._cut_with_requests, self._log)
        #: the side that was cut and is not committed yet, and the task that commits it
        self._old_side: Side | None = None
        self._commit_task: asyncio.Task[None] | None = None
        self._opened = False
        self._makes_last_cut = False
        #: whether a cut with requests has been due during the commit that is under way
        self._waits_for_commit = False
        #: whether the last cut has been made, so that no more items can be exported
        self.closed = False
        self._item_errors = ItemErrors(crawler, settings, barrier)
        #: see :class:`~scrapy_state.barrier.parts.Listener`, and :meth:`ItemErrors.came_too_late`
        self.item_failed, self.item_came_too_late = self._item_errors.failed, self._item_errors.came_too_late
        crawler.signals.connect(self._engine_stopped, signals.engine_stopped)

    @property
    def stored(self) -> Checkpoint | None:
        """The newest checkpoint of this run; None if it has stored none."""
        return None if self._commits is None else self._commits.last

    @property
    def is_clean(self) -> bool:
        """Whether a checkpoint needs no requests."""
        return bool(self._due.is_clean)

    async def opening(self) -> None:
        """Check that item files can be stored, and store the opening checkpoint. To be called before the first request.

        :raises StateError: if either is impossible
        """
        await self._items.open()
        if self._commits is not None:
            requests = await self._requests_at_opening()
            await self._commits.open(requests, await self._memories.opening())
            self._due.opened(with_requests=requests is not None)
        self._opened = True

    def state_yielded(self, state: dict[str, Any], is_start: bool = False) -> None:
        """Remember *state*, and cut here if a checkpoint is due. *is_start*: whether ``start()`` yields it."""
        if self._commits is None or self._barrier.ended:
            return
        recorder = self._barrier.recorder
        if recorder is not None:
            is_clean = recorder.begin_anew(state, is_start)
            self._due.note_clean(is_clean)
            self.requests_changed()
            if not is_clean or self._barrier.ended:  # exporting the items before the state may have failed
                return
        self._tickets.next_epoch()
        self._state = state
        is_due = self._due.now or not self._crawler.crawling
        if is_due and self._commit_task is None:
            self._commit_task = asyncio.create_task(self._cut())

    def requests_changed(self) -> None:
        """Cut with the requests once that is due."""
        if self._opened and not self._makes_last_cut:
            self._due.requests_changed()

    async def make_durable(self, closing: bool = False) -> bool:
        """Cut now, without a state item. Wait, and return whether every item that is settled by now has become durable."""
        if closing:
            self._barrier.backpressure.end()
            self._items.retry.closing(stopped=not self._crawler.crawling)
            if self._tickets.current.side.out or (self._old_side is not None and self._old_side.out):
                return False  # these items will never be settled; close() reports it
        while self._commit_task is not None:
            await asyncio.wait([self._commit_task])
        if self._failure.error is not None or self.closed:
            return False
        task = self._commit_task = asyncio.create_task(self._cut())
        await asyncio.wait([task])
        return self._failure.error is None

    def closing(self) -> None:
        """Start the clock of STATE_CLOSE_TIMEOUT if somebody has stopped the crawl. Backpressure may last until the close."""
        if not self._crawler.crawling:
            self._items.retry.closing(stopped=True)
        if self._barrier.recorder is not None and not self._due.is_clean and not self._barrier.ended:
            self._cut_with_requests()  # somebody may kill the process before it is closed

    async def close(self, reason: str) -> None:
        """Make the last cut, and log where the checkpoints stopped if the crawl has failed. To be called once."""
        try:
            if self._opened:
                await self._close(reason)
        finally:
            self._items.threads.close()
            if self._opened and self._failure.error is not None:
                self._log.error("%s", self._where_stopped(self._failure.error))

    def _cut_with_requests(self) -> None:
        """Cut now, unless a commit is under way: then once that is done."""
        self._due.cancel()
        recorder = self._barrier.recorder
        self._waits_for_commit = self._commit_task is not None
        if recorder is None or self._waits_for_commit or self._makes_last_cut or self._failure.error is not None:
            return
        if recorder.has_changed:
            self._due.note_clean(False)
            self._commit_task = asyncio.create_task(self._cut(with_requests=True))

    async def _store_requests(self, snapshot: Any) -> Requests | None:
        """Store what *snapshot*, if there is one, needs; return what the checkpoint says of the requests."""
        recorder = self._barrier.recorder
        if snapshot is None or recorder is None:
            return None
        return await recorder.store(snapshot, self._items.threads, self._items.retry)

    async def _requests_at_opening(self) -> Requests | None:
        """Return the requests that this run continues with, after storing what it knows of them before it has begun."""
        recorder = self._barrier.recorder
        if recorder is None or not recorder.continues:
            return None
        return await self._store_requests(recorder.snapshot())

    def _cut(
        self, reason: str | None = None, with_requests: bool = False, is_over: bool = False
    ) -> Coroutine[Any, Any, None]:  # fmt: skip
        """Begin a new side now, and return the coroutine that commits the old one.

        :param reason: at the last cut, why the spider is being closed
        :param with_requests: whether the checkpoint contains the requests that are not done
        :param is_over: whether the next run begins a new crawl
        """
        recorder = self._barrier.recorder
        all_items = recorder is not None and not self._due.is_clean
        snapshot = None
        if recorder is not None and all_items:
            self._state = recorder.state(getattr(self._crawler.spider, "state", {}))
            snapshot = recorder.snapshot() if with_requests else None
        self._due.cut()
        side = self._old_side = self._tickets.cut()
        self._crawler.stats.set_value("state/items_waiting", side.out)
        fields: dict[str, Any] = {"state": self._state, "reason": reason, "is_over": is_over}
        if self._commits is not None and self._barrier.tracking is not None:
            fields["units"] = self._barrier.tracking.report()
        self._state = None
        return self._commit(side, fields, snapshot, self._memories.snapshots(side), all_items)

    async def _commit(
        self, side: Side, fields: dict[str, Any], snapshot: Any, memories: Snapshots, all_items: bool
    ) -> None:  # fmt: skip
        """Make *side* durable, and store the checkpoint. *all_items*: whether items after the last state item count, too."""
        began = time.monotonic()
        epoch = self._tickets.current.epoch
        recorder = self._barrier.recorder
        try:
            files = await self._items.make_durable(side, epoch, is_last=fields["reason"] is not None and not all_items)
            if files is None:
                return
            if self._commits is None:
                self._crawler.stats.inc_value("state/cuts")
                return
            errors = sum(count for at, count in side.errors.items() if all_items or at < epoch)
            stored = await all_done(self._store_requests(snapshot), self._memories.store(memories))
            fields["requests"], fields["memories"] = stored
            await self._commits.commit(files, began, errors=errors, **fields)
            if fields["reason"] is None:
                self._memories.stored()
                if snapshot is not None and recorder is not None:
                    recorder.stored(self._items.threads)
        except StateConflict as error:
            self._failure.fail("state_conflict", error)
        except (StateError, OSError, MemoryError) as error:
            self._failure.fail("state_store_failed", as_state_error(error))
        except Exception as error:
            self._log.warning("Error storing a checkpoint", exc_info=True)
            self._failure.fail("state_store_failed", StateError(f"{type(error).__name__}: {error}"))
        finally:
            self._commit_task = self._old_side = None
        if self._waits_for_commit:
            self._cut_with_requests()
        elif self._barrier.recorder is not None and self._barrier.recorder.has_changed:
            self.requests_changed()

    async def _close(self, reason: str) -> None:
        self._barrier.end()
        self._makes_last_cut = True
        self._due.cancel()
        self._items.retry.closing(stopped=not self._crawler.crawling)
        recorder = self._barrier.recorder
        # No item is in the pipelines any more. Those that are not settled were cancelled, or have failed.
        if self._commit_task is not None:
            if self._old_side is not None and self._old_side.out:
                self._commit_task.cancel()
                self._fail_unsettled(self._old_side)
            await asyncio.wait([self._commit_task])
        self._fail_unsettled(self._tickets.current.side)
        self.closed = True
        tracking = self._barrier.tracking
        if self._failure.error is None and reason == "finished" and tracking is not None and tracking.finished():
            reason = "state_units_failed"  # the tracker logs which
            self._failure.mark(reason)
        is_over = self._is_over(reason)
        if recorder is not None and reason == "finished" and not is_over and recorder.log_held():
            reason = "state_pages_failed"
            self._failure.mark(reason)
        if self._settings.on_crawl_error == "fail":
            reason = self._failed_altogether(reason)
        if not self._failure.blocks_newest:
            await self._cut(reason, with_requests=not is_over, is_over=is_over)
        await self._items.close()
        if self._commits is not None:
            await self._commits.close()

    def _failed_altogether(self, reason: str) -> str:
        """Return why the crawl is being closed, which is no longer "finished" if every request of this run has failed."""
        if reason == "finished" and all_requests_failed(self._crawler.stats):
            reason = "state_requests_failed"
            self._log.error("every request of this run has failed (STATE_ON_CRAWL_ERROR)")
        if reason in ("start_error", "state_requests_failed"):
            self._failure.mark(reason)
        return reason

    def _is_over(self, reason: str) -> bool:
        """Whether the crawl is over, so that the next run begins a new one."""
        recorder = self._barrier.recorder
        if recorder is None:
            return self._failure.error is None and reason == "finished"
        if self._failure.error is not None or not recorder.concludes(reason):
            return False
        if not self._due.is_clean:
            recorder.release_all()
        return True

    def _fail_unsettled(self, side: Side) -> None:
        if side.out:
            self._failure.fail("state_item_failed", ItemFailed(f"{side.out} items never came out of the pipelines"))

    def _where_stopped(self, error: StateError) -> str:
        if self._commits is not None:
            return self._commits.where_stopped(error)
        return (
            f"items were not stored, because: {error}. Put that right and start the crawl again: the requests they came from "
            "are still in the frontier"
        )

    async def _engine_stopped(self) -> None:
        """If the crawl was stopped while it was closing anyway, keep the process until it is closed."""
        if self._crawler.engine.spider is not None:
            self._items.retry.closing(stopped=True)
            await until_closed(self._crawler.engine)
