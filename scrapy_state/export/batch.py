"""One file of an item feed: exporting items to it, splitting it, storing it."""

from __future__ import annotations

import asyncio
import io
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from scrapy.exporters import CsvItemExporter, JsonLinesItemExporter
from scrapy.extensions.feedexport import FeedSlot
from scrapy.extensions.postprocessing import PostProcessingManager
from scrapy.utils.defer import ensure_awaitable

from ..exceptions import StoreError, StoreUnreachable
from ..feedstorages import DurableFeedStorage, disk_error
from ..model.item_file import ItemFile
from ..scrapy_internals import file_of, write_csv_header

#: Exporters that write each item immediately and as a whole. A subclass may write later, or in another order.
_WRITE_AT_ONCE = (JsonLinesItemExporter, CsvItemExporter)


@dataclass(slots=True)
class Range:
    """Consecutive items of a batch, as half-open ranges of positions and of bytes."""

    start: int
    end: int
    start_byte: int
    end_byte: int


@dataclass(eq=False)
class Batch:
    """One file of an item feed.

    :param uri: where it will be stored, without credentials
    :param kind: the name of its storage in Scrapy's stats
    :param bytes: its size so far
    :param after: its items after the newest state item, when there had been *epoch* state items
    :param upload: the task that stores it, once it is closed
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
        """Export *item*; return by how many bytes the file has grown.

        :param is_after: whether the item comes after the newest state item
        :param epoch: how many state items there have been
        """
        slot = self.slot
        slot.start_exporting()
        slot.exporter.export_item(item)  # type: ignore[union-attr]
        position, start_byte = slot.itemcount, self.bytes
        slot.itemcount = position + 1
        try:  # noqa: SIM105 - suppress() would cost as much as the rest of this method
            self.bytes = slot.file.tell()  # type: ignore[union-attr]
        except (AttributeError, OSError):
            pass  # a file of somebody else's storage that has no position
        if self.epoch != epoch:  # a state item has come since, and these items are before it
            self.after.clear()
            self.epoch = epoch
        if is_after:
            last = self.after[-1] if self.after else None
            if last is not None and last.end == position:
                last.end, last.end_byte = position + 1, self.bytes
            else:
                self.after.append(Range(position, position + 1, start_byte, self.bytes))
        return self.bytes - start_byte

    def all_after(self, epoch: int) -> None:
        """Take note that all its items come after the newest state item; there have been *epoch* of these."""
        self.after = [Range(0, self.slot.itemcount, 0, self.bytes)]
        self.epoch = epoch

    def skip(self, epoch: int) -> tuple[tuple[int, int], ...]:
        """Return the positions of the items after the newest state item, given that there have been *epoch* state items."""
        return tuple((after.start, after.end) for after in self.after) if self.epoch == epoch else ()

    def can_split(self) -> bool:
        """Whether each item's bytes are known: one of Scrapy's exporters writes directly to a file of ours."""
        slot = self.slot
        is_direct = type(slot.exporter) in _WRITE_AT_ONCE and not slot.feed_options.get("postprocessing")
        return is_direct and isinstance(slot.storage, DurableFeedStorage)

    def split(self, rest: Batch) -> bool:
        """Move the items after the newest state item to *rest*, a new batch of the same feed.

        :returns: whether they were moved; not if the file's bytes are not what its exporter wrote item by item
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
        copied = 0
        for after in self.after:
            start = max(after.start_byte, header)  # the header was written together with the first item
            _copy(source, kept_file, copied, start)
            _copy(source, moved_file, start, after.end_byte)
            copied = after.end_byte
        _copy(source, kept_file, copied, self.bytes)
        moved.itemcount = sum(after.end - after.start for after in self.after)
        slot.file, slot.itemcount = kept_file, slot.itemcount - moved.itemcount
        self.after.clear()
        source.close()
        return True

    def position(self) -> int | None:
        """Return up to which byte the storage has read the file; None if that can't be known. May be called in any thread."""
        try:
            return os.lseek(self._finished.fileno(), 0, os.SEEK_CUR)
        except (AttributeError, OSError, ValueError):  # not finished, not a file, closed
            return None

    async def store(self) -> ItemFile:
        """Finish the file and store it. May be called again after a StoreUnreachable.

        :raises StoreError: if it can't be finished or stored
        """
        try:
            if self._finished is None:  # only once: a postprocessing plugin that is closed twice may write its end twice
                self._finished = self._finish()
            file = self._finished
            with suppress(AttributeError, ValueError):  # ValueError: its storage has closed it
                file.flush()  # here an OSError is the disk's; in store() it might be the storage's
            with suppress(AttributeError, OSError, ValueError):  # a file of somebody else's storage, or a closed one
                self.bytes = file.seek(0, io.SEEK_END)
        except (OSError, MemoryError) as error:
            reason, remedy = disk_error(error, self.slot)
            raise StoreError(f"the file could not be finished: {reason}", uri=self.uri, remedy=remedy) from error
        except Exception as error:
            raise StoreError(f"{type(error).__name__}: {error}", uri=self.uri) from error
        try:
            await ensure_awaitable(self.slot.storage.store(file))
        except StoreError:
            raise
        except Exception as error:
            # A storage of somebody else's: the error has no known meaning. As long as the file is open we can try again.
            kind = StoreError if file.closed else StoreUnreachable
            raise kind(f"{type(error).__name__}: {error}", uri=self.uri) from error
        file.close()
        return ItemFile(self.uri, self.slot.itemcount, self.bytes)

    def _finish(self) -> Any:
        """Write the end of the file, and return the file, open even if the exporter or a plugin closes it."""
        slot = self.slot
        file = slot.file.file if isinstance(slot.file, PostProcessingManager) else slot.file
        spare = None
        if isinstance(getattr(file, "name", None), int):  # a file without a name is gone once it is closed
            spare = os.dup(file.fileno())  # type: ignore[union-attr]
        try:
            slot.finish_exporting()
            finished = file_of(slot)
            if getattr(finished, "closed", False) and spare is not None:
                finished, spare = os.fdopen(spare, "r+b"), None
            return finished
        finally:
            if spare is not None:
                os.close(spare)

    def discard(self) -> None:
        """Close its temporary file, which is then gone."""
        if self.slot.file is not None:
            with suppress(OSError):  # a full disk does not take what is still in memory
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
