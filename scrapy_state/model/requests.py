"""The requests of a crawl, as checkpoints name them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .stored_file import StoredFile


@dataclass(frozen=True)
class Requests:
    """The requests that a checkpoint contains: where they are stored, and how many there are.

    :param segments: what to read, oldest first
    :param start: what ``start()`` of the next run gets: ``{"state": {…}, "ended": bool}``
    :param pending: how many pages are known and not settled, held ones included
    :param in_flight: how many of them had been handed to the engine
    :param seen: how many fingerprints the filter has seen
    :param failed: how many pages failed and were skipped; *held*: how many failed and are tried again by the next run
    :param fingerprints: those of three made-up requests, to notice another fingerprinter
    """

    segments: tuple[StoredFile, ...] = ()
    start: Mapping[str, Any] = field(default_factory=dict)
    pending: int = 0
    in_flight: int = 0
    seen: int = 0
    failed: int = 0
    held: int = 0
    fingerprints: tuple[str, ...] = ()

    @property
    def start_state(self) -> dict[str, Any] | None:
        """The state that ``start()`` began with, if it had not ended; otherwise None."""
        return None if self.start.get("ended", True) else dict(self.start["state"])

    def to_json(self) -> dict[str, Any]:
        """Return the object for the checkpoint's ``requests``."""
        return {**asdict(self), "start": dict(self.start)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Requests:
        """Read what :meth:`to_json` wrote; raise KeyError, TypeError or ValueError for anything else."""
        segments = tuple(map(StoredFile.from_json, data["segments"]))
        if not all(segment.name.endswith(".tsv.gz") for segment in segments):  # prune deletes what they name
            raise ValueError("segments")
        start = data["start"]
        if not (isinstance(start["state"], dict) and isinstance(start["ended"], bool)):
            raise TypeError("start")
        counts = {name: int(data.get(name, 0)) for name in ("pending", "in_flight", "seen", "failed", "held")}
        return cls(segments, start, fingerprints=tuple(map(str, data.get("fingerprints", ()))), **counts)
