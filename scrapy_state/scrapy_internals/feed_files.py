"""Feeds: the files, storages and exporters of Scrapy's feed exports (scrapy/extensions/feedexport.py, scrapy/exporters.py)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scrapy import Spider
    from scrapy.exporters import CsvItemExporter
    from scrapy.extensions.feedexport import BlockingFeedStorage, FeedSlot


def replace_inherited_methods(
    storage: BlockingFeedStorage,
    open_file: Callable[[Spider], IO[bytes]],
    run_in_thread: Callable[[Callable[[IO[bytes]], None], IO[bytes]], Any],
) -> None:
    """Replace open() and store() of this one *storage*, where it has them from BlockingFeedStorage; its own stay.

    BlockingFeedStorage.open() makes a temporary file with a name, which would stay behind when the process is killed.
    BlockingFeedStorage.store() uses one of asyncio's few threads.

    :param open_file: returns a temporary file
    :param run_in_thread: runs a function, whose argument is the file, in a thread; returns an awaitable
    """
    from scrapy.extensions.feedexport import BlockingFeedStorage

    if type(storage).open is BlockingFeedStorage.open:
        storage.open = open_file  # type: ignore[method-assign,assignment]
    if type(storage).store is BlockingFeedStorage.store:
        storage.store = partial(run_in_thread, storage._store_in_thread)  # type: ignore[method-assign]


def file_of(slot: FeedSlot) -> Any:
    """Return the file of *slot* that its storage takes, without the postprocessing around it, which ends here.

    FeedExporter._close_slot() begins with the same steps.
    """
    from scrapy.extensions.postprocessing import PostProcessingManager

    if isinstance(slot.file, PostProcessingManager):
        slot.file.close()
        return slot.file.file
    return slot.file


def write_csv_header(exporter: CsvItemExporter, like: CsvItemExporter) -> None:
    """Have *exporter* write the header that *like* wrote, if it wrote one.

    CsvItemExporter writes the header with its first item only, and takes the fields from that item.
    """
    exporter.fields_to_export = like.fields_to_export
    exporter._write_headers_and_set_fields_to_export({})
