"""The bytes of pending requests that are not Request objects yet, in the order in which they will be sent."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from heapq import heapify, heappop, heappush
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol

from queuelib.queue import FifoMemoryQueue, LifoMemoryQueue

from ..exceptions import StateError
from ..stores.naming import TEMPORARY
from .segments.lines import PageLine

#: How many pushed entries are written at once
_BUFFERED = 500
#: How many one statement writes: each row takes half as long as with executemany()
_A_STATEMENT = 50
#: SQLite's integers have 64 bits; beyond this limit priorities count as equal.
_MOST_PRIORITY = 2**62
#: What SQLite keeps in memory; the system caches the file as well.
_CACHE_KIB = 2000
#: MemoryBacklog forgets what was removed when there is more of it than of the rest, and more than this.
_REMOVED = 1000
#: MemoryBacklog orders all rows anew if a larger part than one in this many was pushed.
_FEW_PUSHED = 20
_FIRST_QUEUE = "SELECT rank, is_start FROM entry ORDER BY rank, is_start LIMIT 1"


#: rank, queue, place (the smallest is sent first), page, data. The garbage collector leaves such plain tuples alone.
_Row = tuple[int, bool, int, int, bytes]


class Entry(NamedTuple):
    """A pending request. *is_start*: whether it is a start request, and these have a queue of their own."""

    page: int
    priority: int
    is_start: bool
    data: bytes


class Backlog(Protocol):
    """The pending requests, in the order in which they should be sent.

    The highest priority comes first; within one priority, start requests come last if they have a queue of their own; within
    a queue, the order of the page numbers counts, in whatever order they were pushed.
    """

    def push(self, entries: Sequence[PageLine]) -> None:
        """Add *entries*, with page numbers of at least 0 that no other entry has. Priorities are limited to ± 2**62."""

    def remove(self, pages: Iterable[int]) -> None:
        """Remove the entries of *pages*, as far as there are any."""

    def pop(self, count: int) -> list[Entry]:
        """Remove the next *count* entries and return them; fewer if there are not that many."""

    def __len__(self) -> int: ...

    @property
    def top_priority(self) -> int | None:
        """The highest priority of all entries; None if there are none."""

    def close(self) -> None:
        """Forget all entries."""


def _rank(priority: int) -> int:
    """Return what sorts requests of *priority*: the smallest is sent first."""
    return -priority if -_MOST_PRIORITY <= priority <= _MOST_PRIORITY else _MOST_PRIORITY * (1 if priority < 0 else -1)


class MemoryBacklog:
    """A :class:`Backlog` in memory. Nothing in it blocks, but after many were pushed or removed, the next look at the first one
    may take 1 µs for each entry.

    :param first_out: whether the oldest page is sent first (FIFO), rather than the newest (LIFO)
    :param start_first_out: the same for start requests; None if they wait in the same queue as the others
    """

    def __init__(self, first_out: bool, start_first_out: bool | None) -> None:
        self._has_start_queue = start_first_out is not None
        #: for each queue, the sign of the page number that brings it into its order
        self._signs = 1 if first_out else -1, 1 if start_first_out else -1
        #: page -> its row
        self._rows: dict[int, _Row] = {}
        #: all rows, and some that were removed
        self._heap: list[_Row] = []
        #: rows that are not in the heap yet
        self._pushed: list[_Row] = []

    def push(self, entries: Sequence[PageLine]) -> None:
        """See :class:`Backlog`."""
        for page, priority, is_start, data in entries:
            queue = is_start and self._has_start_queue
            self._rows[page] = row = _rank(priority), queue, self._signs[queue] * page, page, data
            self._pushed.append(row)

    def remove(self, pages: Iterable[int]) -> None:
        """See :class:`Backlog`."""
        for page in pages:
            self._rows.pop(page, None)
        if len(self._heap) + len(self._pushed) > 2 * len(self._rows) + _REMOVED:
            self._heap, self._pushed = [], list(self._rows.values())

    def pop(self, count: int) -> list[Entry]:
        """See :class:`Backlog`."""
        found: list[Entry] = []
        while len(found) < count and self._skip_removed():
            rank, queue, _, page, data = heappop(self._heap)
            del self._rows[page]
            found.append(Entry(page, -rank, queue, data))
        return found

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def top_priority(self) -> int | None:
        """See :class:`Backlog`."""
        return -self._heap[0][0] if self._skip_removed() else None

    def close(self) -> None:
        """See :class:`Backlog`."""
        self._rows.clear()
        self._heap.clear()
        self._pushed.clear()

    def _skip_removed(self) -> bool:
        """Drop what was removed from the top of the heap; return whether anything is left."""
        if self._pushed:
            self._push_all()
        while self._heap and self._rows.get(self._heap[0][3]) is not self._heap[0]:
            heappop(self._heap)
        return bool(self._heap)

    def _push_all(self) -> None:
        rows, self._pushed = self._pushed, []
        if len(rows) * _FEW_PUSHED > len(self._heap):  # heappush() takes some ten times as long for each row
            self._heap += rows
            heapify(self._heap)
        else:
            for row in rows:
                heappush(self._heap, row)


class DiskBacklog:
    """A :class:`Backlog` in a temporary file, of which nothing remains, however the process ends.

    All methods write or read the file: some 3 µs for each entry, so 50 entries don't block the event loop noticeably. They
    raise StateError if the file can't be written. Use it in one thread at a time.

    :param folder: where the file is
    :param first_out: whether the oldest page is sent first (FIFO), rather than the newest (LIFO)
    :param start_first_out: the same for start requests; None if they wait in the same queue as the others
    :raises StateError: if there can be no file
    """

    def __init__(self, folder: str, first_out: bool, start_first_out: bool | None) -> None:
        self._has_start_queue = start_first_out is not None
        #: for each queue, in which order its pages are sent
        self._orders = "page" if first_out else "page DESC", "page" if start_first_out else "page DESC"
        self._folder = folder
        self._buffer: list[tuple[int, int, bool, bytes]] = []
        self._count = 0
        #: the highest priority; None if the file has to be asked
        self._top: int | None = None
        with self._errors():
            self._sql = _nameless_database(folder)

    def push(self, entries: Sequence[PageLine]) -> None:
        """See :class:`Backlog`."""
        has_queue = self._has_start_queue
        rows = [(page, _rank(priority), is_start and has_queue, data) for page, priority, is_start, data in entries]
        self._buffer += rows
        if rows and not self._count:
            self._top = -rows[0][1]
        if self._top is not None:
            self._top = max([self._top, *(-row[1] for row in rows)])
        self._count += len(rows)
        if len(self._buffer) >= _BUFFERED:
            self._flush()

    def remove(self, pages: Iterable[int]) -> None:
        """See :class:`Backlog`."""
        self._flush()
        with self._errors():
            self._count -= self._sql.executemany("DELETE FROM entry WHERE page = ?", ((page,) for page in pages)).rowcount
        self._top = None

    def pop(self, count: int) -> list[Entry]:
        """See :class:`Backlog`."""
        self._flush()
        found: list[Entry] = []
        with self._errors():
            while len(found) < count and (queue := self._sql.execute(_FIRST_QUEUE).fetchone()):
                found += self._pop_from(queue, count - len(found))
        self._count -= len(found)
        self._top = None
        return found

    def __len__(self) -> int:
        return self._count

    @property
    def top_priority(self) -> int | None:
        """See :class:`Backlog`."""
        if self._count and self._top is None:
            self._flush()
            with self._errors():
                (self._top,) = self._sql.execute("SELECT -rank FROM entry ORDER BY rank LIMIT 1").fetchone()
        return self._top if self._count else None

    def close(self) -> None:
        """See :class:`Backlog`. The disk space is free afterwards."""
        self._buffer.clear()
        self._count = 0
        self._sql.close()

    def _pop_from(self, queue: tuple[int, int], count: int) -> list[Entry]:
        rank, is_start = queue
        select = f"SELECT page, data FROM entry WHERE rank = ? AND is_start = ? ORDER BY {self._orders[is_start]} LIMIT ?"
        rows = self._sql.execute(select, (*queue, count)).fetchall()
        ends = sorted((rows[0][0], rows[-1][0]))
        self._sql.execute("DELETE FROM entry WHERE rank = ? AND is_start = ? AND page BETWEEN ? AND ?", (*queue, *ends))
        return [Entry(page, -rank, bool(is_start), data) for page, data in rows]

    def _flush(self) -> None:
        rows = iter(self._buffer)
        with self._errors():
            while some := [*islice(rows, _A_STATEMENT)]:
                values = ", ".join(["(?, ?, ?, ?)"] * len(some))
                self._sql.execute(f"INSERT INTO entry VALUES {values}", [*chain.from_iterable(some)])
        self._buffer.clear()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StateError(
                f"the pending requests can't be kept in a temporary file: {error}",
                uri=self._folder,
                remedy="free space there, or set FEED_TEMPDIR to a folder on another disk",
            ) from error


def is_first_out(queue: Any) -> bool:
    """Whether requests leave *queue*, one of Scrapy's classes, first in, first out."""
    # LifoMemoryQueue is a subclass of FifoMemoryQueue
    return issubclass(queue, FifoMemoryQueue) and not issubclass(queue, LifoMemoryQueue)


def _nameless_database(folder: str) -> sqlite3.Connection:
    """Return a new database in *folder* whose file has no name.

    SQLite finds the name of a file behind /proc/self/fd and would make a file of that name; and a database without a name
    goes to a folder that only an environment variable can change. So the file has a name until SQLite has opened it.
    """
    handle, path = tempfile.mkstemp(dir=folder, prefix=TEMPORARY)
    os.close(handle)
    try:
        sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False)  # filled in another thread at the start
        # One transaction that never ends, and no journal: nobody will read the file after a crash.
        sql.execute("PRAGMA journal_mode = OFF")
        sql.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        sql.execute("BEGIN EXCLUSIVE")
        # The data lie in the order of the pages, nearly that of pushing; only the small index is written all over.
        sql.execute("CREATE TABLE entry (page INTEGER PRIMARY KEY, rank, is_start, data)")
        sql.execute("CREATE INDEX next ON entry (rank, is_start)")  # each of its entries ends with the page
    finally:
        with suppress(PermissionError):  # Windows keeps the name of an open file.
            os.unlink(path)
    return sql
