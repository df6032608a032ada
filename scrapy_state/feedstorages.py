"""The feed storage for files that checkpoints name: it never overwrites, and a file is durable when ``store()`` is done."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.extensions.feedexport import BlockingFeedStorage, FeedSlot, FileFeedStorage, S3FeedStorage
from scrapy.settings import BaseSettings

from .exceptions import StateSettingsError
from .stores import StoreWriter, open_writer
from .stores.local import MORE_FILES, MORE_MEMORY, LocalWriter
from .stores.naming import make_folder, nameless_file

if TYPE_CHECKING:
    from typing_extensions import Self


class DurableFeedStorage(BlockingFeedStorage):
    """Stores a batch through scrapy_state's stores, on S3 (``s3://…``) or on the local disk (``file://…``, a path).

    Its temporary file has no name (O_TMPFILE, where the system has that), so nothing of it remains, however the process
    ends. It is in FEED_TEMPDIR if that is set. Otherwise a local feed uses its own folder, where the finished file only
    needs a name.

    ``store()`` leaves the file open, and may be called again after it has failed.
    """

    def __init__(self, store: StoreWriter, key: str) -> None:
        self._store = store
        self._key = key
        #: where the batch is stored: absolute, without credentials
        self.uri = store.uri(key)

    @classmethod
    def from_crawler(cls, crawler: Crawler, uri: str, *, feed_options: dict[str, Any] | None = None) -> Self:
        """Make the storage of one batch, at *uri*. Does no input or output."""
        return cls(*open_writer(uri, crawler.settings))

    def open(self, spider: Spider) -> IO[bytes]:
        """See Scrapy's FeedStorageProtocol."""
        folder = self.folder(spider.crawler.settings)
        if folder == os.path.dirname(self._key):
            make_folder(folder)
        return nameless_file(folder)

    def folder(self, settings: BaseSettings) -> str:
        """Return the folder of the temporary file."""
        beside = isinstance(self._store, LocalWriter) and not settings["FEED_TEMPDIR"]
        return os.path.dirname(self._key) if beside else temporary_folder(settings)

    def probe(self) -> None:
        """Prove that the batch can be stored, without leaving anything behind. Blocks.

        :raises StoreError: if it can't be stored
        """
        self._store.probe(self._key)

    def _store_in_thread(self, file: IO[bytes]) -> None:
        self._store.create(self._key, file)


def open_nameless(spider: Spider) -> IO[bytes]:
    """Return a new file without a name in FEED_TEMPDIR, or in the system's folder for temporary files."""
    return nameless_file(temporary_folder(spider.crawler.settings))


def temporary_folder(settings: BaseSettings) -> str:
    """Return the folder for temporary files: FEED_TEMPDIR, or the system's."""
    return str(settings["FEED_TEMPDIR"] or tempfile.gettempdir())


def temporary_files(settings: BaseSettings) -> Callable[[], IO[bytes]]:
    """Return a function that returns a new temporary file, of which nothing remains, in :func:`temporary_folder`."""
    return partial(nameless_file, temporary_folder(settings))


def disk_error(error: OSError | MemoryError, slot: FeedSlot) -> tuple[str, str]:
    """Return why the temporary file of *slot* failed, with the disk that it is on, and what the user can do about it."""
    if isinstance(error, MemoryError):
        return "not enough memory", MORE_MEMORY
    reason, storage, settings = error.strerror or str(error), slot.storage, slot.crawler.settings
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return reason, MORE_FILES
    if isinstance(storage, DurableFeedStorage):
        folder = storage.folder(settings)
    elif isinstance(storage, BlockingFeedStorage):
        folder = temporary_folder(settings)
    else:  # Only the project's own storage knows where its file is.
        return reason, "check the disk"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{reason} on the disk of {folder}", "free space there, or set FEED_TEMPDIR to a folder on another disk"
    return reason, f"check the disk of {folder}, and who may write there"


def check_temporary_folder(settings: BaseSettings) -> None:
    """Raise StateSettingsError if FEED_TEMPDIR is set but is not a folder. Blocks."""
    folder = settings["FEED_TEMPDIR"]
    if folder and not Path(folder).is_dir():
        raise StateSettingsError(
            f"FEED_TEMPDIR is {str(folder)!r}, which is not a folder", remedy="make it, or correct the setting"
        )


#: Storages of Scrapy's that don't report whether a file was stored -> what replaces them in feeds that checkpoints name
DURABLE: dict[type, type] = {FileFeedStorage: DurableFeedStorage, S3FeedStorage: DurableFeedStorage}
