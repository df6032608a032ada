"""The stores: one contract for all of them, then what is each one's own."""

import base64
import errno
import io
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlite_store
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError
from crawls import SPIDER, STATE_OPTIONS, checkpoints, crawl, named_items
from faulty import Fault, Proxy
from loopback import Handler, Server
from scrapy.settings import BaseSettings
from sqlite_store import SQLiteReader, SQLiteStore, SQLiteWriter
from swift_server import Swift

from scrapy_state.exceptions import (
    ContentDamaged,
    KeyTaken,
    StateSettingsError,
    StoreError,
    StoreReadOnly,
    StoreRefused,
    StoreUnreachable,
)
from scrapy_state.lineage.prune import prunable
from scrapy_state.lineage.resolve import Resolution, resolve
from scrapy_state.lineage.writer import CheckpointWriter
from scrapy_state.model.key_template import KeyTemplate, without_credentials
from scrapy_state.stores import local, naming, open_reader, open_writer, s3
from scrapy_state.stores import s3_client as s3client
from scrapy_state.stores.s3 import S3Reader, S3Writer
from scrapy_state.stores.s3_client import S3Options, get_client
from scrapy_state.stores.s3_parts import PartsUpload
from scrapy_state.testing import Place, StoreContract, every_call_raises

SECRET = "s3cr3t"
MIN_PART_BYTES = 5 * 1024 * 1024
_numbers = count(1)
DAMAGED = "<damaged>"
EMPTY = "<ListBucketResult></ListBucketResult>"
LISTED = "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>"
BEGUN = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"


class EmptyPlace(Place):
    """*everything* lists what is there, also what is no key: temporary files, uploads that are open."""

    everything: Callable[[], list[str]]


@pytest.fixture
def local_place(tmp_path: Path) -> EmptyPlace:
    place = EmptyPlace(f"{tmp_path}/", {})
    place.everything = lambda: sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir())
    return place


@pytest.fixture
def s3_place(bucket: str, s3_settings: dict[str, str], s3_client: Any) -> EmptyPlace:
    place = EmptyPlace(f"s3://{bucket}/a/place/", s3_settings)
    place.everything = lambda: _in_bucket(s3_client, bucket, place.key)
    return place


@pytest.fixture
def ceph(s3_endpoint: str) -> Iterator[Proxy]:
    with Proxy(s3_endpoint, ceph=True) as proxy:
        yield proxy


@pytest.fixture
def ceph_place(bucket: str, s3_settings: dict[str, str], s3_client: Any, ceph: Proxy) -> EmptyPlace:
    place = EmptyPlace(f"s3://{bucket}/a/place/", {**s3_settings, "AWS_ENDPOINT_URL": ceph.url})
    place.everything = lambda: _in_bucket(s3_client, bucket, place.key)
    return place


@pytest.fixture
def swift_place(swift_server: Swift, monkeypatch: pytest.MonkeyPatch) -> EmptyPlace:
    """The whole of a bucket: there is nothing that all keys begin with."""
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    settings, bucket = swift_server.http.settings, f"contract-{next(_numbers)}"
    client = get_client(S3Options.from_settings(settings, ""), writes=True)
    client.create_bucket(Bucket=bucket)
    place = EmptyPlace(f"s3://{bucket}/", settings)
    place.everything = lambda: _in_bucket(client, bucket, "")
    return place


@pytest.fixture
def sqlite_place(tmp_path: Path) -> EmptyPlace:
    settings = {"STATE_STORES": {"sqlite": "sqlite_store.SQLiteStore"}, "SQLITE_FOLDER": str(tmp_path)}
    place = EmptyPlace("sqlite://states/", settings)
    place.everything = lambda: sorted(place.names())
    return place


def _in_bucket(client: Any, bucket: str, prefix: str) -> list[str]:
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    objects = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return sorted([each["Key"].removeprefix(prefix) for each in objects] + [each["UploadId"] for each in uploads])


# For a class, so that the tests come store by store, and few of pytest-xdist's workers start a Swift.
@pytest.fixture(params=["local", "s3", "ceph", "sqlite", "swift"], scope="class")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestEveryStore(StoreContract):
    large_bytes = MIN_PART_BYTES + 1

    @pytest.fixture(autouse=True)
    def small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(s3, "PART_BYTES", MIN_PART_BYTES)

    @pytest.fixture
    def place(self, kind: str, request: pytest.FixtureRequest) -> Place:
        found: Place = request.getfixturevalue(f"{kind}_place")
        return found

    def test_nothing_beside(self, place: EmptyPlace) -> None:
        """Reading and listing store nothing; what is refused or there already leaves nothing."""
        assert place.read("a/b/c.json") is place.reader.read_part(place.key + "a/b/c.json", -10, 10) is None
        assert place.names("a/b/") == set()
        assert place.everything() == []
        for content in (b"ours", b"ours", b"theirs"):
            with suppress(KeyTaken):
                place.create("a.json", content)
        assert place.everything() == ["a.json"]

    def test_atomic(self, place: Place, kind: str) -> None:
        """A store says whether it was proved that one of two writers is told; a server at an address of one's own is not."""
        assert place.writer.atomic is (kind in ("local", "sqlite"))


