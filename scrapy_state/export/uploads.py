"""Uploading closed batches, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from scrapy import signals
from scrapy.crawler import Crawler

from ..barrier.failure import CrawlFailure
from ..barrier.log import SpiderLog
from ..exceptions import StoreError
from ..model.item_file import ItemFile
from ..stores.threads import UPLOADS_AT_ONCE
from .batch import Batch
from .retry import Retry
from .spool import Spool


class Uploads:
    """Stores closed batches. If a batch can't be stored, despite all retries, the crawl fails immediately.

    :param spool: where the batches are until they are stored
    """

    def __init__(self, crawler: Crawler, retry: Retry, spool: Spool, failure: CrawlFailure) -> None:
        self.spool = spool
        self._crawler = crawler
        self._log = SpiderLog(crawler)
        self._retry = retry
        self._failure = failure
        self._turns = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._tasks: set[asyncio.Task[ItemFile | None]] = set()
        #: the handlers of feed_slot_closed
        self._handlers: set[asyncio.Task[Any]] = set()

    def start(self, batch: Batch) -> None:
        """Start uploading *batch*. Its task, ``batch.upload``, returns the stored file; None if it can't be stored."""
        self.spool.waiting += 1
        batch.upload = asyncio.create_task(self._upload(batch))
        self._tasks.add(batch.upload)
        batch.upload.add_done_callback(self._done)

    async def stored(self, batches: Sequence[Batch]) -> list[ItemFile] | None:
        """Wait until *batches*, all of them closed, are stored; return their files. Return None as soon as one has failed."""
        uploads = [batch.upload for batch in batches if batch.upload is not None]
        for upload in asyncio.as_completed(uploads):
            if await upload is None:
                return None
        return [file for upload in uploads if (file := upload.result()) is not None]

    def abandon(self) -> None:
        """Cancel the uploads that are under way: a store has failed, so no checkpoint will name their files."""
        for task in self._tasks:
            task.cancel()

    async def wait(self) -> None:
        """Wait for all uploads, and for the handlers of feed_slot_closed."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._handlers:
            await asyncio.wait(self._handlers)

    def _done(self, task: asyncio.Task[ItemFile | None]) -> None:
        self._tasks.discard(task)

    async def _upload(self, batch: Batch) -> ItemFile | None:
        slot, stats, spooled_bytes = batch.slot, self._crawler.stats, batch.bytes
        try:
            file = await self._retry.run(batch.uri, batch.store, self._turns, batch.position)
        except StoreError as error:
            stats.inc_value(f"feedexport/failed_count/{batch.kind}")
            self._failure.fail("state_store_failed", error)
            return None
        finally:
            self.spool.uploaded(spooled_bytes)
            stats.set_value("state/spool_size", self.spool.bytes)
        stats.inc_value(f"feedexport/success_count/{batch.kind}")
        self._log.info("Stored %s feed (%s items) in: %s", slot.format, slot.itemcount, batch.uri)
        # Handlers may be slow. Only the end of the crawl waits for them.
        handlers = asyncio.create_task(self._crawler.signals.send_catch_log_async(signals.feed_slot_closed, slot=slot))
        self._handlers.add(handlers)
        handlers.add_done_callback(self._handlers.discard)
        return file
