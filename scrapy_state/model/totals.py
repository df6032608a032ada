"""What a lineage has cost and brought in so far. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Totals(NamedTuple):
    """Sums along a lineage, up to a checkpoint.

    :param pages: responses that spiders got, without robots.txt
    :param seconds: how long runs have crawled: from the opening checkpoint of each to its last one
    :param bytes: the size of the item files
    """

    pages: int = 0
    seconds: float = 0.0
    bytes: int = 0

    def plus(self, other: Totals) -> Totals:
        """Return the sum of both."""
        return Totals(self.pages + other.pages, self.seconds + other.seconds, self.bytes + other.bytes)

    def to_json(self) -> dict[str, Any]:
        """Return the object for the checkpoint's ``totals``."""
        return {"pages": self.pages, "seconds": round(float(self.seconds), 3), "bytes": self.bytes}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Totals:
        """Read what :meth:`to_json` wrote; raise KeyError, TypeError, ValueError or OverflowError for anything else."""
        return cls(int(data["pages"]), float(data["seconds"]), int(data["bytes"]))


NOTHING = Totals()
