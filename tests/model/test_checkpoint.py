"""A checkpoint's bytes: what is written is read back, and nothing else is taken for a checkpoint."""

import hashlib
import io
import json
import math
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy.exporters import JsonItemExporter, JsonLinesItemExporter

from scrapy_state import Checkpoint, StateItem
from scrapy_state.exceptions import CheckpointError, CheckpointTooNew, StateError
from scrapy_state.model.checkpoint import FORMATS, VERSION, digest_of
from scrapy_state.model.item_file import ItemFile
from scrapy_state.model.requests import Requests
from scrapy_state.model.stored_file import StoredFile

text = st.text(max_size=6)
counts = st.integers(0, 2**53)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
states = st.dictionaries(text, json_values, max_size=4)
item_files = st.builds(ItemFile, text, counts, st.none() | counts, st.lists(st.tuples(counts, counts), max_size=2).map(tuple))
checkpoints = st.builds(
    Checkpoint,
    states,
    id=st.none() | counts,
    parent=st.none() | counts,
    parent_digest=st.none() | text,
    spider=st.none() | text,
    run=st.none() | text,
    job=st.none() | text,
    time=st.none() | text,
    items=counts,
    errors=counts,
    files=st.lists(item_files, max_size=3).map(tuple),
    reason=st.none() | text,
    overlap=st.booleans(),
    arguments=st.none() | st.dictionaries(text, text, max_size=2),
    extra=st.dictionaries(st.sampled_from(["later", "x-é", ""]), json_values, max_size=3),
)
formats = st.sampled_from(sorted(FORMATS))

EXAMPLE = Checkpoint(
    {"t": "2013-01-01T06:42", "größe": [1, 2.5, None, True], "🐙": {"": "\u2028"}},
    id=124,
    parent=123,
    parent_digest="sha256:" + "0" * 64,
    spider="flights",
    run="20261120-4f",
    job="1/2/3",
    time="2026-11-20T23:47:47.589Z",
    items=301,
    errors=2,
    files=(ItemFile("s3://bucket/00017.jsonl", 57, 10234, ((55, 57),)), ItemFile("file:///a%20b", 0)),
    reason="shutdown",
    overlap=True,
)


def sealed(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, digest=checkpoint.to_json()["digest"])


@given(checkpoints, formats)
def test_round_trip(checkpoint: Checkpoint, format: str) -> None:
    """A checkpoint is read back as it was written, completely, and written again as the same JSON."""
    data = checkpoint.to_bytes(format)
    found = Checkpoint.from_bytes(data)
    assert found == sealed(checkpoint)
    assert json.loads(found.to_bytes(format)) == json.loads(data)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_shape(format: str) -> None:
    """json is a list of one object, jsonlines one line; in UTF-8, with the design's keys in its order."""
    data = EXAMPLE.to_bytes(format)
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    assert "größe" in data.decode()
    found = json.loads(data)
    if format == "json":
        assert len(found) == 1
        (found,) = found
    assert list(found) == [
        *("version", "id", "parent", "parent_digest", "spider", "run", "job", "time"),
        *("state", "items", "errors", "files", "reason", "overlap", "digest"),
    ]
    assert found["version"] == 1
    assert found["files"] == [
        {"uri": "s3://bucket/00017.jsonl", "items": 57, "bytes": 10234, "skip": [[55, 57]]},
        {"uri": "file:///a%20b", "items": 0, "bytes": None},
    ]


def test_digest() -> None:
    """The digest is SHA-256 over the canonical JSON without it, so that any other program can check it."""
    canonical = (
        '{"errors":0,"files":[],"id":1,"items":0,"job":null,"overlap":false,"parent":null,"parent_digest":null,'
        '"reason":null,"run":null,"spider":null,"state":{"a":"é","b":1},"time":null,"version":1}'
    )
    expected = "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
    assert Checkpoint({"b": 1, "a": "é"}, id=1).to_json()["digest"] == expected


@given(checkpoints, st.data())
def test_altered_value(checkpoint: Checkpoint, data: st.DataObject) -> None:
    """If any value in a file with a digest is changed, added or removed, the file is invalid."""
    stored = checkpoint.to_json()
    name = data.draw(st.sampled_from(sorted(stored.keys() - {"version", "digest"})) | st.just("new"))
    changed = {**stored, name: data.draw(json_values)}
    if data.draw(st.booleans()) and name in stored:
        del changed[name]
    if digest_of(changed) == digest_of(stored):  # drawn as it was
        assert changed == stored
        return
    with pytest.raises(CheckpointError):
        Checkpoint.from_bytes(json.dumps([changed]).encode())


