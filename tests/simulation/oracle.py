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
    """Return what is wrong with the first crawl in *files*, by key."""
    last = next((key for key in checkpoints(files) if _ends(shape, files[key])), None)
    later = {key for key in checkpoints(files) if last is not None and key > last}
    stored = {f"{SCHEME}{key}": content for key, content in files.items() if not key.startswith("mine/") and key not in later}
    feeds = {name: Feed(f"{SCHEME}{name}/", _READERS[name]) for name in shape.feeds}
    expected = Expected(shape.keys(size), page_of, shape.optional(size))
    return check(stored, STATES, feeds, expected, over=last is not None).wrong


def missing(shape: Shape, size: int, files: Mapping[str, bytes]) -> list[str]:
    """Return what *files* lack, if nobody counts how often an item is there. All of them must be whole."""
    found = {item for key, content in files.items() for item in _READERS[key.partition("/")[0]](content)}
    lost = sorted(set(shape.keys(size)) - found)
    return [f"{len(lost)} items are lost: {', '.join(lost[:8])}"] if lost else []


def is_over(shape: Shape, files: Mapping[str, bytes]) -> bool:
    """Whether a crawl is over."""
    return any(_ends(shape, files[key]) for key in checkpoints(files))


def checkpoints(files: Mapping[str, bytes]) -> list[str]:
    """Return the keys of the checkpoints, in order."""
    return sorted(key for key in files if key.startswith("state/") and key.endswith(".json"))


def _ends(shape: Shape, content: bytes) -> bool:
    """Whether the crawl is over with a checkpoint."""
    checkpoint = json.loads(content)[0]
    return checkpoint["reason"] in shape.over and not ("requests" in checkpoint and checkpoint["reason"] == "finished")
