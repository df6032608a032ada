"""Importing databases of scrapy-deltafetch."""

from __future__ import annotations

import dbm.dumb
from pathlib import Path

import pytest
from scrapy import Request
from scrapy.utils.request import fingerprint

from scrapy_state.delta.importing import read_deltafetch
from scrapy_state.delta.keys import RequestKeys, key_of
from scrapy_state.delta.memory import today
from scrapy_state.exceptions import StateSettingsError


def test_key_rules(tmp_path: Path) -> None:
    """Fingerprints, in bytes and in hex, and keys of one's own get the keys that our requests have; the times become days."""
    keys = RequestKeys(fingerprint)
    requests = [
        Request("http://a.example/1"),
        Request("http://a.example/2"),
        Request("http://a.example", meta={"state_key": "é"}),
    ]
    with dbm.dumb.open(str(tmp_path / "shop.db"), "c") as database:
        database[fingerprint(requests[0])] = "1700000000.5"
        database[fingerprint(requests[1]).hex()] = "1700000000.5"
        database["é".encode()] = "nonsense"
    for name in ("shop.db", "shop.db.dat"):
        found = read_deltafetch(tmp_path / name)
        assert [found[keys.of(request)] for request in requests] == [19675, 19675, today()]
        assert found[key_of(fingerprint(requests[1]).hex())] == 19675  # it may be somebody's deltafetch_key
        assert len(found) == 4


@pytest.mark.parametrize(("content", "says"), [(None, "does not exist"), (b"something else", "not a database that dbm knows")])
def test_no_database(tmp_path: Path, content: bytes | None, says: str) -> None:
    """Anything but a database is an error that names the path."""
    path = tmp_path / "shop.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StateSettingsError, match=says) as raised:
        read_deltafetch(path)
    assert str(path) in str(raised.value)
