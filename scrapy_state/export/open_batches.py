"""The item feeds that checkpoints name: their open batches, on both sides of a barrier."""

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
    :param items_limit: at how many items a batch of it is closed; *bytes_limit*: at how many bytes
    :param batches: how many batches of it there have been, on both sides of every barrier
    """

    template: str
    filter: ItemFilter
    items_limit: float
    bytes_limit: float
    batches: int = 0

    @classmethod
    def from_options(cls, template: str, options: Mapping[str, Any], filter: ItemFilter) -> ItemFeed:
        """Make it from its entry in FEEDS.

        :raises StateSettingsError: if batch_file_size is no size
        """
        size = options.get("batch_file_size")
        name = f"FEEDS: batch_file_size of {without_credentials(template)!r}"
        bytes_limit = math.inf if size is None else size_in_bytes(name, size)
        return cls(template, filter, options["batch_item_count"] or math.inf, bytes_limit)


class OpenBatches:
    """Exports items to batches, and closes a batch when it is full, when the disk is, or when its side is complete.

    :param new_batch: makes the batch of a feed, given the feed's URI in FEEDS and a number (1 and up)
    """

    def __init__(self, feeds: Sequence[ItemFeed], new_batch: Callable[[str, int], Batch], uploads: Uploads) -> None:
        self._feeds = feeds
        self._new_batch = new_batch
        self._uploads = uploads
        self._open: dict[tuple[Side, ItemFeed], Batch] = {}

    def export(self, item: Any, ticket: Ticket, epoch: int) -> None:
        """Export *item* to each feed that accepts it, to the batch of its side.

        :param epoch: how many state items there have been
        :raises ItemFailed: if the disk does not take it
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
        except OSError as error:
            reason, remedy = disk_error(error, batch.slot)
            raise ItemFailed(f"an item could not be exported: {reason}", uri=batch.uri, remedy=remedy) from error
        if batch.slot.itemcount >= feed.items_limit or batch.bytes >= feed.bytes_limit:
            self._uploads.start(self._open.pop(key))
        if spool.full:
            if self._open and spool.bytes > spool.limit_bytes:  # not for too many files: that would make one more
                largest = max(self._open, key=lambda key: self._open[key].bytes)
                self._uploads.start(self._open.pop(largest))
            spool.hold()

    def probes(self) -> list[Callable[[], None]]:
        """Return what proves that batches can be stored: for each folder in a store of ours a call that blocks.

        Each raises StoreError if they can't.
        """
        storages = [self._new_batch(feed.template, 1).slot.storage for feed in self._feeds]
        folders = {each.uri.rpartition("/")[0]: each.probe for each in storages if isinstance(each, DurableFeedStorage)}
        return list(folders.values())

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
        """At the close: put the items after the newest state item into files of their own, where a format allows it.

        No checkpoint names these; the log does.
        """
        for key in self._of(side):
            batch = self._open[key]
            skip = batch.skip(epoch)
            if skip == ((0, batch.slot.itemcount),):
                side.batches.remove(batch)  # the whole file; it is stored all the same
                _log_after_last_state(batch)
            elif skip and batch.can_split():
                rest = self._next_batch(key[1])
                if batch.split(rest):
                    self._uploads.start(rest)
                    _log_after_last_state(rest)

    def discard(self) -> None:
        """Discard every open batch: no checkpoint will name it, and the next run exports its items again."""
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
