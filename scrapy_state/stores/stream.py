"""Reading a stored file as a stream."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class StoredFile(io.RawIOBase):
    """A file in a store, read part by part, so that no connection stays open while the reader does something else.

    :param read_part: takes a position and a size in bytes, and returns that part of the file, like
        :meth:`~scrapy_state.stores.base.StoreReader.read_part`
    """

    def __init__(self, read_part: Callable[[int, int], bytes | None]) -> None:
        self._read_part = read_part
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """See :class:`io.RawIOBase`."""
        view = memoryview(buffer).cast("B")
        part = self._read_part(self._position, len(view)) or b""
        view[: len(part)] = part
        self._position += len(part)
        return len(part)
