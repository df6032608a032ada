"""The oracle of crawls with requests: it must see everything that can be wrong."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from typing import Any

import pytest
from any_shape import page_of
from oracle import Feed, digest_of, jsonlines_keys
from requests_oracle import Expected, Report, check

FEEDS = {"all": Feed("/d/all/", jsonlines_keys)}
EXPECTED = Expected(["/p/0#0", "/p/0#1", "/p/1#0", "/p/1#1", "/p/2#0"], page_of, optional=["/p/2#1"])
SEEN = base64.b64encode(bytes(range(24))).decode()


def request(page: int, url: str) -> list[str]:
    return ["+", str(page), "0", "", json.dumps({"url": f"http://site{url}"})]


class Files:
    """A crawl of three pages in three checkpoints, the first two of them with requests."""

    def __init__(self) -> None:
        self.segments = {
            "1.tsv.gz": [request(1, "/p/0"), request(2, "/p/1"), request(3, "/p/2"), ["s", SEEN]],
            "2.tsv.gz": [["-", "1 2"], ["i", "3"], ["d", "3", "1"]],
        }
        self.items = {"1": ["/p/0#0", "/p/0#1", "/p/1#0", "/p/1#1"], "2": ["/p/2#0"]}
        #: for each checkpoint: its item files; its segments, or None; how many of their requests are pending
        self.checkpoints: list[tuple[list[str], list[str] | None, int]] = [
            ([], ["1.tsv.gz"], 3),
            (["1"], ["1.tsv.gz", "2.tsv.gz"], 1),
            (["2"], None, 0),
        ]

    def stored(self, folder: str = "/d/state/requests/") -> dict[str, bytes]:
        files = {f"/d/all/{name}": _lines({"key": key} for key in keys) for name, keys in self.items.items()}
        first = ["segment", '{"version": 1, "run": "r", "spider": "any"}']
        for name, lines in self.segments.items():
            files[folder + name] = gzip.compress("".join("\t".join(line) + "\n" for line in [first, *lines]).encode())
        parent, items = None, 0
        for id, (named, segments, pending) in enumerate(self.checkpoints, 1):
            items += sum(len(self.items[name]) for name in named)
            checkpoint: dict[str, Any] = {"version": 1, "id": id, "parent": id - 1 or None, "parent_digest": parent}
            checkpoint |= {"state": {}, "items": items, "files": [self._file(files, name) for name in named]}
            if segments is not None:
                entries = [_entry(name, files.get(folder + name, b"")) for name in segments]
                checkpoint |= {"version": 2, "requests": {"segments": entries, "pending": pending, "seen": 2}}
            parent = digest_of(checkpoint)
            files[f"/d/state/{id:010}.json"] = json.dumps([{**checkpoint, "digest": parent}]).encode()
        return files

    def _file(self, files: dict[str, bytes], name: str) -> dict[str, Any]:
        return {"uri": f"file:///d/all/{name}", "items": len(self.items[name]), "bytes": len(files[f"/d/all/{name}"])}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "bytes": len(content), "digest": "sha256:" + hashlib.sha256(content).hexdigest()}


def _lines(objects: Any) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in objects).encode()


def report_on(files: dict[str, bytes], over: bool = True, folder: str = "") -> Report:
    return check(files, "/d/state/", FEEDS, EXPECTED, over=over, folder=folder)


@pytest.fixture
def files() -> Files:
    return Files()


def test_oracle_accepts_what_is_right(files: Files) -> None:
    """The oracle has nothing against a whole crawl, whatever lies in its segments, and wherever these lie."""
    assert report_on(files.stored()).wrong == []
    assert report_on(files.stored("/d/apart/"), folder="/d/apart/").wrong == []
    assert report_on(files.stored()).with_requests == 2


def test_oracle_accepts_items_that_may_be_there(files: Files) -> None:
    """A page that failed may have yielded more when it was tried again."""
    files.items["2"] = ["/p/2#0", "/p/2#1"]
    assert report_on(files.stored()).wrong == []


def test_oracle_accepts_a_crawl_that_goes_on(files: Files) -> None:
    """Until the crawl is over, items may be missing and requests pending."""
    del files.checkpoints[2]
    del files.items["2"]
    report = report_on(files.stored(), over=False)
    assert (report.wrong, report.pending) == ([], 1)


def test_oracle_sees_an_item_twice(files: Files) -> None:
    """An item may not be named by two checkpoints, nor twice by one."""
    files.items["2"] += ["/p/1#1"]
    report = report_on(files.stored())
    assert report.twice == ["/p/1#1"]
    assert any("checkpoint 3, feed all has items again: /p/1#1" in each for each in report.wrong)
    files.items["2"] = ["/p/2#0", "/p/2#0"]
    assert report_on(files.stored()).twice == ["/p/2#0"]


def test_oracle_sees_half_a_page(files: Files) -> None:
    """A checkpoint that has one of a page's items has all of them, even if the next one completes them."""
    files.items = {"1": ["/p/0#0", "/p/0#1", "/p/1#0"], "2": ["/p/1#1", "/p/2#0"]}
    assert any("checkpoint 2, feed all has only some of the items of: /p/1" in each for each in report_on(files.stored()).wrong)


