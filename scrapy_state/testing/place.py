"""An empty place in a store, for a test to fill."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ..stores import StoreReader, StoreWriter, open_reader, open_writer


class Place:
    """An empty place in a store, where a test may create keys.

    :param uri: the beginning of its URIs, as one would write it in FEEDS; ends in a slash
    :param settings: the settings that the store needs, and STATE_STORES unless it is a built-in store
    """

    def __init__(self, uri: str, settings: Mapping[str, Any]) -> None:
        self.uri = uri
        self.settings = settings

    @cached_property
    def writer(self) -> StoreWriter:
        """A writer, opened as scrapy_state opens it."""
        return open_writer(self.uri, self.settings)[0]

    @cached_property
    def reader(self) -> StoreReader:
        """A reader."""
        return open_reader(self.uri, self.settings)[0]

    @cached_property
    def key(self) -> str:
        """The beginning of all keys here."""
        return open_reader(self.uri, self.settings)[1]

    def create(self, name: str, content: bytes) -> None:
        """Create the key of *name*, which is relative to the place."""
        self.writer.create(self.key + name, io.BytesIO(content))

    def read(self, name: str) -> bytes | None:
        """Return the content of *name*, as the reader reads it; None if it does not exist."""
        return self.reader.read(self.key + name)

    def names(self, prefix: str = "") -> set[str]:
        """Return the names that ``keys()`` yields. It must yield each of them once."""
        keys = list(self.reader.keys(self.key + prefix))
        assert len(keys) == len(set(keys)), "keys() yields a key twice"
        assert all(key.startswith(self.key + prefix) for key in keys), "keys() yields a key without the prefix"
        return {key.removeprefix(self.key) for key in keys}
