"""Which store a URI means: STATE_STORES, and its errors."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlite_store
from crawls import STATE_OPTIONS, crawl
from scrapy.settings import BaseSettings
from sqlite_store import SQLiteReader, SQLiteStore, SQLiteWriter

from scrapy_state.exceptions import StateSettingsError
from scrapy_state.model.key_template import without_credentials
from scrapy_state.stores import local, open_reader, open_writer, s3
from scrapy_state.stores.s3 import S3Reader, S3Writer
from scrapy_state.testing import Place

SECRET = "s3cr3t"


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
        """A store is an import path or an object, in a dict or in JSON text; the built-in ones stay."""
        settings = {"STATE_STORES": stores, "SQLITE_FOLDER": tmp_path}
        assert isinstance(open_reader("sqlite://a/b", settings)[0], SQLiteReader)
        assert isinstance(open_writer("sqlite://a/b", settings)[0], SQLiteWriter)
        assert open_reader(f"{tmp_path}/a", settings)[1] == f"{tmp_path}/a"

    def test_module(self, tmp_path: Path) -> None:
        """A module with the two functions is a store, too. A built-in one can be replaced, and used for another scheme."""
        settings = {"STATE_STORES": {"s3": "scrapy_state.stores.local", "swift": s3}}
        assert isinstance(open_writer(f"{tmp_path}/a", settings)[0], local.LocalWriter)
        assert isinstance(open_writer("s3://a/b", settings)[0], local.LocalWriter)
        assert isinstance(open_writer("swift://bucket/b", settings)[0], S3Writer)

    @pytest.mark.parametrize("none", [None, "", "{}", {}])
    def test_not_given(self, none: Any) -> None:
        """None, empty text and an empty dict leave the built-in ones."""
        assert isinstance(open_reader("s3://bucket/a", {"STATE_STORES": none})[0], S3Reader)

    def test_none_disables(self) -> None:
        """None removes a scheme; the error lists those that are left."""
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
        """A store that can't be imported, or lacks one of the functions, is an error that names it; but only if its scheme is
        used."""
        for opener in (open_reader, open_writer):
            with pytest.raises(StateSettingsError, match=f"^STATE_STORES: .*{says}"):
                opener("xy://a/b", {"STATE_STORES": {"xy": store}})
            opener("s3://a/b", {"STATE_STORES": {"xy": store}})

    @pytest.mark.parametrize("value", ["{", "[1]", "s3", 5, ["s3"], {"s3://": "a.B"}, {"S3": "a.B"}, {5: "a.B"}], ids=str)
    def test_wrong_value(self, value: Any) -> None:
        """If the value is not a dict of schemes, an error shows it and the right form."""
        with pytest.raises(StateSettingsError, match=r"^STATE_STORES is .*; it must be a dict .*URI scheme -> import path"):
            open_reader("s3://a/b", {"STATE_STORES": value})

    def test_crawl(self, tmp_path: Path) -> None:
        """A crawl keeps its states and its items in a user's own store, and resumes from there."""
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
        """Any exception that is not one of ours ends the crawl before it begins, with a trace and a non-zero exit code."""
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
    """A scheme without a store is an error that has the URI, without its password, and the schemes that have one."""
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
    """User and password are removed from a URI, and nothing else is."""
    assert without_credentials(uri) == expected
