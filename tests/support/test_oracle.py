"""The oracle, which says what is wrong with stored files: it must see everything that can be wrong."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from oracle import Feed, Report, Unchanged, check, csv_gz_keys, digest_of, jsonlines_keys

FEEDS = {"all": Feed("/d/all/", jsonlines_keys), "second": Feed("/d/second/", csv_gz_keys)}


def three_checkpoints() -> dict[str, Any]:
    """Return stored files: an opening checkpoint, two more; JSON files as objects, so that they can be changed."""
    files: dict[str, Any] = {
        "/d/all/1.jsonl": b'{"key": "1-0"}\n{"key": "1-1"}\n',
        "/d/all/2.jsonl": b'{"key": "2-0"}\n{"key": "3-0"}\n',
        "/d/second/1.csv.gz": gzip.compress(b"key,n\r\n1-1,1\r\n"),
        "/d/all/orphan.jsonl": b'{"key": "3-0"}\n',
    }

    def file(name: str, items: int, **more: Any) -> dict[str, Any]:
        return {"uri": f"file:///d/{name}", "items": items, "bytes": len(files[f"/d/{name}"]), **more}

    named = [[], [file("all/1.jsonl", 2), file("second/1.csv.gz", 1)], [file("all/2.jsonl", 2, skip=[[1, 2]])]]
    for id, (page, items) in enumerate([(1, 0), (2, 3), (3, 4)], 1):
        state = {"page": page}
        files[f"/d/state/{id:010}.json"] = {
            "id": id,
            "parent": id - 1 or None,
            "state": state,
            "items": items,
            "files": named[id - 1],
        }
    return files


def report_on(files: dict[str, Any]) -> Report:
    def expected(state: dict[str, Any]) -> dict[str, list[str]]:
        keys = [key for key in ("1-0", "1-1", "2-0", "3-0") if int(key[0]) < state["page"]]
        return {"all": keys, "second": [key for key in keys if key[-1] == "1"]}

    parent = None
    sealed: dict[str, bytes] = {}
    for location, content in files.items():
        if isinstance(content, dict):
            content = {"parent_digest": parent, **content}
            parent = digest_of(content)
            content = json.dumps([{"digest": parent, **content}]).encode()
        sealed[location] = content
    return check(sealed, "/d/state/", FEEDS, expected)


def test_oracle_accepts_what_is_right() -> None:
    """The oracle has nothing against a whole lineage, skipped items and an orphan."""
    report = report_on(three_checkpoints())
    assert report.wrong == []
    assert [each["id"] for each in report.checkpoints] == [1, 2, 3]
    assert report.orphans == ["/d/all/orphan.jsonl"]


SECOND, THIRD = "/d/state/0000000002.json", "/d/state/0000000003.json"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda files: files[SECOND]["files"].pop(), "lost ['1-1']"),
        (lambda files: files[THIRD]["files"][0].pop("skip"), "too many ['3-0']"),
        (lambda files: files[THIRD]["state"].update(page=2), "too many ['2-0']"),
        (lambda files: files[THIRD]["files"].append(files[SECOND]["files"][1]), "again"),
        (lambda files: files[THIRD].update(items=5), "counts 5 items"),
        (lambda files: files[THIRD].update(parent=1), "checkpoints [2] are not in the lineage"),
        (lambda files: files[THIRD].update(parent_digest="sha256:0"), "not the parent"),
        (lambda files: files[THIRD].update(digest="sha256:0"), "does not fit"),
        (lambda files: files.update({THIRD: b'[{"id": 3,'}), "is not whole"),
        (lambda files: files.update({THIRD: b""}), "is not whole"),
        (lambda files: files.pop(SECOND), "is not there"),
        (lambda files: files.pop("/d/all/2.jsonl"), "is not there"),
        (lambda files: files.update({"/d/all/2.jsonl": b'{"key": "2-0"}\n'}), "says 2 items"),
        (lambda files: files.update({"/d/second/1.csv.gz": files["/d/second/1.csv.gz"][:-9]}), "is not whole"),
        (lambda files: files.update({"/d/all/orphan.jsonl": b'{"key"'}), "is not whole"),
        (lambda files: files.update({"/d/state/.temporary": b""}), "is no state file"),
        (lambda files: files.update({"/d/left": b""}), "is no state file"),
    ],
)
def test_oracle_sees(change: Any, says: str) -> None:
    """The oracle names each thing that can be wrong with what is stored."""
    files = three_checkpoints()
    change(files)
    assert any(says in each for each in report_on(files).wrong)


def test_overwritten_and_removed_files_are_seen() -> None:
    """A file that was changed or removed since the last look is named; a new one is not."""
    unchanged = Unchanged()
    assert unchanged.wrong({"a": b"1", "b": b"2"}) == []
    assert unchanged.wrong({"a": b"3", "c": b"4"}) == ["b was removed", "a was overwritten"]
