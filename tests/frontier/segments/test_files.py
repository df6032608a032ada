"""Segments in a store: where they are, and that what is read is what was stored."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.settings import Settings
from segment_books import Books, segment, written

from scrapy_state.exceptions import CheckpointError, CheckpointTooNew, KeyTaken, StateSettingsError, StoreUnreachable
from scrapy_state.feedstorages import temporary_files
from scrapy_state.frontier.segments.files import SegmentFiles, StoredSegments, open_requests
from scrapy_state.items import StateItem
from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.key_template import KeyTemplate
from scrapy_state.model.requests import Requests
from scrapy_state.model.stored_file import StoredFile
from scrapy_state.stores import StoreWriter, open_reader, open_writer
from scrapy_state.stores.base import keys_within

RUN = "20261121T120000-abcdef"
FORMAT = Path(__file__).parents[3] / "docs" / "format.md"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """The URI of an empty folder on each kind of store, and the settings to reach it."""
    if request.param == "local":
        return f"{tmp_path}/state/", {}
    return f"s3://{request.getfixturevalue('bucket')}/state/", request.getfixturevalue("s3_settings")


@pytest.fixture
def files(place: tuple[str, dict[str, Any]]) -> SegmentFiles:
    store, folder = open_writer(f"{place[0]}requests/", place[1])
    return SegmentFiles(store, folder, RUN)


def store(files: SegmentFiles, number: int, *pages: int) -> StoredFile:
    """Store a segment with these pages."""
    content = segment(lambda opened: [opened.add(page, 0, False, f'"{page}"') for page in pages], pages[:1])
    return keep(files, number, content.read())


def keep(files: SegmentFiles, number: int, data: bytes) -> StoredFile:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    return files.store_segment(files.name(number), io.BytesIO(data), len(data), digest)


def crawler(settings: dict[str, Any], **arguments: str) -> Crawler:
    class Numbers(Spider):
        name = "numbers"

    made = Crawler(Numbers, Settings(settings))
    made.spider = Numbers.from_crawler(made, **arguments)
    return made


def feed(uri: str) -> dict[str, Any]:
    return {"FEEDS": {uri: {"format": "json", "item_classes": [StateItem]}}}


class TestWhere:
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            (feed("s3://b/%(name)s/%(place)s/%(batch_id)010d.json"), "numbers/oslo/requests/"),
            (feed("s3://b/state/flights-%(batch_id)010d.json"), "state/flights-requests/"),
            (
                {**feed("s3://b/state/%(batch_id)010d.json"), "STATE_REQUESTS_URI": "s3://b/private/%(name)s"},
                "private/numbers/",
            ),
            ({"STATE_REQUESTS_URI": "s3://b/private/"}, "private/"),
        ],
    )
    def test_folder(self, settings: dict[str, Any], expected: str) -> None:
        """Segments are next to the state files, or where STATE_REQUESTS_URI says, for readers and writers."""
        for opener in (open_reader, open_writer):
            found, folder = open_requests(crawler(settings, place="oslo"), opener)
            assert (folder, found.uri(folder + "x")) == (expected, f"s3://b/{expected}x")

    def test_of_other_state_files(self) -> None:
        """Segments are next to the state files that STATE_FROM names, unless STATE_REQUESTS_URI says otherwise."""
        states = open_reader("s3://other/old/", {})[0], KeyTemplate("old/x-")
        settings = feed("s3://b/state/%(batch_id)010d.json")
        found, folder = open_requests(crawler(settings), open_reader, states)
        assert found.uri(folder) == "s3://other/old/x-requests/"
        found, folder = open_requests(crawler(settings | {"STATE_REQUESTS_URI": "s3://b/c"}), open_reader, states)
        assert found.uri(folder) == "s3://b/c/"

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({}, "STATE_REQUESTS_URI"),
            ({"STATE_REQUESTS_URI": "s3://user:secret@b/%(run_id)s/"}, r"'s3://b/%\(run_id\)s/'.*leave out"),
            ({"STATE_REQUESTS_URI": "s3://b/%(color)s/"}, "color"),
            ({"STATE_REQUESTS_URI": ["s3://b/"]}, "STATE_REQUESTS_URI is "),
        ],
    )
    def test_nowhere(self, settings: dict[str, Any], says: str) -> None:
        """Where the folder can't be known, one error names the setting, and no secret."""
        with pytest.raises(StateSettingsError, match=says) as caught:
            open_requests(crawler(settings), open_writer)
        assert "secret" not in str(caught.value)


