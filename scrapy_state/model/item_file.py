"""A file with items, as checkpoints name it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ItemFile:
    """One stored batch of an item feed.

    :param uri: absolute, without credentials
    :param items: how many items it contains, skipped ones included
    :param bytes: its stored size; None if the storage doesn't say
    :param skip: half-open ranges of the positions of items that readers must skip
    """

    uri: str
    items: int
    bytes: int | None = None
    skip: tuple[tuple[int, int], ...] = ()

    @property
    def counted(self) -> int:
        """How many items it contains, without skipped ones."""
        return self.items - sum(end - start for start, end in self.skip)

    def to_json(self) -> dict[str, Any]:
        """Return the object for the checkpoint's ``files``."""
        data: dict[str, Any] = {"uri": self.uri, "items": self.items, "bytes": self.bytes}
        if self.skip:
            data["skip"] = [list(positions) for positions in self.skip]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ItemFile:
        """Read what :meth:`to_json` wrote; raise KeyError, TypeError or ValueError for anything else."""
        skip = tuple((int(start), int(end)) for start, end in data.get("skip", ()))
        return cls(str(data["uri"]), int(data["items"]), data.get("bytes"), skip)
