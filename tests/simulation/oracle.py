"""What must hold of all that is stored, at any moment, and once the crawl is over. Reads it without the package's code."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping

from any_shape import Shape, page_of
from oracle import Feed, jsonlines_keys
from requests_oracle import Expected, check

from .crawl import STATES
from .store import SCHEME


def _csv_keys(content: bytes) -> list[str]:
    return [row["key"] for row in csv.DictReader(io.StringIO(content.decode(), newline=""))]


_READERS = {"all": jsonlines_keys, "csv": _csv_keys, "batches": jsonlines_keys}


def wrong(shape: Shape, size: int, files: Mapping[str, bytes]) -> list[str]:
    """Return what is wrong with *files*, by key."""
    stored = {f"{SCHEME}{key}": content for key, content in files.items()}
    feeds = {name: Feed(f"{SCHEME}{name}/", _READERS[name]) for name in shape.feeds}
    expected = Expected(shape.keys(size), page_of, shape.optional(size))
    return check(stored, STATES, feeds, expected, over=is_over(shape, files)).wrong


def is_over(shape: Shape, files: Mapping[str, bytes]) -> bool:
    """Whether the newest checkpoint says that the crawl is over."""
    newest = max((key for key in files if key.startswith("state/") and key.endswith(".json")), default=None)
    if newest is None:
        return False
    checkpoint = json.loads(files[newest])[0]
    return checkpoint["reason"] in shape.over and not ("requests" in checkpoint and checkpoint["reason"] == "finished")
