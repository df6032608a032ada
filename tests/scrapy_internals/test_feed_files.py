"""Feed storages: which methods are replaced, and which are the storage's own."""

from __future__ import annotations

import io
from typing import IO, Any

import pytest
from scrapy import Spider
from scrapy.extensions.feedexport import BlockingFeedStorage

from scrapy_state.scrapy_internals import replace_inherited_methods


class Inherits(BlockingFeedStorage):
    """A storage that has only what it must have."""

    def _store_in_thread(self, file: IO[bytes]) -> None:
        file.write(b"stored")


class Overrides(Inherits):
    """A storage with an open() and a store() of its own."""

    def open(self, spider: Spider) -> IO[bytes]:
        return io.BytesIO(b"its own")

    def store(self, file: IO[bytes]) -> Any:
        return "its own"


@pytest.mark.parametrize(("cls", "opened", "stored"), [(Inherits, b"ours", "in a thread"), (Overrides, b"its own", "its own")])
def test_replace_inherited_methods(cls: type[Inherits], opened: bytes, stored: str) -> None:
    """Inherited methods are replaced, on one object alone; those that the storage's class has itself stay."""
    storage: Any = cls()

    def run_in_thread(function: Any, file: IO[bytes]) -> str:
        assert function == storage._store_in_thread
        return "in a thread"

    replace_inherited_methods(storage, lambda spider: io.BytesIO(b"ours"), run_in_thread)
    assert storage.open(Spider("any")).read() == opened
    assert storage.store(io.BytesIO()) == stored
    assert "open" not in vars(cls())