@pytest.mark.parametrize("format", ["json", "jsonlines"])
def test_flipped_bit(format: str) -> None:
    """If any bit of the file is flipped, the file is invalid, or says the same."""
    data = EXAMPLE.to_bytes(format)
    whole = Checkpoint.from_bytes(data)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                found = Checkpoint.from_bytes(bytes(flipped))
            except StateError:  # a flipped version is one too new
                continue
            assert replace(found, digest=whole.digest, extra={}) == whole


@pytest.mark.parametrize("format", ["json", "jsonlines"])
def test_torn(format: str) -> None:
    """A file cut at any byte is invalid, except if only its last newline is missing."""
    data = EXAMPLE.to_bytes(format)
    for length in range(len(data) - 1):
        with pytest.raises(CheckpointError):
            Checkpoint.from_bytes(data[:length])
    assert Checkpoint.from_bytes(data[:-1]) == sealed(EXAMPLE)


@given(checkpoints, formats, st.data())
def test_torn_anywhere(checkpoint: Checkpoint, format: str, data: st.DataObject) -> None:
    """Any checkpoint that is cut at any byte is invalid."""
    whole = checkpoint.to_bytes(format)
    with pytest.raises(CheckpointError):
        Checkpoint.from_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b" \n\t\r\n", "empty"),
        (b"\x00" * 512, "not whole JSON"),
        (b"\xff\xfe\xfd", "not whole JSON"),
        (b'{"state": {"a": "\xff"}}', "not whole JSON"),
        (b"<html>", "not whole JSON"),
        (b"a,b\n1,2\n", "not whole JSON"),
        (b'{"state": {}}\n{"state": {"a"', "not whole JSON"),
        (b'{"state": {}}\n]', "not whole JSON"),
        (b'[{"state": {}},', "not whole JSON"),
        (b'[{"state": {"t": NaN}}]', "not whole JSON"),
        (b'[{"state": {"t": Infinity}}]', "not whole JSON"),
        (b'[{"state": {"t": -Infinity}}]', "not whole JSON"),
        (b'{"state": {"t": 1e999}}', "JSON"),
        (b'{"state": {"t": ' + b"9" * 5000 + b"}}", "JSON"),
        (b"[]", "not a list of JSON objects"),
        (b"null", "not a list of JSON objects"),
        (b"true", "not a list of JSON objects"),
        (b"7", "not a list of JSON objects"),
        (b'"state"', "not a list of JSON objects"),
        (b"[[1]]", "not a list of JSON objects"),
        (b'[{"state": {}}, 1]', "not a list of JSON objects"),
        (b"{}", "no state"),
        (b'[{"state": null}]', "no state"),
        (b'[{"state": []}]', "no state"),
        (b'[{"state": "{}"}]', "no state"),
        (b'{"flight": "AA1"}\n{"flight": "AA2"}\n', "no state"),
        (b'{"state": {}}\n{"flight": "AA2"}\n', "no state"),
        (b'{"state": {}, "digest": "sha256:0"}', "altered or damaged"),
        (b'{"state": {}, "digest": 0}', "altered or damaged"),
        (b'{"state": {}, "version": "1.8.2"}', "version"),
        (b'{"state": {}, "version": null}', "version"),
        (b'{"state": {}, "files": null}', "files"),
        (b'{"state": {}, "files": 1}', "files"),
        (b'{"state": {}, "files": "abc"}', "files"),
        (b'{"state": {}, "files": [{}]}', "files"),
        (b'{"state": {}, "files": [1]}', "files"),
        (b'{"state": {}, "files": [{"uri": "a", "items": "many"}]}', "files"),
        (b'{"state": {}, "files": [{"uri": "a", "items": null}]}', "files"),
        (b'{"state": {}, "files": [{"uri": "a", "items": 1e999}]}', "JSON"),
        (b'{"state": {}, "files": [{"uri": "a", "items": 1, "skip": 1}]}', "files"),
        (b'{"state": {}, "files": [{"uri": "a", "items": 1, "skip": [[1]]}]}', "files"),
        (b'{"state": {}, "files": [{"uri": "a", "items": 1, "skip": [[1, 2, 3]]}]}', "files"),
    ],
)
def test_foreign(data: bytes, says: str) -> None:
    """A file that is not a checkpoint is a CheckpointError that says why, and never another error."""
    with pytest.raises(CheckpointError, match=says):
        Checkpoint.from_bytes(data)


