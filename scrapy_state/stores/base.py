"""What a store for state files and item files must be able to do: reader and writer are separate.

``scrapy_state.testing`` has the tests that a store keeps these promises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from inspect import signature
from typing import IO, Any, Protocol, runtime_checkable


class StoreReader(Protocol):
    """Reads, and can do nothing else: all that a read-only run gets. Every method blocks, and any thread may call it.

    Keys are text, relative to the store (an S3 bucket, the file system).

    Every method raises :class:`~scrapy_state.exceptions.StoreUnreachable` if the store does not answer, and
    :class:`~scrapy_state.exceptions.StoreRefused` if it answers no. A missing key is a result, not an error. After any other
    exception the crawl does not start, or stops. Unless it is an OSError or a MemoryError, it counts as a bug in the store,
    and its trace is logged.
    """

    def uri(self, key: str) -> str:
        """Return the absolute URI of *key*, without credentials."""

    @property
    def ordered(self) -> bool:
        """Whether :meth:`keys` yields in UTF-8 binary order, and skips the keys up to *after* at no cost."""

    def keys(self, prefix: str, after: str = "", limit: int | None = None, depth: int | None = None) -> Iterator[str]:
        """Yield the keys that begin with *prefix*, in no particular order unless the store is :attr:`ordered`.

        :param after: only keys that sort after this one
        :param limit: at most this many keys (1 to 1,000), fetched in one request if the store can
        :param depth: the caller does not need keys with more slashes than this after *prefix*. The store may leave them out
            if that saves work; then they don't count towards *limit*. A store whose method lacks this argument never gets it
        """

    def read(self, key: str) -> bytes | None:
        """Return the whole content of *key*; None if *key* does not exist."""

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        """Return ``read(key)[begin:][:size]``, if possible without reading the rest; None if *key* does not exist.

        :param begin: in bytes; a negative number counts from the end, as in a slice
        :param size: in bytes, at least 1
        """


def keys_within(store: StoreReader, prefix: str, depth: int | None) -> Iterator[str]:
    """Yield the keys that begin with *prefix* and have at most *depth* slashes after it (None: any number). Blocks."""
    if depth is None:
        return store.keys(prefix)
    keys = store.keys(prefix, depth=depth) if takes_depth(store) else store.keys(prefix)
    return (key for key in keys if key.count("/", len(prefix)) <= depth)


def takes_depth(store: StoreReader) -> bool:
    """Whether the ``keys()`` of *store* has the argument *depth*, which the first stores did not have."""
    return "depth" in signature(store.keys).parameters


def lists_late(store: StoreReader) -> bool:
    """Whether a listing of *store* may lack what was stored just before it. Unless the store says no, it may.

    A store says so by an attribute of this name, which counts after a listing.
    """
    return bool(getattr(store, "lists_late", True))


class StoreWriter(StoreReader, Protocol):
    """Reads and creates. It never overwrites a stored file."""

    @property
    def atomic(self) -> bool:
        """Whether, if two writers create one key at the same instant, one of them is sure to get KeyTaken."""

    def create(self, key: str, file: IO[bytes]) -> None:
        """Store the whole of *file* as *key*; when this returns, it is durable.

        If *key* has the same content already, that is a success: an earlier call stored it, and the reply was lost. *file*
        stays open, so that the caller can try again.

        :raises KeyTaken: if *key* has other content
        """

    def probe(self, key: str) -> None:
        """Prove that *key* can be stored, as far as that is possible without leaving anything behind.

        It may be called again after a StoreUnreachable. If the store has no way to tell, it just returns.
        """

    def delete(self, key: str) -> None:
        """Delete *key*, if it exists. Only for orphans, and only if the user asks for it (STATE_ORPHANS)."""


@runtime_checkable
class UploadsInParts(Protocol):
    """What the write side may have besides, where a killed run can leave unfinished uploads that the store keeps."""

    def abort_uploads(self, prefix: str) -> Iterable[str]:
        """Abort every unfinished upload whose key begins with *prefix*, and yield its key. Only for runs that are over.

        Nothing that can be read changes. An upload is left alone where a file is stored under its key: it may be that file's.
        """


class Store(Protocol):
    """What STATE_STORES names for a scheme: a class with two static (or class) methods, or a module with two functions.

    Neither does any input or output: readers and writers make their clients and connections on first use.

    *uri* is a whole URI or the beginning of one, and may end in the middle of a name: for ``memory://place/state/00`` the key
    may be ``state/00``. *settings* are the crawl's; they may include settings of the store's own.
    """

    def open_reader(self, uri: str, settings: Mapping[str, Any], /) -> tuple[StoreReader, str]:
        """Return a reader, which has no method that writes, and the key of *uri*.

        :raises StateSettingsError: if this store can't have such a URI
        """

    def open_writer(self, uri: str, settings: Mapping[str, Any], /) -> tuple[StoreWriter, str]:
        """Return a writer, and the key of *uri*: the same key as from :meth:`open_reader`."""
