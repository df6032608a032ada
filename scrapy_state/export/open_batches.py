"""The item feeds that checkpoints name: their open batches, on both sides of a barrier."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..barrier.tickets import Side, Ticket
from ..exceptions import ItemFailed
from ..feedstorages import DurableFeedStorage, disk_error
from ..model.key_template import without_credentials
from ..model.values import size_in_bytes
from .batch import Batch
from .uploads import Uploads

logger = logging.getLogger("scrapy_state.state")


class ItemFeeds:
    """Exports items to batches, and closes these when they are full, when the disk is, or with their side.

    :param feeds: URI template -> feed options
    :param new_batch: makes the batch of a feed with a number (1 and up); one counter for a feed, on both sides
    """

    def __init__(
        self, feeds: Mapping[str, Mapping[str, Any]], new_batch: Callable[[str, int], Batch], uploads: Uploads
    ) -> None:
        self._limits = {template: _limits(template, options) for template, options in feeds.items()}
        self._numbers = dict.fromkeys(feeds, 0)
        self._new_batch = new_batch
        self._uploads = uploads
        self._open: dict[tuple[Side, str], Batch] = {}

    def export(self, item: Any, template: str, ticket: Ticket, epoch: int) -> None:
        """Export *item* to the feed *template*, to the batch of its side. *epoch*: how many state items there have been.

        :raises ItemFailed: if the disk does not take it
        """
        place = (ticket.side, template)
        batch = self._open.get(place)
        if batch is None:
            batch = self._open[place] = self._next_batch(template)
            ticket.side.batches.append(batch)
        spool = self._uploads.spool
        try:
            spool.bytes += batch.add(item, ticket.epoch == epoch, epoch)
        except OSError as error:
            reason, remedy = disk_error(error, batch.slot)
            raise ItemFailed(f"an item could not be exported: {reason}", uri=batch.uri, remedy=remedy) from error
        items_limit, bytes_limit = self._limits[template]
        if batch.slot.itemcount >= items_limit or batch.bytes >= bytes_limit:
            self._uploads.start(self._open.pop(place))
        if spool.full:
            if self._open and spool.bytes > spool.limit_bytes:  # not for too many files: that would make one more
                largest = max(self._open, key=lambda each: self._open[each].bytes)
                self._uploads.start(self._open.pop(largest))
            spool.hold()

    def probes(self) -> list[Callable[[], None]]:
        """Return what proves that batches can be stored: for each folder in a store of ours a call that blocks.

        Each raises StoreError if they can't.
        """
        storages = [self._new_batch(template, 1).slot.storage for template in self._numbers]
        folders = {each.uri.rpartition("/")[0]: each.probe for each in storages if isinstance(each, DurableFeedStorage)}
        return list(folders.values())

    def close_side(self, side: Side) -> None:
        """Close the open batches of *side*: nothing will come to it any more."""
        for place in [each for each in self._open if each[0] is side]:
            self._uploads.start(self._open.pop(place))

    def discard_side(self, side: Side) -> None:
        """Forget the open batches of *side*: no checkpoint will name them."""
        for place in [each for each in self._open if each[0] is side]:
            batch = self._open.pop(place)
            self._uploads.spool.bytes -= batch.bytes
            batch.discard()

    def split_side(self, side: Side, epoch: int) -> None:
        """At the close: put what follows the newest state item into files of their own, where a format allows it.

        No checkpoint names these; the log does.
        """
        for place, batch in list(self._open.items()):
            skip = batch.skip(epoch)
            if place[0] is not side or not skip:
                continue
            if skip == ((0, batch.slot.itemcount),):
                side.batches.remove(batch)  # the whole file; it is stored all the same
                _log_after_last_state(batch)
            elif batch.can_split():
                rest = self._next_batch(place[1])
                if batch.split(rest):
                    self._uploads.start(rest)
                    _log_after_last_state(rest)

    def discard(self) -> None:
        """Forget what is open: no checkpoint will name it, and the next run exports these items again."""
        for batch in self._open.values():
            batch.discard()
        self._open.clear()

    def _next_batch(self, template: str) -> Batch:
        self._numbers[template] += 1
        return self._new_batch(template, self._numbers[template])


def _log_after_last_state(batch: Batch) -> None:
    logger.info(
        "%s: its items (%s) come after the last state, so no checkpoint names it, and the next run yields them again",
        batch.uri, batch.slot.itemcount, extra={"spider": batch.slot.spider},
    )  # fmt: skip


def _limits(template: str, options: Mapping[str, Any]) -> tuple[float, float]:
    """Return at how many items and at how many bytes a batch of the feed is closed."""
    size = options.get("batch_file_size")
    name = f"FEEDS: batch_file_size of {without_credentials(template)!r}"
    return options["batch_item_count"] or math.inf, math.inf if size is None else size_in_bytes(name, size)
