"""One file of an item feed that checkpoints name: exporting to it, splitting it, making it durable."""

from __future__ import annotations

import asyncio
import io
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from scrapy.extensions.feedexport import FeedExporter, FeedSlot
from scrapy.utils.defer import ensure_awaitable

from .checkpoint import ItemFile
from .exceptions import StoreError, StoreUnreachable
from .feedstorages import DurableFeedStorage, disk_error

#: Formats in which each item is a line (or a record) of its own, so that a file can be split between two.
LINE_FORMATS = frozenset({"jsonlines", "jsonl", "jl", "csv"})


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
    upload: asyncio.Task[ItemFile] | None = None
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
        """Whether its items can be told apart by bytes: an uncompressed line format, in a storage of ours."""
        slot = self.slot
        plain = slot.format in LINE_FORMATS and not slot.feed_options.get("postprocessing")
        # The first item of a CSV file has the header with it.
        headed = slot.format == "csv" and bool(self.after) and self.after[0].start == 0
        return plain and not headed and isinstance(slot.storage, DurableFeedStorage)

    def split(self, rest: Batch) -> None:
        """Move the items that follow the newest state item to *rest*, a new batch of the same feed."""
        slot, moved = self.slot, rest.slot
        slot.finish_exporting()
        source = slot.file
        assert source is not None
        source.flush()
        kept_file, moved_file = slot.storage.open(slot.spider), moved.storage.open(slot.spider)
        if slot.format == "csv":
            source.seek(0)
            moved_file.write(source.readline())  # the header
        at = 0
        for each in self.after:
            _copy(source, kept_file, at, each.start_byte)
            _copy(source, moved_file, each.start_byte, each.end_byte)
            at = each.end_byte
        _copy(source, kept_file, at, source.seek(0, io.SEEK_END))
        moved.file, moved.itemcount = moved_file, sum(each.end - each.start for each in self.after)
        slot.file, slot.itemcount = kept_file, slot.itemcount - moved.itemcount
        self.after.clear()
        source.close()

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
                self.slot.finish_exporting()
                self._finished = FeedExporter._get_file(self.slot)
            file = self._finished
            with suppress(AttributeError):
                file.flush()  # here, where what it raises is known for the disk's
            with suppress(AttributeError, OSError):
                self.bytes = file.seek(0, io.SEEK_END)
        except OSError as error:
            raise StoreError(f"{self.uri}: the file could not be finished: {disk_error(error, self.slot)}") from error
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

    def discard(self) -> None:
        """Close and forget its temporary file."""
        if self.slot.file is not None:
            with suppress(OSError):  # a full disk, on which what is in memory can't be written
                self.slot.file.close()


def _copy(source: IO[bytes], target: IO[bytes], start: int, end: int) -> None:
    source.seek(start)
    while start < end:
        chunk = source.read(min(end - start, 1 << 20))
        target.write(chunk)
        start += len(chunk)