class TestStateStores:
    @pytest.mark.parametrize(
        "stores",
        [
            {"sqlite": "sqlite_store.SQLiteStore"},
            '{"sqlite": "sqlite_store.SQLiteStore"}',
            BaseSettings({"sqlite": "sqlite_store.SQLiteStore"}),
            {"sqlite": SQLiteStore},
            {"sqlite": SQLiteStore()},
            {"s3": None, "sqlite": SQLiteStore},
            {"sqlite": SimpleNamespace(open_reader=SQLiteStore.open_reader, open_writer=SQLiteStore.open_writer)},
        ],
        ids=["path", "JSON", "BaseSettings", "class", "object", "others", "namespace"],
    )
    def test_forms(self, tmp_path: Path, stores: Any) -> None:
        """A store is named by import path or is there itself, in a dict or in JSON text; the built-in ones stay."""
        settings = {"STATE_STORES": stores, "SQLITE_FOLDER": tmp_path}
        assert isinstance(open_reader("sqlite://a/b", settings)[0], SQLiteReader)
        assert isinstance(open_writer("sqlite://a/b", settings)[0], SQLiteWriter)
        assert open_reader(f"{tmp_path}/a", settings)[1] == f"{tmp_path}/a"

    def test_module(self, tmp_path: Path) -> None:
        """A module with the two functions is a store too; a built-in one can be replaced, and be used under another scheme."""
        settings = {"STATE_STORES": {"s3": "scrapy_state.stores.local", "swift": s3}}
        assert isinstance(open_writer(f"{tmp_path}/a", settings)[0], local.LocalWriter)
        assert isinstance(open_writer("s3://a/b", settings)[0], local.LocalWriter)
        assert isinstance(open_writer("swift://bucket/b", settings)[0], S3Writer)

    @pytest.mark.parametrize("none", [None, "", "{}", {}])
    def test_not_given(self, none: Any) -> None:
        """None, empty text and an empty dict leave the built-in ones."""
        assert isinstance(open_reader("s3://bucket/a", {"STATE_STORES": none})[0], S3Reader)

    def test_none_disables(self) -> None:
        """None takes a scheme out; the error says what is left."""
        for stores in ({"s3": None}, '{"s3": null}'):
            with pytest.raises(StateSettingsError, match=r"no store for 's3://b/c': .* a path, file://; STATE_STORES"):
                open_reader("s3://b/c", {"STATE_STORES": stores})

    @pytest.mark.parametrize(
        ("store", "says"),
        [
            ("sqlite_store.NoStore", "'sqlite_store.NoStore' for 'xy' can't be imported .*correct the path"),
            ("no_such_module.Store", "can't be imported .*no_such_module"),
            ("not a path", "can't be imported"),
            ("", "can't be imported"),
            ("sqlite_store.SQLiteReader", r"is not a store; .* open_reader\(uri, settings\)"),
            ("sqlite_store", "is not a store"),
            (5, "5 for 'xy' is not a store"),
        ],
    )
    def test_no_store(self, store: Any, says: str) -> None:
        """What can't be imported or has not both functions is an error that names it; only if its scheme is used."""
        for opener in (open_reader, open_writer):
            with pytest.raises(StateSettingsError, match=f"^STATE_STORES: .*{says}"):
                opener("xy://a/b", {"STATE_STORES": {"xy": store}})
            opener("s3://a/b", {"STATE_STORES": {"xy": store}})

    @pytest.mark.parametrize("value", ["{", "[1]", "s3", 5, ["s3"], {"s3://": "a.B"}, {"S3": "a.B"}, {5: "a.B"}], ids=str)
    def test_wrong_value(self, value: Any) -> None:
        """What is no dict from schemes is an error with the value and the right form."""
        with pytest.raises(StateSettingsError, match=r"^STATE_STORES is .*; it must be a dict .*URI scheme -> import path"):
            open_reader("s3://a/b", {"STATE_STORES": value})

    def test_crawl(self, tmp_path: Path) -> None:
        """A crawl keeps its states, and its items, in somebody else's store, and resumes from there."""
        settings = {
            "STATE_STORES": {"sqlite": "sqlite_store.SQLiteStore"},
            "FEED_STORAGES": {"sqlite": "scrapy_state.feedstorages.DurableFeedStorage"},
            "SQLITE_FOLDER": str(tmp_path),
            "FEEDS": {
                "sqlite://items/%(run_id)s-%(batch_id)05d.jsonl": {"format": "jsonlines"},
                "sqlite://states/%(name)s/%(batch_id)010d.json": STATE_OPTIONS,
            },
        }
        (tmp_path / "sqlite_store.py").write_text(Path(sqlite_store.__file__).read_text())
        for page in (3, 6):
            outcome = crawl(tmp_path, settings=settings)
            assert outcome.code == 0, outcome.log
            assert not outcome.lines("] WARNING")
            states, items = Place("sqlite://states/numbers/", settings), Place("sqlite://items/", settings)
            [newest] = json.loads(states.read(max(states.names())) or b"")
            assert newest["state"] == {"page": page}
            assert newest["items"] == 2 * page
            assert [each["uri"] for each in newest["files"]] in ([], [f"sqlite://items/{max(items.names())}"])
        assert outcome.lines('STATE {"page": 3} from checkpoint')
        stored = [json.loads(line) for name in sorted(items.names()) for line in (items.read(name) or b"").splitlines()]
        assert stored == [{"page": page, "n": n} for page in range(6) for n in range(2)]

    def test_mistake_in_store(self, tmp_path: Path) -> None:
        """An exception that is none of ours ends the crawl before it begins, with its trace and a non-zero exit code."""
        source = f"{Path(sqlite_store.__file__).read_text()}\n\ndef wrong(*_):\n    raise RuntimeError('a mistake')\n\n\n"
        tmp_path.joinpath("mistaken.py").write_text(f"{source}SQLiteWriter.create = wrong\n")
        settings = {
            "STATE_STORES": {"sqlite": "mistaken.SQLiteStore"},
            "SQLITE_FOLDER": str(tmp_path),
            "FEEDS": {"sqlite://states/%(name)s/%(batch_id)010d.json": STATE_OPTIONS},
        }
        outcome = crawl(tmp_path, settings=settings)
        assert outcome.code == 1
        assert outcome.lines("RuntimeError: a mistake")
        assert not outcome.lines("begins at")


@pytest.mark.parametrize("uri", ["ftp://host/x", "gs://bucket/x", "http://host/x", f"ftp://user:{SECRET}@host/x"])
def test_unknown_scheme(uri: str) -> None:
    """A scheme without a store is an error that has the URI, without its password, and what there is."""
    for opener in (open_reader, open_writer):
        with pytest.raises(StateSettingsError, match="on a path, file://, s3://; STATE_STORES can add another") as caught:
            opener(uri, {})
        assert without_credentials(uri) in str(caught.value)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/key", "s3://bucket/key"),
        ("s3://user:secret@bucket/key", "s3://bucket/key"),
        ("s3://user@bucket/key", "s3://bucket/key"),
        ("s3://user:se%2Fcret@Bucket/k@y:x", "s3://Bucket/k@y:x"),
        ("s3://user:se@cret@bucket/key", "s3://bucket/key"),
        ("ftp://user:secret@host:21/%(name)s/%(batch_id)d", "ftp://host:21/%(name)s/%(batch_id)d"),
        ("/home/me@here/%(batch_id)d", "/home/me@here/%(batch_id)d"),
        ("s3://user:se/cret@bucket/key", "s3://bucket/key"),  # many AWS secrets have a slash
    ],
)
def test_without_credentials(uri: str, expected: str) -> None:
    """User and password are taken out of a URI, and nothing else."""
    assert without_credentials(uri) == expected


