"""Says what is wrong with stored files whose checkpoints have requests. Reads them without the package's code.

What every checkpoint must keep, and what a crawl that is over must have, whatever its spider does.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import oracle
from oracle import Feed, Files

#: The kinds of lines that a segment may have
KINDS = {"segment", "+", "-", "s", "o", "O", "i", "d", "f", "h", "c", "n"}
SEEN_BYTES = 12


@dataclass(frozen=True)
class Expected:
    """What must come of a crawl. A key is ``page#…``.

    :param keys: the keys of the items, each once
    :param optional: the keys of items that may be there once the others of their page are
    :param page_of: returns the page whose items a stored request stands for
    """

    keys: Iterable[str]
    page_of: Callable[[Mapping[str, Any]], str]
    optional: Iterable[str] = ()


@dataclass
class Report:
    """What the oracle found.

    :param checkpoints: the lineage of the newest one, oldest first
    :param lost: the keys of a crawl that is over and does not have them
    :param twice: the keys that a lineage has more than once
    :param pending: how many requests the newest checkpoint has
    """

    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    orphans: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    pending: int = 0

    @property
    def with_requests(self) -> int:
        """How many checkpoints have requests."""
        return sum("requests" in each for each in self.checkpoints)


def check(files: Files, states: str, feeds: Mapping[str, Feed], expected: Expected, *, folder: str = "", over: bool) -> Report:
    """Check every checkpoint along the lineage; each feed must have all items.

    :param states: the prefix of the state files' locations
    :param folder: the prefix of the segments' locations, if they do not lie next to the state files
    :param over: whether the crawl is over, so that every item must be there
    """
    segments = Segments(files, folder or f"{states}requests/")
    kept = {location for location in segments.rest if "/" in location.removeprefix(states) and location.startswith(states)}
    rest = {location: content for location, content in segments.rest.items() if location not in kept}
    found = oracle.check(rest, states, dict(feeds), lambda state: {})
    report = Report(found.checkpoints, len(found.orphans), wrong=found.wrong)
    lineages = {name: Lineage(name, expected) for name in feeds}
    for checkpoint, named in zip(found.checkpoints, found.named, strict=True):
        where = f"checkpoint {checkpoint['id']}"
        pending = segments.pending(checkpoint, where, report.wrong)
        report.pending = len(pending)
        report.wrong += _wrong_memories(checkpoint, files, states, where)
        pages = {expected.page_of(request) for request in pending.values()}
        for name, lineage in lineages.items():
            report.wrong += lineage.add(named[name], pages, where)
    for lineage in lineages.values():
        report.twice += lineage.twice
        if over:
            report.lost += lineage.lost
    report.wrong += [f"{len(keys)} items are {what}: {_some(keys)}" for what, keys in _bad(report) if keys]
    held = found.checkpoints[-1].get("requests", {}).get("held", 0) if found.checkpoints else 0
    if over and report.pending > held:
        report.wrong.append(f"the crawl is over, and {report.pending - held} requests are pending")
    return report


def _wrong_memories(checkpoint: Mapping[str, Any], files: Files, states: str, where: str) -> list[str]:
    """Say which files of memories are not there, or not what the checkpoint says."""
    wrong = []
    for name, memory in checkpoint.get("memories", {}).items():
        for file in memory.get("stored", ()):
            content = files.get(f"{states}{name}/{file['name']}")
            digest = None if content is None else f"sha256:{hashlib.sha256(content).hexdigest()}"
            if digest != file["digest"]:
                wrong.append(f"{where} names {name}/{file['name']}, whose digest is {digest}")
    return wrong


def _bad(report: Report) -> list[tuple[str, list[str]]]:
    return [("lost", report.lost), ("there twice", report.twice)]


def _some(keys: Iterable[str]) -> str:
    first = sorted(keys)
    return ", ".join(first[:8]) + (f" and {len(first) - 8} more" if len(first) > 8 else "")


class Lineage:
    """The items of one feed along a lineage."""

    def __init__(self, name: str, expected: Expected) -> None:
        self._name = name
        self._required: dict[str, set[str]] = defaultdict(set)
        for key in expected.keys:
            self._required[_page(key)].add(key)
        self._optional = set(expected.optional)
        self._found: Counter[str] = Counter()
        self._begun: set[str] = set()

    @property
    def lost(self) -> list[str]:
        return [key for keys in self._required.values() for key in keys if not self._found[key]]

    @property
    def twice(self) -> list[str]:
        return [key for key, count in self._found.items() if count > 1]

    def add(self, keys: Iterable[str], pending: set[str], where: str) -> list[str]:
        """Add the items of the next checkpoint; return what is wrong with them.

        :param pending: the pages that are pending in it
        """
        new = Counter(keys)
        where = f"{where}, feed {self._name}"
        again = [key for key in new if self._found[key] or new[key] > 1]
        self._found.update(new)
        strange = [key for key in new if key not in self._required[_page(key)] and key not in self._optional]
        pages = {_page(key) for key in new}
        self._begun |= pages
        half = [page for page in pages if any(not self._found[key] for key in self._required[page])]
        early = pending & self._begun
        faults = (
            ("has items again", again),
            ("has items that nobody expects", strange),
            ("has only some of the items of", half),
            ("has items of pages that are pending", early),
        )
        return [f"{where} {fault}: {_some(which)}" for fault, which in faults if which]


def _page(key: str) -> str:
    return key.partition("#")[0]


class Segments:
    """The segments among *files*. *rest*: the other files."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = {
            location.removeprefix(folder): content for location, content in files.items() if location.startswith(folder)
        }
        self.rest = {location: content for location, content in files.items() if not location.startswith(folder)}
        self._read: dict[str, list[list[str]]] = {}

    def pending(self, checkpoint: Mapping[str, Any], where: str, wrong: list[str]) -> dict[str, Any]:
        """Return the requests that *checkpoint* has, by their numbers; add what is wrong with its segments to *wrong*."""
        requests = checkpoint.get("requests")
        version = 1 if requests is None and not checkpoint.get("memories") else 2
        if checkpoint.get("version", 1) != version:
            wrong.append(f"{where} has version {checkpoint.get('version')}, and should have {version}")
        pending: dict[str, Any] = {}
        seen: set[str] = set()
        for segment in (requests or {}).get("segments", ()):
            for kind, *fields in self._lines(segment, where, wrong):
                if kind == "+":
                    pending[fields[0]] = json.loads(fields[3])
                elif kind == "-":
                    for page in fields[0].split():
                        pending.pop(page, None)
                elif kind == "s":
                    seen.update(_fingerprints(fields[0]))
        if requests is not None and requests["pending"] != len(pending):
            wrong.append(f"{where} says {requests['pending']} pending; its segments have {len(pending)}")
        if requests is not None and requests["seen"] < len(seen):  # those of stand-ins are stored later
            wrong.append(f"{where} says {requests['seen']} seen; its segments have {len(seen)}")
        return pending

    def _lines(self, segment: Mapping[str, Any], where: str, wrong: list[str]) -> list[list[str]]:
        name = segment["name"]
        content = self._files.get(name)
        if content is None:
            wrong.append(f"{where} names the segment {name}, which is not there")
            return []
        if (segment["bytes"], segment["digest"]) != (len(content), "sha256:" + hashlib.sha256(content).hexdigest()):
            wrong.append(f"{where} names the segment {name} with a size or a digest that does not fit")
        if name not in self._read:
            self._read[name] = _lines(name, content, wrong)
        return self._read[name]


def _lines(name: str, content: bytes, wrong: list[str]) -> list[list[str]]:
    try:
        lines = [
            line.split("\t")
            for line in gzip.decompress(content).decode("utf-8", "surrogatepass").removesuffix("\n").split("\n")
        ]
    except (OSError, EOFError, ValueError) as error:
        wrong.append(f"the segment {name} is not whole: {error!r}")
        return []
    if lines[0][0] != "segment" or json.loads(lines[0][1])["version"] != 1:
        wrong.append(f"the segment {name} begins with {lines[:1]}")
    if strange := {kind for kind, *_ in lines} - KINDS:
        wrong.append(f"the segment {name} has lines of the kinds {sorted(strange)}")
    return lines


def _fingerprints(text: str) -> list[str]:
    packed = base64.b64decode(text)
    return [packed[begin : begin + SEEN_BYTES].hex() for begin in range(0, len(packed), SEEN_BYTES)]