def test_oracle_sees_an_optional_item_without_its_page(files: Files) -> None:
    """An item that may be there is half a page without the others."""
    files.items["2"] = ["/p/2#1"]
    assert any("only some of the items of: /p/2" in each for each in report_on(files.stored()).wrong)


def test_oracle_sees_a_pending_page_with_items(files: Files) -> None:
    """A page that the next run fetches again has no items in the lineage, neither in this checkpoint nor in an earlier one."""
    files.segments["2.tsv.gz"][0] = ["-", "2"]
    files.checkpoints[1] = (["1"], ["1.tsv.gz", "2.tsv.gz"], 2)
    assert any("has items of pages that are pending: /p/0" in each for each in report_on(files.stored()).wrong)


def test_oracle_sees_a_page_that_is_pending_again(files: Files) -> None:
    """A page whose items an earlier checkpoint named may not be pending in a later one."""
    files.segments["3.tsv.gz"] = [request(9, "/p/0")]
    files.checkpoints[2] = (["2"], ["1.tsv.gz", "2.tsv.gz", "3.tsv.gz"], 2)
    assert any(
        "checkpoint 3, feed all has items of pages that are pending: /p/0" in each for each in report_on(files.stored()).wrong
    )


def test_oracle_sees_a_lost_page(files: Files) -> None:
    """A crawl that is over has the items of every page."""
    files.items["2"] = []
    report = report_on(files.stored())
    assert report.lost == ["/p/2#0"]
    assert report.wrong == ["1 items are lost: /p/2#0"]


def test_oracle_sees_an_item_that_nobody_expects(files: Files) -> None:
    """The items of a page that must have none, or of no page, are wrong."""
    files.items["2"] += ["/p/7#0"]
    assert any("has items that nobody expects: /p/7#0" in each for each in report_on(files.stored()).wrong)


def test_oracle_sees_requests_that_are_left(files: Files) -> None:
    """A crawl that is over has no request pending."""
    files.checkpoints[2] = (["2"], ["1.tsv.gz"], 3)
    assert "the crawl is over, and 3 requests are pending" in report_on(files.stored()).wrong


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda files: files.pop("/d/state/requests/1.tsv.gz"), "names the segment 1.tsv.gz, which is not there"),
        (
            lambda files: files.update({"/d/state/requests/1.tsv.gz": files["/d/state/requests/2.tsv.gz"]}),
            "with a size or a digest that does not fit",
        ),
        (
            lambda files: files.update({"/d/state/requests/1.tsv.gz": files["/d/state/requests/1.tsv.gz"][:-9]}),
            "the segment 1.tsv.gz is not whole",
        ),
    ],
    ids=["missing", "another", "torn"],
)
def test_oracle_sees_a_damaged_segment(files: Files, change: Any, says: str) -> None:
    """A segment that a checkpoint names is there, whole, and the one that it names."""
    stored = files.stored()
    change(stored)
    assert any(says in each for each in report_on(stored).wrong)


def test_oracle_sees_wrong_counts_and_lines(files: Files) -> None:
    """A checkpoint counts what its segments have; segments have no lines of other kinds."""
    files.checkpoints[1] = (["1"], ["1.tsv.gz", "2.tsv.gz"], 2)
    files.segments["2.tsv.gz"].append(["x", "1"])
    wrong = report_on(files.stored()).wrong
    assert "checkpoint 2 says 2 pending; its segments have 1" in wrong
    assert "the segment 2.tsv.gz has lines of the kinds ['x']" in wrong
