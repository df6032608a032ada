"""The item files of one run, from an exported item to a durable file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from scrapy.crawler import Crawler
from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object

from ..barrier.barrier import Barrier
from ..barrier.log import SpiderLog
from ..barrier.tickets import Side, Ticket
from ..exceptions import ItemFailed
from ..feedstorages import check_temporary_folder
from ..model.item_file import ItemFile
from ..settings import StateSettings
from ..stores.retry import patiently
from ..stores.threads import StoreThreads
from .batch import Batch
from .open_batches import ItemFeed, OpenBatches
from .retry import Retry
from .spool import Spool
from .uploads import Uploads

_LONG_WAIT_SECONDS = 60


def needs_durable_items(settings: BaseSettings) -> bool:
    """Whether the scheduler acknowledges a request only when its items are durable, and therefore asks for cuts."""
    return bool(getattr(load_object(settings["SCHEDULER"]), "needs_durable_items", False))


class DurableItems:
    """Exports items to batches, and makes the batches of a side durable. It knows nothing of checkpoints.

    :param feeds: the item feeds that checkpoints name
    :param new_batch: makes the batch of a feed, given the feed's URI in FEEDS and a number
    """

    def __init__(
        self,
        crawler: Crawler,
        settings: StateSettings,
        barrier: Barrier,
        feeds: Sequence[ItemFeed],
        new_batch: Callable[[str, int], Batch],
    ) -> None:
        self._crawler = crawler
        self._log = SpiderLog(crawler)
        self._tickets = barrier.tickets
        self._failure = barrier.failure
        #: for all calls to stores
        self.threads = StoreThreads()
        self.retry = Retry(settings.retry_seconds, settings.close_seconds)
        spool = Spool(settings.spool_bytes, barrier.backpressure)
        self._uploads = Uploads(crawler, self.retry, spool, barrier.failure)
        self.batches = OpenBatches(feeds, new_batch, self._uploads)

    async def open(self) -> None:
        """Check that item files can be stored.

        :raises StateError: if they can't be
        """
        await self.threads.run(check_temporary_folder, self._crawler.settings)
        for probe in self.batches.probes():
            await self.threads.run(patiently, probe)

    def export(self, item: Any, ticket: Ticket) -> bool:
        """Export *item* to the side of *ticket*. Return False if that fails; then the crawl has failed."""
        try:
            self.batches.export(item, ticket, self._tickets.current.epoch)
        except ItemFailed as error:  # the disk, so probably every item fails; only the first is logged
            self._failure.fail("state_store_failed", error)
            return False
        except Exception as error:
            # With its trace, which nobody else logs. (Scrapy logs that of a pipeline.)
            self._log.warning("Error exporting an item", exc_info=True)
            failure = ItemFailed(f"an item could not be exported ({type(error).__name__})")
            self._failure.fail("state_store_failed", failure)
            return False
        return True

    async def make_durable(self, side: Side, epoch: int, is_last: bool) -> list[ItemFile] | None:
        """Wait until the items of *side* are settled, and its batches stored.

        :param epoch: how many state items there have been
        :param is_last: whether the run ends with this side; then the items after the last state item are skipped
        :returns: the files; None if one can't be stored. Then the crawl has failed
        """
        await self._settled(side)
        if is_last:
            self.batches.split_side(side, epoch)
            side.void_keys_from(epoch)
        self.batches.close_side(side)
        files = await self._uploads.stored(side.batches)
        if files is None or not is_last:
            return files
        return [replace(file, skip=batch.skip(epoch)) for file, batch in zip(files, side.batches, strict=True)]

    async def close(self) -> None:
        """Discard open batches, and wait for the uploads. Cancel these if a store has failed."""
        self.batches.discard()
        if self._failure.store_failed:
            self._uploads.abandon()
        await self._uploads.wait()

    async def _settled(self, side: Side) -> None:
        settled = asyncio.ensure_future(side.settled())
        try:
            done, _ = await asyncio.wait([settled], timeout=_LONG_WAIT_SECONDS)
            if not done:
                self._log.warning(
                    "a checkpoint has been waiting for %s s: %s items that came before it are still in the pipelines",
                    _LONG_WAIT_SECONDS, side.out,
                )  # fmt: skip
            await settled
        finally:
            settled.cancel()
