"""A place in a store, for a test to fill."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ..stores import StoreReader, StoreWriter, open_reader, open_writer


class Place:
    """A place in a store with nothing in it, where a test may create what it likes.

    :param uri: the beginning of the URIs there, as one would write it in FEEDS; with a slash at its end
    :param settings: what the store needs, and STATE_STORES if it isn't a built-in one
    """

    def __init__(self, uri: str, settings: Mapping[str, Any]) -> None:
        self.uri = uri
        self.settings = settings

    @cached_property
    def writer(self) -> StoreWriter:
        """The write side, opened as scrapy_state does it."""
        return open_writer(self.uri, self.settings)[0]

    @cached_property
    def reader(self) -> StoreReader:
        """The read side."""
        return open_reader(self.uri, self.settings)[0]

    @cached_property
    def key(self) -> str:
        """What all keys here begin with."""
        return open_reader(self.uri, self.settings)[1]

    def create(self, name: str, content: bytes) -> None:
        """Create the key *name*, relative to the place."""
        self.writer.create(self.key + name, io.BytesIO(content))

    def read(self, name: str) -> bytes | None:
        """Read it, by the read side."""
        return self.reader.read(self.key + name)

    def names(self, prefix: str = "") -> set[str]:
        """Return the names that ``keys()`` finds; each must be there once."""
        found = list(self.reader.keys(self.key + prefix))
        assert len(found) == len(set(found)), "keys() yields a key twice"
        assert all(each.startswith(self.key + prefix) for each in found), "keys() yields a key that has not the prefix"
        return {each.removeprefix(self.key) for each in found}
