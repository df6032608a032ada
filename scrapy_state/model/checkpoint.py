"""A checkpoint and its bytes: the only place that knows the file format. Pure: no Scrapy, no input or output."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import CheckpointError, CheckpointTooNew
from .item_file import ItemFile
from .requests import Requests
from .stored_file import StoredFile
from .totals import Totals

#: The newest version that this package reads
VERSION = 2
#: It names a folder, too.
_MEMORY_NAME = re.compile(r"[a-z]+(_[a-z]+)*")
#: feed format -> whether the file is a list with one object (json); otherwise it is one line (jsonlines)
FORMATS = {"json": True, "jsonlines": False, "jsonl": False, "jl": False}


@dataclass(frozen=True)
class Checkpoint:
    """A stored state: where to resume from, and which items are stored up to there.

    A file needs only *state*; the other fields are None, 0 or empty if the file does not have them.

    :param state: a JSON object
    :param id: its number under the prefix; ids continue across runs
    :param parent: the id of its parent
    :param parent_digest: the digest of its parent
    :param run: the run that stored it; *job*: the platform's name for that run
    :param time: when it was made, ISO 8601, UTC, ending in Z
    :param items: how many items the lineage has, without skipped ones
    :param errors: how many items of the lineage failed and were skipped (STATE_ON_ITEM_ERROR = "skip")
    :param files: the item files of the side it closes
    :param reason: "opened" at the start of a run, the finish reason at its end, otherwise None
    :param overlap: whether the run, on purpose, did not start where its parent ended, so that items may appear twice
    :param ahead: the units beyond *state* whose items are in the lineage (units/watermark.py): 16 characters each
    :param missing: the first units before the newest of these that are not done: ``{"state": …, "reason": … or None}``
    :param missing_units: how many such units there are
    :param skipped_units: the states of the failed units skipped since the parent (STATE_ON_UNIT_ERROR = "skip")
    :param arguments: the spider's arguments in that run, as resume/arguments.py keeps them; None if they are not known
    :param crawl: the number of the crawl, counted along the lineage; None: a version before crawls were counted
    :param ended: whether the crawl is over, so that the next run begins a new one
    :param requests: what the next run continues with, besides *state*; None: it begins with ``start()`` from *state*
    :param memories: what else the next run must know: a JSON object for each memory's name. If it has ``stored``, that lists
        files in the folder of this name, next to the state files
    :param totals: pages, seconds and bytes along the lineage; None: a version before they were counted
    :param digest: SHA-256 of the rest; :meth:`to_bytes` computes it
    :param extra: keys that this version does not know; they are kept
    """

    state: dict[str, Any]
    id: int | None = None
    parent: int | None = None
    parent_digest: str | None = None
    spider: str | None = None
    run: str | None = None
    job: str | None = None
    time: str | None = None
    items: int = 0
    errors: int = 0
    files: tuple[ItemFile, ...] = ()
    reason: str | None = None
    overlap: bool = False
    ahead: tuple[str, ...] = ()
    missing: tuple[dict[str, Any], ...] = ()
    missing_units: int = 0
    skipped_units: tuple[dict[str, Any], ...] = ()
    arguments: Mapping[str, str] | None = None
    crawl: int | None = None
    ended: bool = False
    requests: Requests | None = None
    memories: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    totals: Totals | None = None
    digest: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether the crawl is over: it is after "finished", also in checkpoints from before crawls were counted."""
        return self.ended or (self.crawl is None and self.reason == "finished")

    @property
    def version(self) -> int:
        """The version of the file format that it needs: an older package refuses what it would lose."""
        return 2 if self.requests is not None or self.memories else 1

    @property
    def stored(self) -> dict[str, tuple[StoredFile, ...]]:
        """The files that it names beside item files, by the name of their folder."""
        files = {name: _stored(memory) for name, memory in self.memories.items()}
        return files if self.requests is None else {"requests": self.requests.segments, **files}

    def to_json(self) -> dict[str, Any]:
        """Return the object to store, with its ``digest``."""
        data: dict[str, Any] = {name: getattr(self, name) for name in _ORDER}
        data["files"] = [file.to_json() for file in self.files]
        data.update({name: list(value) for name in _UNIT_LISTS if (value := getattr(self, name))})
        if self.missing_units:
            data["missing_units"] = self.missing_units
        if self.arguments is not None:
            data["arguments"] = dict(self.arguments)
        if self.crawl is not None:
            data["crawl"] = self.crawl
        if self.ended:
            data["ended"] = True
        if self.requests is not None:
            data["requests"] = self.requests.to_json()
        if self.memories:
            data["memories"] = {name: dict(memory) for name, memory in self.memories.items()}
        if self.totals is not None:
            data["totals"] = self.totals.to_json()
        data.update(self.extra)
        data["digest"] = digest_of(data)
        return data

    def to_bytes(self, format: str = "json") -> bytes:
        """Return the whole file. *format*: a key of :data:`FORMATS`."""
        text = json.dumps(self.to_json(), ensure_ascii=False, allow_nan=False)
        return (f"[{text}]\n" if FORMATS[format] else f"{text}\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """Read a state file: one of ours, or StateItems that Scrapy's own exporter wrote (the last one counts).

        :raises CheckpointError: if it is torn, empty, altered, or not a state file
        :raises CheckpointTooNew: if its version is higher than ours
        """
        fields = _last_object(data)
        if not isinstance(fields.get("state"), dict):
            raise CheckpointError("it has no state")
        version = fields.get("version", 1)
        if type(version) is int and version > VERSION:
            raise CheckpointTooNew(
                f"the checkpoint has version {version}, and this scrapy_state reads versions up to {VERSION}",
                remedy="install a newer scrapy_state",
            )
        if fields.get("digest") is not None and fields["digest"] != digest_of(fields):
            raise CheckpointError("its digest does not match: the file was altered or damaged")
        for name, kinds in _KINDS.items():
            if name in fields and type(fields[name]) not in kinds:
                raise CheckpointError(f"its {name} has the type {type(fields[name]).__name__}")
        known = {
            name: fields[name] for name in (*_ORDER, "missing_units", "arguments", "crawl", "ended", "digest") if name in fields
        }
        known.pop("version", None)
        known |= {name: _of_kind(fields[name], name, kind) for name, kind in _UNIT_LISTS.items() if name in fields}
        for name, read in _PARTS.items():
            try:
                if name in fields:
                    known[name] = read(fields[name])
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise CheckpointError(f"its {'list of files' if name == 'files' else name} can't be read") from error
        return cls(**known, extra={name: fields[name] for name in fields.keys() - {"version", *known}})


# The order in which a person reads the file: what it is, where it comes from, the state, which items are stored up to there.
_ORDER = (
    *("version", "id", "parent", "parent_digest", "spider", "run", "job", "time"),
    *("state", "items", "errors", "files", "reason", "overlap"),
)
#: These are stored only if they are not empty.
_UNIT_LISTS = {"ahead": str, "missing": dict, "skipped_units": dict}
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("version", "items", "errors", "missing_units"), (int,)),
    **dict.fromkeys(_UNIT_LISTS, (list,)),
    **dict.fromkeys(("id", "parent"), (int, type(None))),
    **dict.fromkeys(("parent_digest", "spider", "run", "job", "time", "reason", "digest"), (str, type(None))),
    **dict.fromkeys(("overlap", "ended"), (bool,)),
    "arguments": (dict,),
    "crawl": (int,),
    "requests": (dict,),
    "memories": (dict,),
    "totals": (dict,),
}


def _memories(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    for name, memory in data.items():
        if not (isinstance(memory, dict) and _MEMORY_NAME.fullmatch(name)) or name == "requests":
            raise ValueError("memories")
        _stored(memory)
    return dict(data)


def _stored(memory: Mapping[str, Any]) -> tuple[StoredFile, ...]:
    return tuple(map(StoredFile.from_json, memory.get("stored", ())))


def _files(data: Sequence[Any]) -> tuple[ItemFile, ...]:
    return tuple(map(ItemFile.from_json, data))


#: How to read what is neither text nor a number
_PARTS: dict[str, Callable[[Any], Any]] = {
    "files": _files, "requests": Requests.from_json, "memories": _memories, "totals": Totals.from_json,
}  # fmt: skip


def _of_kind(values: list[Any], name: str, kind: type) -> tuple[Any, ...]:
    if not all(isinstance(value, kind) for value in values):
        raise CheckpointError(f"its {name} can't be read")
    return tuple(values)


def digest_of(data: Mapping[str, Any]) -> str:
    """Return ``sha256:…`` of the canonical JSON (sorted keys, no white space, UTF-8) of *data* without ``digest``."""
    rest = {name: value for name, value in data.items() if name != "digest"}
    text = json.dumps(rest, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _last_object(data: bytes) -> dict[str, Any]:
    if not data.strip():
        raise CheckpointError("it is empty")
    try:
        try:
            parsed = _loads(data)
        except json.JSONDecodeError:
            # jsonlines with several objects: every line must be whole, or the file is torn
            parsed = [_loads(line) for line in data.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise CheckpointError("it is not whole JSON") from error
    last = parsed[-1] if isinstance(parsed, list) and parsed else parsed
    if not isinstance(last, dict):
        raise CheckpointError("it is not a list of JSON objects")
    return last


def _loads(data: bytes) -> Any:
    return json.loads(data, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is not a number that JSON allows in a state")
    return float(text)
