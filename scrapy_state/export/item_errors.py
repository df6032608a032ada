"""What follows from an item that a pipeline has raised for, or that comes too late."""

from __future__ import annotations

from scrapy.crawler import Crawler

from ..barrier.barrier import Barrier
from ..barrier.log import SpiderLog
from ..barrier.tickets import BEFORE_ALL, Ticket
from ..exceptions import ItemFailed
from ..settings import StateSettings


class ItemErrors:
    """Decides what follows, in one crawl, as STATE_ON_ITEM_ERROR says."""

    def __init__(self, crawler: Crawler, settings: StateSettings, barrier: Barrier) -> None:
        self._crawler = crawler
        self._log = SpiderLog(crawler)
        self._skips = settings.on_item_error == "skip"
        self._barrier = barrier
        self._failure = barrier.failure
        self._has_late_items = False

    def failed(self, ticket: Ticket, error: BaseException) -> None:
        """Skip an item for which a pipeline has raised *error*, or fail the crawl, as STATE_ON_ITEM_ERROR says."""
        if self._skips:
            exported = ticket.to_export
            exported.side.errors[exported.epoch] += 1
            exported.void_key()
            ticket.settle()
            return
        if ticket.side.unit and self._barrier.tracking is not None:
            self._barrier.tracking.item_failed(ticket, error)
            ticket.settle()
            return
        failure = ItemFailed(f"an item raised {type(error).__name__} in a pipeline")
        if self._barrier.recorder is not None and self._barrier.recorder.item_failed(ticket):
            ticket.settle()
            self._failure.fail("state_item_failed", failure, blocks_newest=False)
            return
        # If the item comes after the newest state item, the state before it can still be stored.
        is_after = ticket.epoch == self._barrier.tickets.current.epoch
        if is_after:
            ticket.settle()
        self._failure.fail("state_item_failed", failure, blocks_newest=not is_after)

    def came_too_late(self, ticket: Ticket) -> None:
        """Report an item that has come after the last cut, unless the next run yields it again."""
        if ticket.epoch != BEFORE_ALL:
            return
        if self._failure.error is None and not self._has_late_items:
            self._failure.mark()
            self._log.error(
                "an item came after the last checkpoint, and is stored nowhere. Submit such items in a pipeline's "
                "close_spider(), and wait for them there"
            )  # fmt: skip
        self._has_late_items = True
        self._crawler.stats.inc_value("state/items_late")
