"""What tests change in the process of one crawl: mistakes that they must see, and file systems that lack something."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from scrapy_state.export.batch import Batch
from scrapy_state.model.item_file import ItemFile
from scrapy_state.stores import local, naming


def files_are_not_synced() -> None:
    naming._sync_file = lambda file: None


def folders_are_not_synced() -> None:
    local.sync_folder = lambda folder: None  # type: ignore[attr-defined]


def folders_above_are_not_synced() -> None:
    naming._sync_above = lambda folder: None


def files_are_synced_after_they_are_named() -> None:
    """Then a power failure leaves torn files, but none that counts."""
    sync = naming._sync_file
    link, linked = os.link, []
    naming._sync_file = linked.append

    def link_and_sync(*args: Any, **options: Any) -> None:
        link(*args, **options)
        while linked:
            sync(linked.pop())

    os.link = link_and_sync


def no_links() -> None:
    """A file system with neither links, nor files without a name, nor a rename that does not replace."""
    naming._renamed_new = lambda path, new: False
    naming._linkable_file = lambda folder: None

    def link(*args: Any, **options: Any) -> None:
        raise PermissionError(1, "no links")

    os.link = link


def checkpoints_come_before_item_files() -> None:
    store = Batch.store
    late: set[asyncio.Task[Any]] = set()

    async def store_late(batch: Batch) -> ItemFile:
        batch._finished = batch._finished or batch._finish()
        batch.bytes = batch._finished.seek(0, os.SEEK_END)

        async def wait() -> None:
            await asyncio.sleep(0.1)
            await store(batch)

        late.add(asyncio.create_task(wait()))
        return ItemFile(batch.uri, batch.slot.itemcount, batch.bytes)

    Batch.store = store_late  # type: ignore[method-assign]


def _by_name(*functions: Callable[[], None]) -> dict[str, Callable[[], None]]:
    return {each.__name__.replace("_", " "): each for each in functions}


MISTAKES = _by_name(
    files_are_not_synced, folders_are_not_synced, folders_above_are_not_synced, checkpoints_come_before_item_files
)
TEARS = _by_name(files_are_synced_after_they_are_named, no_links)
PLANTED = {**MISTAKES, **TEARS}
