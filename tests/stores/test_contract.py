"""The contract that every store keeps."""

from contextlib import suppress
from pathlib import Path

import pytest
from empty_places import EmptyPlace

from scrapy_state.exceptions import KeyTaken, StoreRefused
from scrapy_state.stores import open_writer, s3
from scrapy_state.testing import Place, StoreContract

MIN_PART_BYTES = 5 * 1024 * 1024


# For a class, so that the tests come store by store, and few of pytest-xdist's workers start a Swift. "ceph" is moto behind
# a proxy that behaves like Ceph; "rgw" is Ceph.
@pytest.fixture(
    params=[
        *("local", "s3", "ceph", "sqlite"),
        *(pytest.param(each, marks=pytest.mark.long) for each in ("swift", "swift_https")),
        *(pytest.param(each, marks=pytest.mark.campaign) for each in ("rgw", "rgw_https")),
    ],
    scope="class",
)
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
        """Reading and listing store nothing; a write that is refused, or finds the name taken, leaves nothing behind."""
        assert place.read("a/b/c.json") is place.reader.read_part(place.key + "a/b/c.json", -10, 10) is None
        assert place.names("a/b/") == set()
        assert place.everything() == []
        for content in (b"ours", b"ours", b"theirs"):
            with suppress(KeyTaken):
                place.create("a.json", content)
        assert place.everything() == ["a.json"]

    def test_atomic(self, place: Place, kind: str) -> None:
        """A store says whether one of two writers is known to get an error; a server at an endpoint of your own says no."""
        assert place.writer.atomic is (kind in ("local", "sqlite"))


class TestProbe:
    @pytest.mark.parametrize("fixture", ["local_place", "s3_place"])
    def test_leaves_nothing(self, request: pytest.FixtureRequest, fixture: str) -> None:
        """A probe leaves nothing behind, not even a temporary file or an open upload."""
        place: EmptyPlace = request.getfixturevalue(fixture)
        place.writer.probe(f"{place.key}items/1.json")
        assert place.everything() == []

    def test_makes_no_folder(self, tmp_path: Path) -> None:
        """On a disk a probe makes no folder: the nearest one that exists is enough."""
        writer, key = open_writer(f"{tmp_path}/items/run/1.json", {})
        writer.probe(key)
        assert list(tmp_path.iterdir()) == []

    def test_below_a_file(self, tmp_path: Path) -> None:
        """A key below a file can't be stored, and the probe says so."""
        (tmp_path / "file").touch()
        writer, key = open_writer(f"{tmp_path}/file/items/1.json", {})
        with pytest.raises(StoreRefused, match="Not a directory; check the path in FEEDS"):
            writer.probe(key)