@pytest.mark.parametrize("name", ["id", "parent", "items", "errors"])
@pytest.mark.parametrize("value", ['"124"', "{}"])
def test_foreign_numbers(name: str, value: str) -> None:
    """A foreign file with other values in place of our numbers is a CheckpointError, because other code counts on from them."""
    with pytest.raises(CheckpointError):
        Checkpoint.from_bytes(f'{{"state": {{}}, "{name}": {value}}}'.encode())


@given(st.binary(max_size=60) | text.map(str.encode) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(data: bytes) -> None:
    """Any bytes at all are a checkpoint or a CheckpointError."""
    with suppress(CheckpointError):
        assert isinstance(Checkpoint.from_bytes(data).state, dict)


@pytest.mark.parametrize("opening", [b"[", b'{"state":', b'{"state": {"a": [', b'[{"digest": "x", "state": '])
def test_bomb(opening: bytes) -> None:
    """JSON nested a hundred thousand levels deep is an error, not a crash."""
    with pytest.raises(CheckpointError):
        Checkpoint.from_bytes(opening * 100_000)


@pytest.mark.parametrize("digest", [b"", b'"digest": "sha256:0", '])
def test_bomb_closed(digest: bytes) -> None:
    """Complete JSON of any depth is read, or is a CheckpointError, even if its digest can't be computed."""
    for depth in [*range(sys.getrecursionlimit() - 200, sys.getrecursionlimit() + 50), 100_000]:
        with suppress(CheckpointError):
            Checkpoint.from_bytes(b"{" + digest + b'"state": {"a": ' + b"[" * depth + b"]" * depth + b"}}")


def test_higher_version() -> None:
    """A file of a higher version is refused, with a remedy, whether its digest fits or not: it is not a foreign file."""
    data = {**EXAMPLE.to_json(), "version": VERSION + 1}
    for digest in (digest_of(data), "blake3:0"):
        with pytest.raises(CheckpointTooNew, match=r"version 3, and .* reads versions up to 2; install a newer scrapy_state"):
            Checkpoint.from_bytes(json.dumps([{**data, "digest": digest}]).encode())


def test_unknown_keys() -> None:
    """Keys that this version doesn't know are kept, count in the digest, and are written again."""
    data = {**EXAMPLE.to_json(), "later": {"a": [1]}, "more": None}
    data["digest"] = digest_of(data)
    found = Checkpoint.from_bytes(json.dumps([data]).encode())
    assert found.extra == {"later": {"a": [1]}, "more": None}
    assert json.loads(found.to_bytes()) == [data]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("format", ["json", "jsonlines"])
def test_nan_is_not_written(value: float, format: str) -> None:
    """A number that JSON can't hold is refused, not written as something unreadable."""
    with pytest.raises(ValueError, match="JSON"):
        Checkpoint({"a": [value]}).to_bytes(format)


@pytest.mark.parametrize("format", ["csv", "xml", "pickle", ""])
def test_other_formats(format: str) -> None:
    """Other formats are an error."""
    with pytest.raises(KeyError):
        EXAMPLE.to_bytes(format)


@pytest.mark.parametrize("exporter", [JsonItemExporter, JsonLinesItemExporter])
@pytest.mark.parametrize("indent", [None, 0, 1, 4])
@pytest.mark.parametrize("encoding", [None, "utf-8"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_scrapys_own(exporter: Any, indent: int | None, encoding: str | None, count: int) -> None:
    """A file that Scrapy's own exporter wrote from StateItems can be read: the last one counts, without an id or a digest."""
    file = io.BytesIO()
    options = {} if exporter is JsonLinesItemExporter else {"indent": indent}
    writer = exporter(file, encoding=encoding, **options)
    writer.start_exporting()
    for number in range(count):
        writer.export_item(StateItem({"t": f"größe {number}", "nested": {"a": [number, None]}}))
    writer.finish_exporting()
    expected = {"t": f"größe {count - 1}", "nested": {"a": [count - 1, None]}}
    assert Checkpoint.from_bytes(file.getvalue()) == Checkpoint(expected)


@pytest.mark.parametrize("indent", [None, 0, 4])
def test_scrapys_own_torn(indent: int | None) -> None:
    """A list that Scrapy's own exporter did not finish is invalid, at whatever byte it ends."""
    file = io.BytesIO()
    writer = JsonItemExporter(file, indent=indent)
    writer.start_exporting()
    for number in range(3):
        writer.export_item(StateItem({"t": number}))
    writer.finish_exporting()
    for length in range(len(file.getvalue())):
        with pytest.raises(CheckpointError):
            Checkpoint.from_bytes(file.getvalue()[:length])


@pytest.mark.parametrize("data", [b'\xef\xbb\xbf[{"state": {}}]', b'{"state": {}}\r\n', b'\n\n{"state": {}}\n\n'])
def test_touched_by_an_editor(data: bytes) -> None:
    """A byte-order mark, other line ends or empty lines do no harm."""
    assert Checkpoint.from_bytes(data) == Checkpoint({})


@pytest.mark.parametrize(("skip", "counted"), [((), 57), (((55, 57),), 55), (((0, 57),), 0), (((0, 1), (50, 57)), 49)])
def test_counted(skip: tuple[tuple[int, int], ...], counted: int) -> None:
    """Skipped items are not counted."""
    assert ItemFile("s3://b/a", 57, skip=skip).counted == counted


def test_requests_survive_a_round_trip_and_need_version_2() -> None:
    """A checkpoint with requests is read back as it was, and only such a checkpoint has version 2."""
    requests = Requests(
        (StoredFile("20261121T015756-924cd5-00001.tsv.gz", 120, "sha256:00"),), {"state": {"page": 1}, "ended": False},
        pending=3, in_flight=2, seen=9, failed=1, held=1, fingerprints=("aa", "bb", "cc"),
    )  # fmt: skip
    checkpoint = Checkpoint({"page": 2}, id=3, crawl=1, requests=requests)
    read = Checkpoint.from_bytes(checkpoint.to_bytes())
    assert (read.requests, read.crawl, read.version) == (requests, 1, 2)
    assert read.extra == {}
    assert Checkpoint({}, crawl=1).to_json()["version"] == 1


@pytest.mark.parametrize("change", [{"segments": [{"name": "x"}]}, {"start": {}}, {"start": {"state": 1, "ended": True}}])
def test_requests_that_cannot_be_read(change: dict[str, Any]) -> None:
    """If the requests of a checkpoint are malformed, it is not a checkpoint, whatever its digest says."""
    data = Checkpoint({}, id=1, requests=Requests(start={"state": {}, "ended": True})).to_json()
    data["requests"].update(change)
    data["digest"] = digest_of(data)
    with pytest.raises(CheckpointError, match="its requests"):
        Checkpoint.from_bytes(json.dumps([data]).encode())


def test_memories_survive_a_round_trip_and_need_version_2() -> None:
    """Memories are read back as they were, and the files that they list are known by folder."""
    file = StoredFile("5f1e.tar", 9, "sha256:00")
    kept = {"stored": [{"name": "5f1e.tar", "bytes": 9, "digest": "sha256:00"}], "more": {"a": [1]}}
    checkpoint = Checkpoint({"page": 2}, id=3, memories={"kept": kept, "objects": {"ids": [1]}})
    read = Checkpoint.from_bytes(checkpoint.to_bytes())
    assert (read.memories, read.version, read.extra) == (checkpoint.memories, 2, {})
    assert read.stored == {"kept": (file,), "objects": ()}


@pytest.mark.parametrize(
    "memories",
    [
        {"kept": []},
        {"../x": {}},
        {"requests": {}},
        {"kept": {"stored": [{"name": "a"}]}},
        {"kept": {"stored": [{"name": "../0000000001.json", "bytes": 1, "digest": "sha256:00"}]}},
        {"kept": {"stored": [{"name": "..", "bytes": 1, "digest": "sha256:00"}]}},
    ],
)
def test_memories_that_cannot_be_read(memories: dict[str, Any]) -> None:
    """If the memories of a checkpoint are malformed, or name files elsewhere, it is not a checkpoint."""
    data = {**Checkpoint({}, id=1).to_json(), "memories": memories}
    data["digest"] = digest_of(data)
    with pytest.raises(CheckpointError, match="its memories"):
        Checkpoint.from_bytes(json.dumps([data]).encode())
