"""One file of an item feed that checkpoints name: exporting to it, splitting it, making it durable."""

from __future__ import annotations

import asyncio
import io
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from scrapy.exporters import CsvItemExporter, JsonLinesItemExporter
from scrapy.extensions.feedexport import FeedExporter, FeedSlot
from scrapy.extensions.postprocessing import PostProcessingManager
from scrapy.utils.defer import ensure_awaitable

from ..exceptions import StoreError, StoreUnreachable
from ..feedstorages import DurableFeedStorage, disk_error
from ..model.checkpoint import ItemFile
from ..scrapy_internals import write_csv_header

#: Exporters that write each item at once and as a whole. A subclass may write later, or in another order.
_WRITE_AT_ONCE = (JsonLinesItemExporter, CsvItemExporter)


@dataclass(slots=True)
class Range:
    """Items of a batch that follow one another: half-open, by position and by byte."""

    start: int
    end: int
    start_byte: int
    end_byte: int


@dataclass(eq=False)
class Batch:
    """One file of an item feed.

    :param kind: what the storage is called in Scrapy's stats
    :param bytes: its size so far
    :param after: its items that follow the newest state item, as of *epoch* state items
    :param upload: the task that makes it durable, once it is closed
    """

    slot: FeedSlot
    uri: str
    kind: str
    bytes: int = 0
    after: list[Range] = field(default_factory=list)
    epoch: int = 0
    upload: asyncio.Task[ItemFile | None] | None = None
    _finished: Any = None

    def add(self, item: Any, is_after: bool, epoch: int) -> int:
        """Export *item*; *epoch*: how many state items there have been. Return by how many bytes it grew."""
        slot = self.slot
        slot.start_exporting()
        slot.exporter.export_item(item)  # type: ignore[union-attr]
        position, began = slot.itemcount, self.bytes
        slot.itemcount = position + 1
        try:  # noqa: SIM105 - done for every item, and suppress() costs as much as all the rest here
            self.bytes = slot.file.tell()  # type: ignore[union-attr]
        except (AttributeError, OSError):
            pass  # somebody else's file, that doesn't tell
        if self.epoch != epoch:  # a state item has come since: whatever was before it is no longer after it
            self.after.clear()
            self.epoch = epoch
        if is_after:
            last = self.after[-1] if self.after else None
            if last is not None and last.end == position:
                last.end, last.end_byte = position + 1, self.bytes
            else:
                self.after.append(Range(position, position + 1, began, self.bytes))
        return self.bytes - began

    def skip(self, epoch: int) -> tuple[tuple[int, int], ...]:
        """The positions that follow the newest state item, now that there have been *epoch* of them."""
        return tuple((each.start, each.end) for each in self.after) if self.epoch == epoch else ()

    def can_split(self) -> bool:
        """Whether its items can be told apart by bytes: one of Scrapy's exporters writes straight to a file of ours."""
        slot = self.slot
        plain = type(slot.exporter) in _WRITE_AT_ONCE and not slot.feed_options.get("postprocessing")
        return plain and isinstance(slot.storage, DurableFeedStorage)

    def split(self, rest: Batch) -> bool:
        """Move the items that follow the newest state item to *rest*, a new batch of the same feed.

        :returns: False if the file holds other bytes than its exporter was seen to write; then nothing is moved
        """
        slot, moved = self.slot, rest.slot
        slot.finish_exporting()
        source = slot.file
        assert source is not None
        source.flush()
        moved.start_exporting()
        moved_file = moved.file
        assert moved_file is not None
        if isinstance(slot.exporter, CsvItemExporter) and isinstance(moved.exporter, CsvItemExporter):
            write_csv_header(moved.exporter, slot.exporter)
        header = moved_file.tell()
        if source.seek(0, io.SEEK_END) != self.bytes or _start(source, header) != _start(moved_file, header):
            rest.discard()
            return False
        kept_file = slot.storage.open(slot.spider)
        at = 0
        for each in self.after:
            begin = max(each.start_byte, header)  # the header stands with the first item, whichever that was
            _copy(source, kept_file, at, begin)
            _copy(source, moved_file, begin, each.end_byte)
            at = each.end_byte
        _copy(source, kept_file, at, self.bytes)
        moved.itemcount = sum(each.end - each.start for each in self.after)
        slot.file, slot.itemcount = kept_file, slot.itemcount - moved.itemcount
        self.after.clear()
        source.close()
        return True

    def position(self) -> int | None:
        """Return where its file is being read, by whatever storage, None if that can't be told. From any thread."""
        try:
            return os.lseek(self._finished.fileno(), 0, os.SEEK_CUR)
        except (AttributeError, OSError, ValueError):  # not finished, not a file, closed
            return None

    async def store(self) -> ItemFile:
        """Finish the file and make it durable. May be called again after a StoreUnreachable.

        :raises StoreError: if it can't be finished or stored
        """
        try:
            if self._finished is None:  # once: closing a postprocessing plugin twice may write its end twice
                self._finished = self._finish()
            file = self._finished
            with suppress(AttributeError, ValueError):  # ValueError: its storage has closed it
                file.flush()  # here, where what it raises is known for the disk's
            with suppress(AttributeError, OSError, ValueError):  # somebody else's file, or one that is closed by now
                self.bytes = file.seek(0, io.SEEK_END)
        except OSError as error:
            reason, remedy = disk_error(error, self.slot)
            raise StoreError(f"the file could not be finished: {reason}", uri=self.uri, remedy=remedy) from error
        except Exception as error:
            raise StoreError(f"{self.uri}: {type(error).__name__}: {error}") from error
        try:
            await ensure_awaitable(self.slot.storage.store(file))
        except StoreError:
            raise
        except Exception as error:
            # Somebody else's storage: what failed can't be told, but if it left us the file we can try again.
            kind = StoreError if file.closed else StoreUnreachable
            raise kind(f"{self.uri}: {type(error).__name__}: {error}") from error
        file.close()
        return ItemFile(self.uri, self.slot.itemcount, self.bytes)

    def _finish(self) -> Any:
        """Write the end of the file, and return it open though the exporter or a plugin closes it: Scrapy allows for that."""
        slot = self.slot
        file = slot.file.file if isinstance(slot.file, PostProcessingManager) else slot.file
        spare = None
        if isinstance(getattr(file, "name", None), int):  # nameless: once it is closed nothing is left of it
            spare = os.dup(file.fileno())  # type: ignore[union-attr]
        try:
            slot.finish_exporting()
            finished = FeedExporter._get_file(slot)
            if getattr(finished, "closed", False) and spare is not None:
                finished, spare = os.fdopen(spare, "r+b"), None
            return finished
        finally:
            if spare is not None:
                os.close(spare)

    def discard(self) -> None:
        """Close and forget its temporary file."""
        if self.slot.file is not None:
            with suppress(OSError):  # a full disk, on which what is in memory can't be written
                self.slot.file.close()


def _start(file: IO[bytes], size: int) -> bytes:
    file.seek(0)
    return file.read(size)


def _copy(source: IO[bytes], target: IO[bytes], start: int, end: int) -> None:
    source.seek(start)
    while start < end:
        chunk = source.read(min(end - start, 1 << 20))
        target.write(chunk)
        start += len(chunk)
