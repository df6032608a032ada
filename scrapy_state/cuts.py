"""Durable item files without checkpoints: for a crawl whose state is its frontier, kept outside the process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from scrapy.crawler import Crawler
from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object

from .checkpoint import ItemFile
from .commits import Commits
from .feedstorages import check_temporary_folder
from .itemfeeds import ItemFeeds
from .settings import StateSettings
from .uploads import Uploads

logger = logging.getLogger("scrapy_state.state")


def needs_durable_items(settings: BaseSettings) -> bool:
    """Whether the scheduler acknowledges requests only when their items are durable, and so asks for cuts."""
    return bool(getattr(load_object(settings["SCHEDULER"]), "needs_durable_items", False))


class Cuts(Commits):
    """Cuts when the frontier asks, and stores no checkpoint. State items mean nothing here."""

    def __init__(self, crawler: Crawler, settings: StateSettings, items: Callable[[Uploads], ItemFeeds]) -> None:
        # Whatever uses the writer is overridden below.
        super().__init__(crawler, settings, None, items, lambda _: [])  # type: ignore[arg-type]
        self._opened = False

    async def opening(self) -> None:
        """See whether there is room for open batches."""
        await asyncio.to_thread(check_temporary_folder, self.crawler.settings)
        self._opened = True

    def state_yielded(self, state: dict[str, Any]) -> None:
        """Nothing: where to go on from is in the frontier."""

    async def close(self, reason: str) -> None:
        """Make durable what is not yet. To be called once."""
        if not self._opened:
            return
        await self._close(reason)
        if self.failure is not None:
            logger.error(
                "items were not stored, because: %s. Put that right and start the crawl again: the requests they came from "
                "are still in the frontier", self.failure, extra={"spider": self.crawler.spider},
            )  # fmt: skip

    async def _store(
        self,
        state: dict[str, Any] | None,
        units: dict[str, Any] | None,
        files: list[ItemFile],
        errors: int,
        reason: str | None,
        began: float,
    ) -> None:
        self.crawler.stats.inc_value("state/cuts")
