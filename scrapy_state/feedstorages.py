"""A feed storage whose outcome is known: create-only, whole or not at all, durable when ``store()`` is done."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.extensions.feedexport import BlockingFeedStorage, FeedSlot, FileFeedStorage, S3FeedStorage
from scrapy.settings import BaseSettings

from .exceptions import StateSettingsError
from .stores import StoreWriter, open_writer
from .stores.local import LocalWriter, nameless_file

if TYPE_CHECKING:
    from typing_extensions import Self


class DurableFeedStorage(BlockingFeedStorage):
    """Stores a batch on S3 (``s3://…``) or on the local disk (``file://…``, a path), through scrapy_state's stores.

    Its temporary file has no name (O_TMPFILE where the system has it), so that nothing is left of it however the
    process ends. It lies in FEED_TEMPDIR if that is set; else, for a local feed, in the feed's own folder, where the
    finished file only needs a name.

    ``store()`` leaves the file open and may be called again after it failed.
    """

    def __init__(self, store: StoreWriter, key: str) -> None:
        self._store = store
        self._key = key
        #: absolute, without credentials
        self.uri = store.uri(key)

    @classmethod
    def from_crawler(cls, crawler: Crawler, uri: str, *, feed_options: dict[str, Any] | None = None) -> Self:
        """Make it for *uri*; no input or output yet."""
        return cls(*open_writer(uri, crawler.settings))

    def open(self, spider: Spider) -> IO[bytes]:
        """See Scrapy's FeedStorageProtocol."""
        folder = self.folder(spider.crawler.settings)
        if folder == os.path.dirname(self._key):
            os.makedirs(folder, exist_ok=True)
        return nameless_file(folder)

    def folder(self, settings: BaseSettings) -> str:
        """Return where the temporary file lies."""
        beside = isinstance(self._store, LocalWriter) and not settings["FEED_TEMPDIR"]
        return os.path.dirname(self._key) if beside else _temporary_folder(settings)

    def probe(self) -> None:
        """Prove that it could be stored, leaving nothing behind. Blocks.

        :raises StoreError: if it could not
        """
        self._store.probe(self._key)

    def _store_in_thread(self, file: IO[bytes]) -> None:
        self._store.create(self._key, file)


def open_nameless(spider: Spider) -> IO[bytes]:
    """Return a new file in FEED_TEMPDIR, or where the system has its temporary files, of which nothing is ever left."""
    return nameless_file(_temporary_folder(spider.crawler.settings))


def _temporary_folder(settings: BaseSettings) -> str:
    return str(settings["FEED_TEMPDIR"] or tempfile.gettempdir())


def disk_error(error: OSError, slot: FeedSlot) -> str:
    """Return what went wrong with the temporary file of *slot*: on which disk, and what to do."""
    said, storage, settings = error.strerror or str(error), slot.storage, slot.crawler.settings
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{said}; allow the process more (ulimit -n)"
    if isinstance(storage, DurableFeedStorage):
        folder = storage.folder(settings)
    elif isinstance(storage, BlockingFeedStorage):
        folder = _temporary_folder(settings)
    else:  # somebody else's, who alone knows where its file lies
        return f"{said}; check the disk"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{said} on the disk of {folder}; make room there, or set FEED_TEMPDIR to a folder on another disk"
    return f"{said}; check the disk of {folder}, and who may write there"


def check_temporary_folder(settings: BaseSettings) -> None:
    """Raise StateSettingsError if FEED_TEMPDIR is set and no folder. Blocks."""
    folder = settings["FEED_TEMPDIR"]
    if folder and not Path(folder).is_dir():
        raise StateSettingsError(f"FEED_TEMPDIR is {str(folder)!r}, which is no folder: make it, or correct the setting")


#: Scrapy's storages that can't tell how it ended -> what stands in for them in feeds that checkpoints name
DURABLE: dict[type, type] = {FileFeedStorage: DurableFeedStorage, S3FeedStorage: DurableFeedStorage}
