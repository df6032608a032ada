"""Says what is wrong with stored files. Reads them without the package's code.

Stored files are a dict from locations (a path, or ``s3://bucket/key``) to bytes.
"""

import csv
import gzip
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


def local_files(folder: Path) -> Files:
    """Return every file under *folder*, whatever its name."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class S3Files:
    """Call it for every object of a bucket. It reads an object again only if its ETag, an MD5 of the content, has changed."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._read: dict[tuple[str, str], bytes] = {}

    def __call__(self) -> Files:
        found = {}
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket):
            for each in page.get("Contents", ()):
                key = each["Key"]
                version = key, each["ETag"]
                if version not in self._read:
                    self._read[version] = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
                found[f"s3://{self._bucket}/{key}"] = self._read[version]
        return found


class Unchanged:
    """Remembers what was stored; says what has been changed or removed since."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def wrong(self, files: Files) -> list[str]:
        now = {location: hashlib.sha256(content).hexdigest() for location, content in files.items()}
        wrong = [f"{each} was removed" for each in self._seen if each not in now]
        wrong += [f"{each} was overwritten" for each, was in self._seen.items() if now.get(each, was) != was]
        self._seen.update(now)
        return wrong


def jsonlines_keys(content: bytes) -> list[str]:
    return [json.loads(line)["key"] for line in content.decode().splitlines()]


def csv_gz_keys(content: bytes) -> list[str]:
    return [row["key"] for row in csv.DictReader(io.StringIO(gzip.decompress(content).decode(), newline=""))]


def digest_of(checkpoint: dict[str, Any]) -> str:
    rest = {name: value for name, value in checkpoint.items() if name != "digest"}
    text = json.dumps(rest, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Feed:
    """*begin*: the prefix of its files' locations; *keys*: reads the keys of a file's items, in order."""

    begin: str
    keys: Callable[[bytes], list[str]]


@dataclass
class Report:
    """What the oracle found.

    :param checkpoints: the lineage of the newest one, oldest first
    :param named: the keys of the items that each of them adds, for each feed
    """

    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    named: list[dict[str, list[str]]] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    lost: int = 0
    twice: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def state(self) -> dict[str, Any]:
        return self.checkpoints[-1]["state"] if self.checkpoints else {}


def check(
    files: Files,
    states: str,
    feeds: dict[str, Feed],
    expected: Callable[[dict[str, Any]], dict[str, Iterable[str]]],
    of_checkpoint: bool = False,
) -> Report:
    """Check every file, and the items that every checkpoint of the lineage names.

    The lineage must contain every stored checkpoint: only crawls that go back on purpose have branches.

    :param states: the prefix of the state files' locations
    :param expected: returns the keys of the items before a state, for each feed
    :param of_checkpoint: whether to call *expected* with the whole checkpoint instead, in the order of the lineage
    """
    report = Report()
    wrong = report.wrong
    items = {location: name for location in files for name, feed in feeds.items() if location.startswith(feed.begin)}
    rest = {location: content for location, content in files.items() if location not in items}
    stored = _checkpoints(rest, states, wrong)
    report.checkpoints = _lineage(stored, wrong)
    named: dict[str, Counter[str]] = {name: Counter() for name in feeds}
    seen: set[str] = set()
    for each in report.checkpoints:
        where = f"checkpoint {each['id']}"
        report.named.append({name: [] for name in feeds})
        for file in each["files"]:
            location = _location(file["uri"])
            if location not in items:
                wrong.append(f"{where} names {location}, which is not there")
                continue
            if location in seen:
                wrong.append(f"{where} names {location} again")
            seen.add(location)
            name = items[location]
            keys = _named(file, files[location], feeds[name], where, wrong)
            report.named[-1][name] += keys
            named[name].update(keys)
        for name, keys in expected(each if of_checkpoint else each["state"]).items():
            before = Counter(keys)
            lost, twice = before - named[name], named[name] - before
            if "requests" in each:  # its state says nothing about its items: requests_oracle.py checks those
                lost, twice = Counter(), named[name] - Counter(set(named[name]))
            if lost or twice:
                wrong.append(f"{where}, state {each['state']}, feed {name}: lost {sorted(lost)}, too many {sorted(twice)}")
            report.lost, report.twice = max(report.lost, lost.total()), max(report.twice, twice.total())
        if each["items"] != sum(counter.total() for counter in named.values()):
            wrong.append(f"{where} counts {each['items']} items, its lineage has {sum(map(Counter.total, named.values()))}")
    report.orphans = [location for location in items if location not in seen]
    for location in report.orphans:
        _keys(feeds[items[location]], files[location], location, wrong)
    return report


def _checkpoints(files: Files, states: str, wrong: list[str]) -> dict[int, dict[str, Any]]:
    found = {}
    for location, content in files.items():
        if location.startswith((f"{states}requests/", f"{states}delta/")):
            continue  # tests/support/requests_oracle.py reads these
        if not (match := re.fullmatch(r"(\d{10})\.json", location.removeprefix(states))):
            wrong.append(f"{location} is no state file")
            continue
        try:
            [checkpoint] = json.loads(content)
            if checkpoint["id"] != int(match[1]) or checkpoint["digest"] != digest_of(checkpoint):
                wrong.append(f"{location} has an id or a digest that does not fit")
            found[int(match[1])] = checkpoint
        except (ValueError, TypeError, KeyError) as error:
            wrong.append(f"{location} is not whole: {error!r}")
    return found


def _lineage(stored: dict[int, dict[str, Any]], wrong: list[str]) -> list[dict[str, Any]]:
    lineage: list[dict[str, Any]] = []
    id = max(stored, default=None)
    while id is not None:
        checkpoint = stored.get(id)
        if checkpoint is None:
            wrong.append(f"checkpoint {id}, the parent of {lineage[-1]['id']}, is not there")
            break
        if lineage and lineage[-1]["parent_digest"] != digest_of(checkpoint):
            wrong.append(f"checkpoint {id} is not the parent that {lineage[-1]['id']} names")
        if lineage and not id < lineage[-1]["id"]:
            wrong.append(f"checkpoint {lineage[-1]['id']} names the parent {id}")
            break
        lineage.append(checkpoint)
        id = checkpoint["parent"]
    beside = sorted(stored.keys() - {each["id"] for each in lineage})
    if beside:
        wrong.append(f"checkpoints {beside} are not in the lineage")
    return lineage[::-1]


def _named(file: dict[str, Any], content: bytes, feed: Feed, where: str, wrong: list[str]) -> list[str]:
    keys = _keys(feed, content, file["uri"], wrong)
    if (file["items"], file["bytes"]) != (len(keys), len(content)):
        says = f"{file['items']} items, {file['bytes']} bytes"
        wrong.append(f"{where} says {says}; {file['uri']} has {len(keys)}, {len(content)}")
    skipped = {position for begin, end in file.get("skip", ()) for position in range(begin, end)}
    return [key for position, key in enumerate(keys) if position not in skipped]


def _keys(feed: Feed, content: bytes, location: str, wrong: list[str]) -> list[str]:
    try:
        return feed.keys(content)
    except (ValueError, KeyError, OSError, EOFError) as error:
        wrong.append(f"{location} is not whole: {error!r}")
        return []


def _location(uri: str) -> str:
    return unquote(urlsplit(uri).path) if uri.startswith("file:") else uri