class TestProbe:
    @pytest.mark.parametrize("fixture", ["local_place", "s3_place"])
    def test_leaves_nothing(self, request: pytest.FixtureRequest, fixture: str) -> None:
        """A probe leaves nothing behind, no temporary file and no open upload either."""
        place: EmptyPlace = request.getfixturevalue(fixture)
        place.writer.probe(f"{place.key}items/1.json")
        assert place.everything() == []

    def test_makes_no_folder(self, tmp_path: Path) -> None:
        """On a disk a probe makes no folder: the nearest one that is there tells as much."""
        writer, key = open_writer(f"{tmp_path}/items/run/1.json", {})
        writer.probe(key)
        assert list(tmp_path.iterdir()) == []

    def test_below_a_file(self, tmp_path: Path) -> None:
        """What would lie below a file can't be stored, and the probe says so."""
        (tmp_path / "file").touch()
        writer, key = open_writer(f"{tmp_path}/file/items/1.json", {})
        with pytest.raises(StoreRefused, match="Not a directory; check the path in FEEDS"):
            writer.probe(key)


class TestLocal:
    @pytest.mark.parametrize("form", ["{folder}/a b%20/", "file://{folder}/a%20b%2520/"])
    def test_forms(self, tmp_path: Path, form: str) -> None:
        """A path stands for itself; in a file:// URI what is percent-encoded is decoded."""
        assert open_reader(form.format(folder=tmp_path), {})[1] == f"{tmp_path}/a b%20/"

    def test_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative path is below the folder one was in when it was opened."""
        monkeypatch.chdir(tmp_path)
        assert open_reader("state/00", {})[1] == f"{tmp_path}/state/00"
        assert open_reader("./state/", {})[1] == f"{tmp_path}/state/"

    @pytest.mark.parametrize("proc", [True, False])
    @pytest.mark.parametrize("o_tmpfile", [True, False])
    @pytest.mark.parametrize("named", [True, False])
    def test_ways_to_store(
        self, local_place: EmptyPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proc: bool, o_tmpfile: bool, named: bool
    ) -> None:
        """Whatever the system can do, a file is stored with the usual permissions, create-only, with nothing left behind."""
        if not proc:
            monkeypatch.setattr(os, "link", refuse_proc(os.link))
        if not o_tmpfile:
            monkeypatch.setattr(os, "O_TMPFILE", 0)
            monkeypatch.setattr(tempfile, "_O_TMPFILE_WORKS", False)
        file = naming.nameless_file(tmp_path) if named else io.BytesIO()
        with file:
            file.write(b"content")
            local_place.writer.create(local_place.key + "a/b.json", file)
            local_place.writer.create(local_place.key + "a/b.json", file)
        with pytest.raises(KeyTaken):
            local_place.create("a/b.json", b"other")
        assert local_place.everything() == ["a/b.json"]
        assert local_place.read("a/b.json") == b"content"
        path = tmp_path / "a/b.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
        assert path.stat().st_nlink == 1

    def test_nothing_left_of_a_failure(self, local_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where no file can be given its name, that is an error, and nothing is left behind."""

        def link(*_: Any, **__: Any) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "link", link)
        with pytest.raises(StoreUnreachable, match="Input/output error"):
            local_place.create("a.json", b"content")
        assert local_place.everything() == []

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
    def test_no_room(self, local_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        """A full or read-only disk is a refusal, with what the system said; nothing is left behind."""

        def copy(*_: Any) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(naming, "_copy", copy)
        with pytest.raises(StoreRefused, match=os.strerror(code)):
            local_place.create("a.json", b"content")
        assert local_place.everything() == []

    def test_folders_are_durable(self, local_place: EmptyPlace, tmp_path: Path, synced: "Synced") -> None:
        """Once a file is stored, the names of all the folders above it are durable too, whoever made them; asked for once."""
        (tmp_path / "items").mkdir()  # by an open batch, or by a try that failed
        local_place.create("items/run/1.json", b"x")
        assert {str(tmp_path), f"{tmp_path}/items", f"{tmp_path}/items/run"} <= set(synced)
        synced.clear()
        local_place.create("items/run/2.json", b"x")
        assert synced == [f"{tmp_path}/items/run"]
        (tmp_path / "x/y").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "x/y")
        local_place.create("link/1.json", b"x")
        assert f"{tmp_path}/x" in synced, "where the folder really is"

    def test_folders_made_again(self, local_place: EmptyPlace, tmp_path: Path, synced: "Synced") -> None:
        """A folder that was removed and made again is a new one, and a sync that failed is done by the next try."""
        local_place.create("a/b/1.json", b"x")
        shutil.rmtree(tmp_path / "a")
        synced.failing = [tmp_path / "a"]
        with pytest.raises(StoreUnreachable, match="Input/output error"):
            local_place.create("a/b/1.json", b"x")
        synced.clear()
        local_place.create("a/b/1.json", b"x")
        assert {str(tmp_path), f"{tmp_path}/a", f"{tmp_path}/a/b"} <= set(synced)

    @pytest.mark.parametrize("code", [errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP])
    def test_folder_without_sync(self, local_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        """A file system (of a network) that can't sync folders is no failure: there is nothing to be done about it."""
        monkeypatch.setattr(os, "fsync", only_files(os.fsync, code))
        local_place.create("a/b/1.json", b"x")
        assert local_place.read("a/b/1.json") == b"x"

    def test_folder_sync_fails(self, local_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that can, and says that it failed, is: what is stored may not be durable."""
        monkeypatch.setattr(os, "fsync", only_files(os.fsync, errno.EIO))
        with pytest.raises(StoreUnreachable, match="Input/output error"):
            local_place.create("a.json", b"x")

    def test_left_over_is_no_key(self, local_place: EmptyPlace, tmp_path: Path) -> None:
        """A temporary file that a kill left behind is not taken for a key."""
        (tmp_path / f"{naming.TEMPORARY}abc").write_bytes(b"{")
        assert local_place.names() == set()

    @pytest.mark.parametrize("under", ["file/", "file/00", "file/state/00"])
    def test_list_below_a_file(self, local_place: EmptyPlace, under: str) -> None:
        """A folder that can't be read because it is below a file is a refusal, never "no keys"."""
        local_place.create("file", b"x")
        with pytest.raises(StoreRefused, match="Not a directory"):
            local_place.names(under)

    @pytest.mark.parametrize("name", ["file/a.json", "file/state/a.json"])
    def test_read_and_write_below_a_file(self, local_place: EmptyPlace, name: str) -> None:
        """A key below a file can't be read nor created: a refusal that says where to look, not to be tried again."""
        local_place.create("file", b"x")
        with pytest.raises(StoreRefused, match="check the path in FEEDS"):
            local_place.read(name)
        with pytest.raises(StoreRefused, match="check the path in FEEDS"):
            local_place.create(name, b"x")

    def test_folder_in_the_way(self, local_place: EmptyPlace) -> None:
        """A key that is a folder is a refusal, to read and to create."""
        local_place.create("a/b", b"x")
        with pytest.raises(StoreRefused, match="Is a directory"):
            local_place.read("a")
        with pytest.raises(StoreRefused, match="Is a directory"):
            local_place.create("a", b"x")


class Synced(list[str]):
    """The folders that were synced. *failing*: those of which the next sync fails."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: list[Path] = []


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Synced:
    found = Synced()
    fsync = os.fsync

    def note(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir():
            if path in found.failing:
                found.failing.remove(path)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            found.append(str(path))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    return found


def only_files(fsync: Callable[[int], None], code: int) -> Callable[[int], None]:
    """os.fsync() of a file system where it fails for folders."""

    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    return refuse


@pytest.fixture(params=["renamed", "reserved"])
def linkless_place(request: pytest.FixtureRequest, local_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> EmptyPlace:
    """A disk without hard links; *reserved*: that can't rename a file only if the name is free, either."""

    def link(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    if request.param == "reserved":
        monkeypatch.setattr(naming, "_renamed_new", lambda *_: False)
    return local_place


class TestWithoutLinks(StoreContract):
    """exFAT, gcsfuse, s3fs, shared folders of virtual machines."""

    @pytest.fixture
    def place(self, linkless_place: EmptyPlace) -> Place:
        return linkless_place

    def test_leaves_nothing(self, place: EmptyPlace, request: pytest.FixtureRequest) -> None:
        """Nothing is left beside what is stored, with the usual permissions; it says whether it was sure to be the only one."""
        for content in (b"ours", b"ours", b"theirs"):
            with suppress(KeyTaken):
                place.create("a/b.json", content)
        assert place.everything() == ["a/b.json"]
        path = Path(place.key, "a/b.json")
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
        assert place.writer.atomic is ("renamed" in request.node.name)

    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
    def test_failure(self, place: EmptyPlace, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        """A failure leaves nothing under the name, which can be tried again."""

        def fail(*_: Any) -> None:
            raise OSError(code, os.strerror(code))

        for name in ("replace", "fsync"):
            with monkeypatch.context() as patched:
                patched.setattr(os, name, fail)
                patched.setattr(naming, "_renamed_new", lambda *_: False)
                with pytest.raises(StoreError, match=os.strerror(code)):
                    place.create("a.json", b"content")
            assert place.everything() == []
        place.create("a.json", b"content")

    @pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EMLINK, errno.EACCES])
    def test_how_systems_say_it(self, place: EmptyPlace, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        """Whatever the system says about links it does not have, the file is stored."""

        def link(*_: Any, **__: Any) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "link", link)
        place.create("a.json", b"content")
        assert place.everything() == ["a.json"]

    def test_whole_or_empty(self, place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever looks while it is being stored sees nothing, an empty file, or the whole one."""
        seen = []
        fsync, replace = os.fsync, os.replace

        def look(*arguments: Any) -> None:
            seen.append(place.read("a.json"))
            (replace if len(arguments) == 2 else fsync)(*arguments)

        monkeypatch.setattr(os, "fsync", look)
        monkeypatch.setattr(os, "replace", look)
        place.create("a.json", b"content" * 1000)
        assert len(seen) >= 2
        assert set(seen) <= {None, b"", b"content" * 1000}


def test_crawl_without_links(tmp_path: Path) -> None:
    """A crawl where there are no hard links stores, and resumes, and says once that a second writer is not prevented."""
    source = f"""
import errno, os
from scrapy_state.stores import naming

def link(*_, **__):
    raise OSError(errno.EPERM, "Operation not permitted")

os.link, naming._renamed_new = link, lambda *_: False
{SPIDER}"""
    for page in (3, 6):
        outcome = crawl(tmp_path, source)
        assert outcome.code == 0, outcome.log
        assert not outcome.lines("] WARNING")
        [line] = outcome.lines("may not write create-only for sure")
        assert f"{(tmp_path / 'data/numbers/state').as_uri()} may not" in line
        assert checkpoints(tmp_path)[-1]["state"] == {"page": page}
    assert named_items(tmp_path) == [{"page": page, "n": n} for page in range(6) for n in range(2)]


def umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def refuse_proc(link: Any) -> Any:
    """os.link() of a system where a file without a name can't be given one."""

    def refuse(source: Any, *arguments: Any, **options: Any) -> None:
        if str(source).startswith("/proc/self/fd/"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, *arguments, **options)

    return refuse


@pytest.fixture
def forbidden() -> Iterator[str]:
    """A folder that may be neither read nor written, with a file in it; root gives up its rights until the end."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder, "inside")
        inside.mkdir()
        (inside / "1.json").write_bytes(b"x")
        Path(folder).chmod(0o755)
        inside.chmod(0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield str(inside)
        finally:
            if root:
                os.seteuid(0)
            inside.chmod(0o755)


class TestForbiddenFolder:
    @pytest.mark.parametrize("prefix", ["/", "/1", "/below/", "/below/1"])
    def test_list(self, forbidden: str, prefix: str) -> None:
        """A folder that may not be read is a refusal, never "no keys"; so is what would lie below it."""
        store, key = open_reader(forbidden + prefix, {})
        with pytest.raises(StoreRefused, match="Permission denied"):
            list(store.keys(key))

    @pytest.mark.parametrize("name", ["/1.json", "/2.json", "/below/1.json"])
    def test_read_and_write(self, forbidden: str, name: str) -> None:
        """A file in it can't be read or created: a refusal that names the path."""
        store, key = open_writer(forbidden + name, {})
        with pytest.raises(StoreRefused, match=f"{key}: Permission denied"):
            store.read(key)
        with pytest.raises(StoreRefused, match=f"{key}: Permission denied"):
            store.create(key, io.BytesIO(b"x"))
        with pytest.raises(StoreRefused, match=f"{key}: Permission denied"):
            store.delete(key)

    def test_beside(self, forbidden: str) -> None:
        """A forbidden folder that can't hold any key of the prefix is none of our business."""
        store, key = open_reader(str(Path(forbidden).parent / "state-00"), {})
        assert list(store.keys(key)) == []

    @pytest.mark.parametrize("text", ["%(batch_id)010d.json", "%(batch_id)d.json", ""])
    def test_below_the_states(self, forbidden: str, text: str) -> None:
        """One that lies deeper than the keys of a template is none either: ``lost+found`` beside the states."""
        template = KeyTemplate.parse(f"{Path(forbidden).parent}/{text}", {})
        store, _ = open_reader(template.prefix, {})
        assert resolve(store, template) == Resolution()
        assert prunable(store, template, 1) == []


class Answering(Handler):
    """Answers each request with the next of the server's *answers*, the last of them again and again."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(f"{self.command} {self.headers.get('If-None-Match', '')}".strip())
        answers = self.server.answers
        status, code = answers.pop(0) if len(answers) > 1 else answers[0]
        body = code if code.startswith("<") else f"<Error><Code>{code}</Code></Error>" if code else ""
        self.reply(status, body, {"x-amz-checksum-crc32": base64.b64encode(bytes(4)).decode()} if body == DAMAGED else None)

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT


@pytest.fixture(scope="module")
def answering_server() -> Iterator[Any]:
    """One for all tests: a client for each would take most of their time."""
    with Server(Answering) as server:
        yield server


@pytest.fixture
def answering(answering_server: Any) -> Any:
    answering_server.answers, answering_server.seen = [], []
    return answering_server


def s3_at(endpoint: str) -> S3Writer:
    return S3Writer("bucket", S3Options(endpoint, "us-east-1", "the-access-key", SECRET))


def closed_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


class TestS3:
    def test_parts(self, s3_place: EmptyPlace, s3_client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file above PART_BYTES goes in parts, whole, create-only, and leaves no upload open behind it."""
        monkeypatch.setattr(s3, "PART_BYTES", 5 * 1024 * 1024)
        content = bytes(range(256)) * 40 * 1024 + b"the end"
        s3_place.create("big", content)
        assert s3_client.head_object(Bucket=bucket, Key=f"{s3_place.key}big")["ETag"].endswith('-3"')
        assert s3_place.read("big") == content
        s3_place.create("big", content)
        with pytest.raises(KeyTaken):
            s3_place.create("big", content[:-1] + b"D")
        assert s3_place.read("big") == content
        assert s3_place.everything() == ["big"]

    def test_just_one_part(self, s3_place: EmptyPlace, s3_client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file of PART_BYTES goes as one."""
        monkeypatch.setattr(s3, "PART_BYTES", 1000)
        s3_place.create("a", b"x" * 1000)
        assert "-" not in s3_client.head_object(Bucket=bucket, Key=f"{s3_place.key}a")["ETag"]

    def test_pages(self, s3_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """A listing of several pages is read to its end."""
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
        for number in range(8):
            s3_place.create(f"{number}", b"x")
        assert s3_place.names() == set("01234567")

    def test_deeper_keys_cost_nothing(self, s3_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """What lies in folders below is not paged through if it is not asked for."""
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
        for name in (*(f"items/{number}" for number in range(12)), "1", "2"):
            s3_place.create(name, b"x")
        listed: list[str] = []
        events = s3_place.reader._client.meta.events  # type: ignore[attr-defined]
        events.register("before-call.s3.ListObjectsV2", note := lambda **_: listed.append(""))
        try:
            assert set(s3_place.reader.keys(s3_place.key, depth=0)) == {f"{s3_place.key}1", f"{s3_place.key}2"}
        finally:
            events.unregister("before-call.s3.ListObjectsV2", note)
        assert len(listed) == 1

    def test_unreachable(self) -> None:
        """No answer is StoreUnreachable for every method, with the address and where to set it; never "nothing there"."""
        store = s3_at(f"http://127.0.0.1:{closed_port()}")
        for message in every_call_raises(store, "a/b", StoreUnreachable):
            assert re.search(r"no answer from http://127\.0\.0\.1:.*check AWS_ENDPOINT_URL", message)

    def test_no_bucket(self, s3_settings: dict[str, str]) -> None:
        """A bucket that isn't there is StoreRefused for every method, with what to check."""
        store, _ = open_writer("s3://no-such-bucket/a/", s3_settings)
        for message in every_call_raises(store, "a/b", StoreRefused):
            assert re.match(r"s3://no-such-bucket/a/b: .* NoSuchBucket; check the bucket's name in the URI", message)

    @pytest.mark.parametrize(
        ("status", "code", "error", "says"),
        [
            (403, "AccessDenied", StoreRefused, r"403 AccessDenied; check the credentials .* may PutObject there"),
            (403, "InvalidAccessKeyId", StoreRefused, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            (403, "SignatureDoesNotMatch", StoreRefused, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            (400, "ExpiredToken", StoreRefused, "check AWS_SESSION_TOKEN"),
            (400, "AuthorizationHeaderMalformed", StoreRefused, "check AWS_REGION_NAME"),
            (401, "", StoreRefused, "401"),
            (
                411,
                "MissingContentLength",
                StoreRefused,
                "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required in",
            ),
            (403, "QuotaExceeded", StoreRefused, "403 QuotaExceeded; a quota .* is reached"),
            (413, "", StoreRefused, "a quota .* is reached"),
            (405, "MethodNotAllowed", StoreRefused, "does not do PutObject: check AWS_ENDPOINT_URL"),
            (405, "", StoreRefused, "does not do PutObject: check AWS_ENDPOINT_URL"),
            (404, "NoSuchUpload", StoreRefused, "was aborted, by a later run"),
            (400, "BadDigest", StoreUnreachable, "BadDigest; it may pass"),
            (500, "InternalError", StoreUnreachable, "500 InternalError; it may pass"),
            (503, "SlowDown", StoreUnreachable, "503 SlowDown; it may pass"),
            (429, "TooManyRequests", StoreUnreachable, "429"),
            (400, "RequestTimeout", StoreUnreachable, "RequestTimeout"),
        ],
    )
    def test_errors(self, answering: Any, status: int, code: str, error: type[StoreError], says: str) -> None:
        """What may pass by itself is StoreUnreachable, what doesn't StoreRefused with a remedy, none is "nothing there"."""
        answering.answers = [(status, code)]
        store = s3_at(answering.url)
        messages = every_call_raises(store, "a/b", error)
        assert re.search(says, messages[-1])
        assert all(each.startswith("s3://bucket/a/b: ") for each in messages)
        assert SECRET not in "".join(messages)

    @pytest.mark.parametrize("is_part", [False, True])
    def test_forbidden_or_missing(self, answering: Any, is_part: bool) -> None:
        """Only a listing that does not have the key makes a missing one of a 403; what is there and forbidden is refused."""
        store = s3_at(answering.url)

        def read() -> bytes | None:
            return store.read_part("a", 0, 10) if is_part else store.read("a")

        forbidden, listed = (403, "AccessDenied"), (200, LISTED)
        answering.answers = [forbidden, (200, EMPTY)]
        assert read() is None
        answering.answers = [forbidden, (200, LISTED.replace(">a<", ">a.bak<"))]
        assert read() is None
        answering.answers = [forbidden, listed, forbidden]
        with pytest.raises(StoreRefused, match=r"a: GetObject: .* 403 .* may GetObject there"):
            read()
        answering.answers = [forbidden, listed, (200, "<x>")]  # it was stored in between
        assert read() == b"<x>"
        answering.answers = [forbidden]
        with pytest.raises(StoreRefused, match=r"403 .* may GetObject and ListBucket there"):
            read()
        answering.answers = [forbidden, (500, "InternalError")]
        with pytest.raises(StoreUnreachable):
            read()

    def test_damaged(self, answering: Any) -> None:
        """What does not fit its checksum is read once more, then called damaged: it is neither missing nor out of reach."""
        store = s3_at(answering.url)
        answering.answers = [(200, DAMAGED), (200, "<whole>")]
        assert store.read("a") == b"<whole>"
        answering.answers = [(200, DAMAGED)]
        with pytest.raises(
            ContentDamaged, match=r"^s3://bucket/a is damaged: .* checksum .*; restore it from a copy"
        ) as caught:
            store.read("a")
        assert not isinstance(caught.value, StoreUnreachable | StoreRefused)
        answering.answers = [(200, LISTED), (200, DAMAGED)]
        with pytest.raises(ContentDamaged):
            store.create("a", io.BytesIO(DAMAGED.encode()))

    def test_damaged_checkpoint(self, s3_place: EmptyPlace) -> None:
        """A checkpoint that is damaged in the store is passed over, as a torn one is, with the reason."""
        template = KeyTemplate.parse(f"{s3_place.key}%(batch_id)010d.json", {})
        writer = CheckpointWriter(s3_place.writer, template, format="json", spider=None, run="one", job=None)
        writer.open({"t": 0}, Resolution(), Resolution)
        writer.commit(writer.next({"t": 1}, ()))
        with Proxy(s3_place.settings["AWS_ENDPOINT_URL"], [Fault("damaged", "GET .*0002.json", count=inf)]) as proxy:
            store = Place(s3_place.uri, {**s3_place.settings, "AWS_ENDPOINT_URL": proxy.url}).reader
            found = resolve(store, template)
        assert found.checkpoint is not None
        assert (found.checkpoint.state, found.newest_id) == ({"t": 0}, 2)
        [(uri, why)] = found.passed_over
        assert uri == s3_place.reader.uri(template.key(2))
        assert "is damaged" in why

    def test_empty_ca_bundle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty AWS_CA_BUNDLE is a mistake that does not pass by itself, and the error names it."""
        monkeypatch.setenv("AWS_CA_BUNDLE", "")
        monkeypatch.setattr(s3client, "_clients", {})
        monkeypatch.setattr(s3client, "_sessions", {})
        for message in every_call_raises(s3_at(f"https://127.0.0.1:{closed_port()}"), "a/b", StoreRefused):
            assert re.search("CA bundle.*AWS_CA_BUNDLE.* empty", message)

    def test_condition_not_heeded(self, answering: Any) -> None:
        """A server that may ignore the condition is not even asked to store a file over another one."""
        answering.answers = [(200, LISTED), (200, "<other>")]
        with pytest.raises(KeyTaken):
            s3_at(answering.url).create("a", io.BytesIO(b"x"))
        assert answering.seen == ["GET", "GET"]

    def test_no_abort_of_what_may_be_complete(self) -> None:
        """An upload whose completion got no answer is not aborted, also if the server refuses it the second time."""
        aborted: list[str] = []

        def refusing(*statuses: int) -> PartsUpload:
            left = list(statuses)

            def complete(**_: Any) -> None:
                raise ClientError({"ResponseMetadata": {"HTTPStatusCode": left.pop(0)}}, "CompleteMultipartUpload")

            client: Any = SimpleNamespace(
                create_multipart_upload=lambda **_: {"UploadId": str(statuses)},
                complete_multipart_upload=complete,
                abort_multipart_upload=lambda **names: aborted.append(names["UploadId"]),
            )
            upload = PartsUpload(client, "bucket", "a", io.BytesIO())
            for _ in statuses:
                with pytest.raises(ClientError):
                    upload.complete()
                upload.abort()
            return upload

        assert refusing(500, 412).may_be_complete
        assert aborted == []
        assert not refusing(412).may_be_complete
        assert aborted == ["(412,)"]

    def test_taken_while_sending(self, ceph_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the server completes uploads over what is there, a file that came while the parts were sent is seen."""
        monkeypatch.setattr(s3, "PART_BYTES", MIN_PART_BYTES)
        send = PartsUpload.send

        def slowly(*arguments: Any) -> None:
            send(*arguments)
            ceph_place.create("a", b"other")

        monkeypatch.setattr(PartsUpload, "send", slowly)
        with pytest.raises(KeyTaken):
            ceph_place.create("a", b"x" * (MIN_PART_BYTES + 1))
        assert ceph_place.read("a") == b"other"
        assert ceph_place.everything() == ["a"]

    @pytest.mark.parametrize("kind", ["too slow", "time-out", "500"])
    @pytest.mark.parametrize("is_atomic", [True, False])
    def test_completion_without_answer(
        self, s3_place: EmptyPlace, monkeypatch: pytest.MonkeyPatch, kind: str, is_atomic: bool
    ) -> None:
        """An upload in parts whose completion got no answer was stored, or is completed again: no part is sent twice."""
        monkeypatch.setattr(s3, "PART_BYTES", MIN_PART_BYTES)
        monkeypatch.setattr(s3client, "READ_TIMEOUT_SECONDS", 1)
        monkeypatch.setattr(S3Writer, "atomic", is_atomic)
        content = b"x" * MIN_PART_BYTES + b"the end"
        with Proxy(s3_place.settings["AWS_ENDPOINT_URL"], [Fault(kind, "POST .*uploadId=")]) as proxy:
            place = Place(s3_place.uri, {**s3_place.settings, "AWS_ENDPOINT_URL": proxy.url})
            with io.BytesIO(content) as file:
                with pytest.raises(StoreUnreachable):
                    place.writer.create(f"{place.key}a", file)
                place.writer.create(f"{place.key}a", file)
            assert not proxy.seen("DELETE .*uploadId="), "some servers would delete the parts that the file is made of"
            with pytest.raises(KeyTaken):
                place.create("a", content[::-1])
            assert len(proxy.seen("PUT .*partNumber=")) == 2 + (2 if is_atomic else 0)  # the last ones by the other content
        assert s3_place.read("a") == content
        assert s3_place.everything() == ["a"]

    def test_conflict_is_tried_again(self, answering: Any) -> None:
        """409 says that another request is at work on the key: the write is tried again."""
        conflict = [(200, EMPTY), (409, "ConditionalRequestConflict")]
        answering.answers = [*conflict, *conflict, (200, EMPTY), (200, "")]
        s3_at(answering.url).create("a", io.BytesIO(b"x"))
        assert answering.seen == ["GET", "PUT *"] * 3

    def test_conflict_for_good(self, answering: Any) -> None:
        """409 for ever is not tried for ever: StoreUnreachable, for whoever has more time."""
        answering.answers = [(200, EMPTY), (409, "ConditionalRequestConflict")] * 9
        with pytest.raises(StoreUnreachable, match=r"PutObject: .* 409"):
            s3_at(answering.url).create("a", io.BytesIO(b"x"))
        assert answering.seen == ["GET", "PUT *"] * s3._CONFLICT_ATTEMPTS

    def test_no_conditional_writes(self, answering: Any) -> None:
        """A server that answers 501 to a conditional write is looked at first, then written to without."""
        answering.answers = [(200, EMPTY), (501, "NotImplemented"), (200, EMPTY), (200, "")]
        s3_at(answering.url).create("a", io.BytesIO(b"x"))
        assert answering.seen == ["GET", "PUT *", "GET", "PUT"]

    def test_probe_without_multipart(self, answering: Any, caplog: pytest.LogCaptureFixture) -> None:
        """A server that knows no multipart uploads is taken to be writable; a line says that it was not tried."""
        answering.answers = [(501, "NotImplemented")]
        caplog.set_level("INFO", "scrapy_state.state")
        s3_at(answering.url).probe("a/b")
        assert answering.seen == ["POST"]
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "s3://bucket/a/b: not tried" in caplog.text

    @pytest.mark.parametrize("action", ["PutObject", "AbortMultipartUpload"])
    def test_probe_is_refused(self, answering: Any, action: str) -> None:
        """A probe that is refused names the permission that is missing."""
        answering.answers = [] if action == "PutObject" else [(200, BEGUN)]
        answering.answers += [(403, "AccessDenied")]
        with pytest.raises(StoreRefused, match=f"a/b: {action}: the store answered 403 .* may {action} there"):
            s3_at(answering.url).probe("a/b")

    def test_probe_again(self, answering: Any) -> None:
        """A probe whose abort failed is called again: it aborts the upload it began, and begins no other."""
        answering.answers = [(200, BEGUN), (500, "InternalError"), (404, "NoSuchUpload")]
        store = s3_at(answering.url)
        with pytest.raises(StoreUnreachable):
            store.probe("a/b")
        store.probe("a/b")
        assert answering.seen == ["POST", "DELETE", "DELETE"]

    def test_reads_only(self, answering: Any) -> None:
        """The read side's client refuses each of S3's operations that is not a GET or HEAD, before anything is sent."""
        answering.answers = [(403, "AccessDenied")]
        options = S3Options(answering.url, "us-east-1", "the-access-key", SECRET)
        client: Any = get_client(options, writes=False)
        operations = client.meta.service_model.operation_names
        refused = set()
        for name in operations:
            with pytest.raises((StoreReadOnly, BotoCoreError, ClientError)) as caught:
                client._make_api_call(name, {})
            if isinstance(caught.value, StoreReadOnly):
                assert name in str(caught.value)
                refused.add(name)
        methods = {name: client.meta.service_model.operation_model(name).http["method"] for name in operations}
        assert {"PutObject", "DeleteObject", "DeleteObjects", "CopyObject", "UploadPart", "CreateMultipartUpload"} < refused
        assert refused >= {name for name, method in methods.items() if method not in ("GET", "HEAD")}
        assert {"GetObject", "HeadObject", "ListObjectsV2", "HeadBucket", "CreateSession"}.isdisjoint(refused)
        assert set(answering.seen) <= {"GET", "HEAD"}
        for call in (
            lambda: client.put_object(Bucket="bucket", Key="a", Body=b"x"),
            lambda: client.upload_fileobj(io.BytesIO(b"x"), "bucket", "a"),
            lambda: client.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "a"}),
        ):
            with pytest.raises(StoreReadOnly, match="This is a bug in scrapy_state"):
                call()
        assert set(answering.seen) <= {"GET", "HEAD"}

    def test_session_of_directory_bucket(self) -> None:
        """Where botocore signs on to a directory bucket by itself, the read side asks for a session that may only read."""
        options = S3Options("http://127.0.0.1:1", "us-east-1", "a", "b")
        client: Any = get_client(options, writes=False)
        sent: list[Any] = []

        def no_answer(request: Any, **_: Any) -> None:
            sent.append((request.method, dict(request.headers)["x-amz-create-session-mode"]))
            raise EndpointConnectionError(endpoint_url="nowhere")

        client.meta.events.register("before-send.s3.CreateSession", no_answer)
        try:
            with pytest.raises(EndpointConnectionError):
                client.create_session(Bucket="a--use1-az4--x-s3")
        finally:
            client.meta.events.unregister("before-send.s3.CreateSession", no_answer)
        assert sent == [("GET", b"ReadOnly")]

    def test_one_client(self) -> None:
        """There is one client for an endpoint, its credentials and what it is for, whoever asks."""
        settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        settings["AWS_REGION_NAME"] = "us-east-1"
        one, _ = open_writer("s3://bucket-1/a", settings)
        two, _ = open_reader("s3://bucket-2/b", dict(settings))
        assert isinstance(one, S3Writer)
        assert isinstance(two, S3Reader)
        assert get_client(one.options, writes=True) is get_client(two.options, writes=True)
        assert get_client(one.options, writes=True) is not get_client(two.options, writes=False)

    @pytest.mark.parametrize(
        "change",
        [
            {"endpoint_url": "http://127.0.0.1:2"},
            {"region_name": "eu-central-1"},
            {"access_key": "other"},
            {"secret_key": "other"},
            {"session_token": "other"},
        ],
        ids=str,
    )
    def test_other_clients(self, change: dict[str, str]) -> None:
        """Another endpoint, region or another's credentials have a client of their own."""
        options = S3Options("http://127.0.0.1:1", "us-east-1", "a", "b")
        assert get_client(options, writes=True) is not get_client(replace(options, **change), writes=True)

    def test_one_client_for_threads(self) -> None:
        """Threads that ask for a client at the same time are given the same one."""
        options = S3Options("http://127.0.0.1:3", "us-east-1", "a", "b")
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(get_client(options, writes=True))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len({id(each) for each in found}) == 1

    def test_credentials_in_uri(self) -> None:
        """Credentials in the URI go before the settings', decoded; the store's own URIs are without them."""
        settings = {"AWS_ACCESS_KEY_ID": "from-settings", "AWS_SECRET_ACCESS_KEY": "from-settings"}
        store, key = open_writer(f"s3://me:{SECRET}%2Fx@bucket/a/b", settings)
        assert isinstance(store, S3Writer)
        assert (store.options.access_key, store.options.secret_key) == ("me", f"{SECRET}/x")
        assert (store.bucket, key) == ("bucket", "a/b")
        assert store.uri(key) == "s3://bucket/a/b"

    def test_bucket_keeps_its_case(self) -> None:
        """A bucket's name is taken as it stands, capital letters too."""
        assert s3.split("s3://user:pass@My.Bucket_1/K/%20") == ("My.Bucket_1", "K/%20")

    @pytest.mark.parametrize("uri", ["s3:///a", "s3://", f"s3://me:{SECRET}@/a"])
    def test_no_bucket_in_uri(self, uri: str) -> None:
        """A URI without a bucket is an error that shows the right form, and no password."""
        with pytest.raises(StateSettingsError, match="has no bucket: s3://bucket/…") as caught:
            open_writer(uri, {})
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        "uri", [f"s3://me:{SECRET}@bucket/a", f"s3://me:x/{SECRET}@bucket/a", f"s3://me:{SECRET}/x@bucket/a"]
    )
    def test_no_secrets(self, uri: str) -> None:
        """Credentials are in no repr, text or error, also when a slash in them was not encoded."""
        settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed_port()}", "AWS_SESSION_TOKEN": SECRET}
        texts = []
        try:
            store, key = open_writer(uri, settings)
            assert isinstance(store, S3Writer)
            texts += [repr(store), repr(store.options), str(store.options), store.uri(key)]
            store.read(key)
        except (StoreError, StateSettingsError) as error:
            texts += [str(error), repr(error)]
        assert SECRET not in "".join(texts)

    @pytest.mark.parametrize(
        "setting",
        [
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"},
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL": "", "AWS_REGION_NAME": ""},
        ],
    )
    def test_options(self, setting: dict[str, str]) -> None:
        """Scrapy's AWS_* settings are taken; empty text means that it was not given."""
        options = S3Options.from_settings(setting, "s3://bucket/")
        assert options.access_key == (setting["AWS_ACCESS_KEY_ID"] or None)
        assert options.secret_key == (setting["AWS_SECRET_ACCESS_KEY"] or None)
        assert options.session_token == setting.get("AWS_SESSION_TOKEN")
        assert options.endpoint_url is options.region_name is None

    @pytest.mark.parametrize(
        ("value", "expected"),
        [(None, True), (True, True), ("1", True), ("True", True), (False, False), ("0", False), ("False", False)],
    )
    def test_use_ssl(self, value: Any, expected: bool) -> None:
        """AWS_USE_SSL may be text, as the command line gives it."""
        assert S3Options.from_settings({"AWS_USE_SSL": value}, "s3://bucket/").use_ssl is expected

    @pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
    def test_atomic_on_aws_only(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Only AWS itself is held to be atomic: an address in the environment, of either name, is another server's."""
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        store, _ = open_writer("s3://bucket/a", {})
        assert store.atomic
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        store, _ = open_writer("s3://bucket/a", {"AWS_REGION_NAME": f"region-{len(name)}"})  # else it is the same client
        assert not store.atomic

    def test_acl(self, s3_settings: dict[str, str], s3_client: Any, bucket: str) -> None:
        """FEED_STORAGE_S3_ACL is given to what is stored."""
        store, key = open_writer(f"s3://{bucket}/a", {**s3_settings, "FEED_STORAGE_S3_ACL": "public-read"})
        store.create(key, io.BytesIO(b"x"))
        grants = s3_client.get_object_acl(Bucket=bucket, Key="a")["Grants"]
        assert "READ" in {each["Permission"] for each in grants if each["Grantee"]["Type"] == "Group"}