def test_what_is_stored_is_read(files: SegmentFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments come back as they were stored, in parts if they are large."""
    monkeypatch.setattr("scrapy_state.stores.stored_files._PART_BYTES", 50)
    stored = [store(files, 1, 1, 2, *range(10, 40)), store(files, 2, 3)]
    assert [each.name for each in stored] == [f"{RUN}-00001.tsv.gz", f"{RUN}-00002.tsv.gz"]
    books = Books()
    files.read(stored, books)
    assert [*books.pending] == [1, 2, *range(10, 40), 3]
    assert books.flying == [3]
    assert [files.problem(each, deep) for each in stored for deep in (False, True)] == [None] * 4


def test_a_reader_needs_no_writer(place: tuple[str, dict[str, Any]], files: SegmentFiles) -> None:
    """A read-only run reads segments with a store that can't write."""
    stored = store(files, 1, 1)
    reader, folder = open_reader(f"{place[0]}requests/", place[1])
    books = Books()
    StoredSegments(reader, folder).read([stored], books)
    assert [*books.pending] == [1]


def test_storing_again(files: SegmentFiles) -> None:
    """If a reply was lost, the same segment is stored again without harm; another one never replaces it."""
    assert store(files, 1, 1) == store(files, 1, 1)
    with pytest.raises(KeyTaken):
        store(files, 1, 2)
    stored = [store(files, 2, 2), store(files, 3, 3)]
    assert files.merge(stored, False, 4) == files.merge(stored, False, 4)


def test_a_merge_is_stored(files: SegmentFiles) -> None:
    """The merged segment says what its parts say; they stay where they are."""
    parts = [store(files, 1, 1, 2), store(files, 2, 3)]
    one = files.merge(parts, True, 3)
    assert one.name == f"{RUN}-00003.tsv.gz"
    apart, together = Books(), Books()
    files.read(parts, apart)
    files.read([one], together)
    assert vars(apart) == vars(together)


def damaged(files: SegmentFiles) -> Iterator[tuple[StoredFile, str, bool]]:
    """Segments that can't be read, why, and whether it takes a deep look to see that."""
    whole = store(files, 1, 1)
    yield replace(whole, name="missing.tsv.gz"), "missing", False
    yield replace(whole, bytes=whole.bytes + 1), "damaged: it has", False
    yield replace(whole, bytes=whole.bytes - 1), "damaged: it has more", False
    yield replace(whole, digest="sha256:00"), "digest", True
    yield keep(files, 2, b"no segment"), "damaged", True


def test_what_is_missing_or_damaged(files: SegmentFiles) -> None:
    """Each error names the file, and how to start without requests; a merge with such a segment stores nothing."""
    for broken, why, deep in damaged(files):
        good = store(files, 7, 7)
        with pytest.raises(CheckpointError, match=rf"{broken.name}: .*{why}.*; .*-s STATE_REQUESTS=False"):
            files.read([good, broken, good], Books())
        with pytest.raises(CheckpointError, match=why.partition(":")[0]):
            files.merge([good, broken], False, 9)
        assert files.problem(broken, deep=True) is not None
        assert (files.problem(broken, deep=False) is None) == deep
    assert files.problem(StoredFile(files.name(9), 1, ""), deep=False).startswith("the segment is missing")


def test_a_newer_version_says_which_file(files: SegmentFiles) -> None:
    """A segment that a newer package stored is refused, by name."""
    newer = keep(files, 1, written(first='segment\t{"version":2}').read())
    with pytest.raises(CheckpointTooNew, match=rf"{newer.name}: .*newer scrapy_state"):
        files.read([newer], Books())


class Shaky:
    """A store that does not answer now and then."""

    def __init__(self, store: StoreWriter) -> None:
        self._store = store
        self.calls = 0
        self.uri = store.uri

    def read_part(self, *args: Any) -> bytes | None:
        self.calls += 1
        if self.calls % 2:
            raise StoreUnreachable("no answer")
        return self._store.read_part(*args)


def test_a_store_away_for_a_moment(files: SegmentFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that gets no answer is tried again; it never counts as missing."""
    monkeypatch.setattr("scrapy_state.stores.retry._FIRST_PAUSE_SECONDS", 0.001)
    stored = store(files, 1, 1, 2, 3)
    shaky = Shaky(files._writer)
    books = Books()
    StoredSegments(shaky, files._folder).read([stored], books)  # type: ignore[arg-type]
    assert [*books.pending] == [1, 2, 3]
    shaky.calls = 0
    monkeypatch.setattr("scrapy_state.stores.retry._RETRY_SECONDS", 0)
    with pytest.raises(StoreUnreachable):
        StoredSegments(shaky, files._folder).open(stored)  # type: ignore[arg-type]


def test_one_read(files: SegmentFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment smaller than a part is read with one request: a start reads ten, and a merge eight."""
    stored = store(files, 1, 1, 2, 3)
    reads: list[tuple[Any, ...]] = []
    read_part = files._files.store.read_part

    def counted(*args: Any) -> bytes | None:
        reads.append(args)
        return read_part(*args)

    monkeypatch.setattr(files._files.store, "read_part", counted)
    files.open(stored).close()
    assert len(reads) == 1, reads


def test_probe_leaves_nothing(place: tuple[str, dict[str, Any]], files: SegmentFiles) -> None:
    """Trying whether segments can be stored stores nothing."""
    files.probe()
    found, prefix = open_reader(place[0], place[1])
    assert [*found.keys(prefix)] == []


def test_segments_are_no_state_files(place: tuple[str, dict[str, Any]], files: SegmentFiles) -> None:
    """Under a bare prefix, and under the beginning of one, segments are passed over at any depth."""
    store(files, 1, 1)
    uri, settings = place
    found, prefix = open_reader(uri, settings)
    found_above, above = open_reader(uri.removesuffix("/state/") + "/", settings)
    for store_, template in ((found, KeyTemplate(prefix)), (found_above, KeyTemplate(above))):
        keys = [*keys_within(store_, template.prefix, None)]
        assert len(keys) == 1
        assert not template.in_order(keys)
        assert not template.fits(keys[0])
    assert KeyTemplate("state/").fits("state/requests-0001.json")


@pytest.mark.parametrize("name", ["../items/a.tsv.gz", "a/b.tsv.gz", "..\\a.tsv.gz", "0000000001.json", ".tsv.gz"])
def test_a_name_leads_nowhere_else(name: str) -> None:
    """A checkpoint whose segments are outside the folder, or are no segments, can't be read: prune deletes what it names."""
    start = {"state": {}, "ended": True}
    data = Checkpoint({}, requests=Requests((StoredFile(name, 1, ""),), start)).to_bytes()
    with pytest.raises(CheckpointError, match="requests can't be read"):
        Checkpoint.from_bytes(data)


def test_the_reader_in_the_docs(tmp_path: Path) -> None:
    """The script in docs/format.md prints the pending requests of a checkpoint, in order."""
    [script] = [block for block in re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL) if "gzip" in block]
    where, folder = open_writer(f"{tmp_path}/requests/", {})
    files = SegmentFiles(where, folder, RUN)
    first = segment(lambda opened: [opened.add(page, 0, False, f'{{"url":"ü\u2028{page}"}}') for page in range(1, 1203)])
    second = segment(lambda opened: [opened.add(0, 0, True, '{"url":"0"}'), *map(opened.settle, range(2, 1202))], [1202])
    segments = tuple(keep(files, number, file.read()) for number, file in enumerate((first, second), 1))
    path = tmp_path / "0000000001.json"
    path.write_bytes(Checkpoint({}, requests=Requests(segments, {"state": {}, "ended": True})).to_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    ran = subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=True, env=environment)
    assert ran.stdout.decode().split("\n") == ['{"url":"0"}', '{"url":"ü\u20281"}', '{"url":"ü\u20281202"}', ""]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux tells where a file without a name is")
def test_temporary_files_are_in_feed_tempdir(tmp_path: Path) -> None:
    """Segments that are being written or read take no memory of a machine whose /tmp is in memory, if FEED_TEMPDIR is set."""
    with temporary_files(Settings({"FEED_TEMPDIR": str(tmp_path)}))() as file:
        assert os.readlink(f"/proc/self/fd/{file.fileno()}").startswith(str(tmp_path))
    assert not list(tmp_path.iterdir())
