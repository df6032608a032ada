"""What a store of state files and item files must be able to do: the read side and the write side apart.

``scrapy_state.testing`` has the tests of what is promised here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from inspect import signature
from typing import IO, Any, Protocol, runtime_checkable


class StoreReader(Protocol):
    """The read side: all that a read-only run is given. Every method blocks and may be called from any thread.

    Keys are text, relative to the store (an S3 bucket, the file system).

    All methods raise :class:`~scrapy_state.exceptions.StoreUnreachable` if there is no answer, and
    :class:`~scrapy_state.exceptions.StoreRefused` if the store says no. What is not there is a result, not an error.
    Any other exception is taken for a mistake in the store: its trace is logged, and the crawl does not start, or stops.
    """

    def uri(self, key: str) -> str:
        """Return the absolute URI of *key*, without credentials."""

    @property
    def ordered(self) -> bool:
        """Whether :meth:`keys` yields in UTF-8 binary order, and what lies before *after* costs nothing."""

    def keys(self, prefix: str, after: str = "", limit: int | None = None, depth: int | None = None) -> Iterator[str]:
        """Yield the keys that begin with *prefix*, in no particular order unless the store is :attr:`ordered`.

        :param after: only those that sort after it
        :param limit: at most so many (1 to 1,000), asked for at once
        :param depth: keys with more slashes than that after *prefix* are not needed, and may be left out if that saves
            work; they don't count for *limit* then. A store that does without this argument is given none
        """

    def read(self, key: str) -> bytes | None:
        """Return the whole content of *key*, None if there is none."""

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        """Return what ``read(key)[begin:][:size]`` is, without reading the rest if the store can; None if there is none.

        :param begin: in bytes; below 0 from the end, as in a slice
        :param size: in bytes, 1 at least
        """


def keys_within(store: StoreReader, prefix: str, depth: int | None) -> Iterator[str]:
    """Yield the keys with *prefix* that have at most *depth* slashes after it (None: any), of any store. Blocks."""
    if depth is None:
        return store.keys(prefix)
    found = store.keys(prefix, depth=depth) if takes_depth(store) else store.keys(prefix)
    return (key for key in found if key.count("/", len(prefix)) <= depth)


def takes_depth(store: StoreReader) -> bool:
    """Whether the ``keys()`` of *store* has the argument *depth*, which came later than the others."""
    return "depth" in signature(store.keys).parameters


class StoreWriter(StoreReader, Protocol):
    """The write side: create-only. Nothing that is stored is ever overwritten through it."""

    @property
    def atomic(self) -> bool:
        """Whether of two writers of one key at the same instant one is sure to be told that it is taken."""

    def create(self, key: str, file: IO[bytes]) -> None:
        """Store *file*, from its beginning to its end, as *key*; when this returns it is durable.

        The same content already there is a success: it is our own write, of which the reply was lost. *file* is left
        open, so that the call can be made again.

        :raises KeyTaken: if *key* has other content
        """

    def probe(self, key: str) -> None:
        """Prove that *key* could be stored, as far as that can be done without leaving anything behind.

        May be called again after a StoreUnreachable. Where there is no way to tell, it returns.
        """

    def delete(self, key: str) -> None:
        """Delete *key*; only for orphans, when the user has asked for it (STATE_ORPHANS). Not there: nothing happens."""


@runtime_checkable
class UploadsInParts(Protocol):
    """What the write side may have besides, where a killed run can leave unfinished uploads that the store keeps."""

    def abort_uploads(self, prefix: str) -> Iterable[str]:
        """Abort every unfinished upload whose key begins with *prefix*, and yield its key. Only for runs that are over.

        Nothing that can be read changes. An upload is left alone where a file is stored under its key: it may be that file's.
        """


class Store(Protocol):
    """What STATE_STORES has for a scheme: a class with two static (or class) methods, or a module with two functions.

    Neither does any input or output: clients and connections are made on first use, by the methods of what is returned.

    *uri* is whole or the beginning of one, in which the key need not end where a name does: for ``memory://place/state/00``
    the key may be ``state/00``. *settings* are the crawl's; a store's own may be there, too.
    """

    def open_reader(self, uri: str, settings: Mapping[str, Any], /) -> tuple[StoreReader, str]:
        """Return the read side, which has no method that writes, and the key of *uri*.

        :raises StateSettingsError: if *uri* can't be one of this store's
        """

    def open_writer(self, uri: str, settings: Mapping[str, Any], /) -> tuple[StoreWriter, str]:
        """Return the write side, and the key of *uri*: the same one."""
