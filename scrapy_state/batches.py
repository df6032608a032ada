"""One file of an item feed that checkpoints name: exporting to it, and making it durable."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass, field
from typing import Any

from scrapy.extensions.feedexport import FeedExporter, FeedSlot
from scrapy.utils.defer import ensure_awaitable

from .checkpoint import ItemFile
from .exceptions import StoreError


@dataclass(eq=False)
class Batch:
    """One file of an item feed. *after*: the positions of its items that follow the newest state item."""

    slot: FeedSlot
    uri: str
    after: list[tuple[int, int]] = field(default_factory=list)
    epoch: int = 0
    upload: asyncio.Task[ItemFile] | None = None

    def add(self, item: Any, is_after: bool, epoch: int) -> None:
        """Export *item*; *epoch*: how many state items there have been."""
        self.slot.start_exporting()
        assert self.slot.exporter is not None
        self.slot.exporter.export_item(item)
        position = self.slot.itemcount
        self.slot.itemcount += 1
        if self.epoch != epoch:  # a state item has come since: whatever was before it is no longer after it
            self.after.clear()
            self.epoch = epoch
        if is_after:
            start = self.after.pop()[0] if self.after and self.after[-1][1] == position else position
            self.after.append((start, position + 1))

    def skip(self, epoch: int) -> tuple[tuple[int, int], ...]:
        """The ranges that follow the newest state item, now that there have been *epoch* of them."""
        return tuple(self.after) if self.epoch == epoch else ()

    async def store(self) -> ItemFile:
        """Finish the file and make it durable. To be called once.

        :raises StoreError: if it can't be finished or stored
        """
        try:
            self.slot.finish_exporting()
            file = FeedExporter._get_file(self.slot)
            size = file.seek(0, io.SEEK_END)
            await ensure_awaitable(self.slot.storage.store(file))
            file.close()
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"{self.uri}: {type(error).__name__}: {error}") from error
        return ItemFile(self.uri, self.slot.itemcount, size)

    def discard(self) -> None:
        """Close and forget its temporary file."""
        if self.slot.file is not None:
            self.slot.file.close()
