"""The batches that items are exported to, on both sides of a barrier."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scrapy.extensions.feedexport import ItemFilter

from ..barrier.tickets import Side, Ticket
from ..exceptions import ItemFailed
from ..feedstorages import DurableFeedStorage, disk_error
from ..model.key_template import without_credentials
from ..model.values import size_in_bytes
from .batch import Batch
from .uploads import Uploads

logger = logging.getLogger("scrapy_state.state")


@dataclass(eq=False)
class ItemFeed:
    """One item feed that checkpoints name.

    :param template: its URI in FEEDS
    :param filter: says which items it accepts
    :param items_limit: how many items fill a batch; *bytes_limit*: how many bytes do
    :param batches: how many batches it has had
    """

    template: str
    filter: ItemFilter
    items_limit: float
    bytes_limit: float
    batches: int = 0

    @classmethod
    def from_options(cls, template: str, options: Mapping[str, Any], filter: ItemFilter) -> ItemFeed:
        """Read the feed's entry in FEEDS.

        :raises StateSettingsError: if its batch_file_size is not a size
        """
        size = options.get("batch_file_size")
        name = f"FEEDS: batch_file_size of {without_credentials(template)!r}"
        bytes_limit = math.inf if size is None else size_in_bytes(name, size)
        return cls(template, filter, options["batch_item_count"] or math.inf, bytes_limit)


class OpenBatches:
    """Exports items to batches. Closes a batch when it is full, when the spool is, or when its side is complete.

    :param new_batch: makes the batch of a feed, given the feed's URI in FEEDS and a number (1 and up)
    """

    def __init__(self, feeds: Sequence[ItemFeed], new_batch: Callable[[str, int], Batch], uploads: Uploads) -> None:
        self._feeds = feeds
        self._new_batch = new_batch
        self._uploads = uploads
        self._open: dict[tuple[Side, ItemFeed], Batch] = {}

    @property
    def fewest_items(self) -> float:
        """The smallest batch_item_count of all feeds."""
        return min((feed.items_limit for feed in self._feeds), default=math.inf)

    @property
    def spool_bytes(self) -> int:
        """STATE_SPOOL_SIZE."""
        return self._uploads.spool.limit_bytes

    def export(self, item: Any, ticket: Ticket, epoch: int) -> None:
        """Export *item* to each feed that accepts it, to the batch of its side.

        :param epoch: how many state items there have been
        :raises ItemFailed: if it can't be written to the disk
        """
        for feed in self._feeds:
            if feed.filter.accepts(item):
                self._export(item, feed, ticket, epoch)

    def _export(self, item: Any, feed: ItemFeed, ticket: Ticket, epoch: int) -> None:
        key = (ticket.side, feed)
        batch = self._open.get(key)
        if batch is None:
            batch = self._open[key] = self._next_batch(feed)
            ticket.side.batches.append(batch)
        spool = self._uploads.spool
        try:
            spool.bytes += batch.add(item, ticket.epoch == epoch, epoch)
        except (OSError, MemoryError) as error:
            reason, remedy = disk_error(error, batch.slot)
            raise ItemFailed(f"an item could not be exported: {reason}", uri=batch.uri, remedy=remedy) from error
        if batch.slot.itemcount >= feed.items_limit or batch.bytes >= feed.bytes_limit:
            self._uploads.start(self._open.pop(key))
        if spool.full:
            if self._open and spool.bytes > spool.limit_bytes:  # if there are too many files, closing one doesn't help
                largest = max(self._open, key=lambda key: self._open[key].bytes)
                self._uploads.start(self._open.pop(largest))
            spool.hold()

    def probes(self) -> list[Callable[[], None]]:
        """Return functions that check whether batches can be stored, one for each folder in a store of ours.

        They block, and raise StoreError if batches can't be stored there.
        """
        storages = [self._new_batch(feed.template, 1).slot.storage for feed in self._feeds]
        own = [storage for storage in storages if isinstance(storage, DurableFeedStorage)]
        return list({storage.uri.rpartition("/")[0]: storage.probe for storage in own}.values())

    def close_side(self, side: Side) -> None:
        """Close the open batches of *side*, which gets no more items."""
        for key in self._of(side):
            self._uploads.start(self._open.pop(key))

    def discard_side(self, side: Side) -> None:
        """Discard the open batches of *side*: no checkpoint will name them."""
        for key in self._of(side):
            batch = self._open.pop(key)
            self._uploads.spool.bytes -= batch.bytes
            batch.discard()

    def split_side(self, side: Side, epoch: int) -> None:
        """Move the items of *side* after the newest state item to files of their own, where the format allows it.

        No checkpoint will name these files, but the log does.
        """
        for key in self._of(side):
            batch = self._open[key]
            skip = batch.skip(epoch)
            if skip == ((0, batch.slot.itemcount),):
                side.batches.remove(batch)  # all its items are; the file is still stored
                _log_after_last_state(batch)
            elif skip and batch.can_split():
                rest = self._next_batch(key[1])
                if batch.split(rest):
                    self._uploads.start(rest)
                    _log_after_last_state(rest)

    def discard(self) -> None:
        """Discard every open batch: no checkpoint will name it, and the next run yields its items again."""
        for batch in self._open.values():
            batch.discard()
        self._open.clear()

    def _of(self, side: Side) -> list[tuple[Side, ItemFeed]]:
        return [key for key in self._open if key[0] is side]

    def _next_batch(self, feed: ItemFeed) -> Batch:
        feed.batches += 1
        return self._new_batch(feed.template, feed.batches)


def _log_after_last_state(batch: Batch) -> None:
    logger.info(
        "%s: its items (%s) come after the last state, so no checkpoint names it, and the next run yields them again",
        batch.uri, batch.slot.itemcount, extra={"spider": batch.slot.spider},
    )  # fmt: skip
