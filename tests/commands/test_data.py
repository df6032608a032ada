"""The verbs that read the data set: items, verify."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import refused
from histories import History, state, zipped

from scrapy_state.model.checkpoint import Checkpoint

pytestmark = pytest.mark.long


class TestItems:
    def test_lineage(self, place: History) -> None:
        """``items`` lists the files of the lineage, oldest first; ``--cat`` prints the items of the lineage, in order."""
        for each in (2, 3):
            place.run(each, pages=2)
        place.run(1, at=3, pages=2)
        uris = state(place, "items").out.split()
        assert [uri.rpartition("-")[2] for uri in uris] == ["00001.jsonl", "00002.jsonl", "00001.jsonl"]
        cat = state(place, "items", "--cat")
        assert [json.loads(line)["page"] for line in cat.out.splitlines()] == [0, 1, 2, 3, 4, 5]
        assert [json.loads(line)["page"] for line in state(place, "items", "--cat", "--at", "7").out.splitlines()] == [
            *range(10)
        ]

    def test_formats(self, history: History) -> None:
        """``--cat`` leaves skipped items out, also of compressed files, prints a CSV header once, and turns lists to lines."""
        lines, rows, listed = (
            b'{"n": 0}\n{"n": 1}\n{"n": 2}\n',
            b'n,t\r\n0,"a\r\n""b"""\r\n1,c\r\n',
            b'[\n{"n": 0},\n{"n": "]}, "}\n]',
        )
        history.named(
            history.file("1.jsonl", lines, 3, [(1, 2)]), history.file("2.jsonl.gz", zipped(lines), 3, [(0, 1), (2, 3)])
        )
        assert state(history, "items", "--cat").out == '{"n": 0}\n{"n": 2}\n{"n": 1}\n'
        history.named(history.file("1.csv", rows, 2, [(0, 1)]), history.file("2.csv.gz", zipped(rows), 2))
        history.named(history.file("1.json", listed, 2), history.file("2.json", listed, 2, [(0, 1)]))
        refused_of_two = state(history, "items", "--cat")
        assert refused_of_two.code == 2
        assert "--only" in refused_of_two.err
        ran = state(history, "items", "--only", "*.xml")
        assert (ran.code, ran.out) == (1, "")
        assert "name no item file whose URI matches *.xml" in ran.err
        found = state(history, "items", "--cat", "--only", "*.csv*")
        assert found.out.replace("\r\n", "\n") == 'n,t\n1,c\n0,"a\n""b"""\n1,c\n'
        assert state(history, "items", "--cat", "--only", "*.json").out == '{"n": 0}\n{"n": "]}, "}\n{"n": "]}, "}\n'

    def test_flagged(self, history: History) -> None:
        """A warning names a file with skipped items, and the manifest has their positions."""
        history.named(history.file("1.jsonl", b"{}\n{}\n", 2, [(1, 2)]), history.file("2.jsonl", b"{}\n", 1))
        ran = state(history, "items")
        assert len(ran.out.splitlines()) == 2
        assert "1 of the 2 items in" in ran.err
        assert "1.jsonl" in ran.err
        lines = [json.loads(line) for line in state(history, "items", "--manifest").out.splitlines()]
        assert [(each["items"], each["bytes"], each["skip"]) for each in lines] == [(2, 6, [[1, 2]]), (1, 3, [])]
        assert state(history, "items", "--json").json == lines

    def test_crawls(self, place: History) -> None:
        """``--crawl`` chooses the items of one crawl; checkpoints from before crawls were counted belong to crawl 1."""
        files = [place.file(f"{n}.jsonl", b'{"n": %d}\n' % n, 1) for n in range(6)]
        numbers = (None, 1, 2, 3, 3, 3)
        place.chain(*(Checkpoint({}, crawl=number, files=(file,)) for number, file in zip(numbers, files, strict=True)))

        def items(*arguments: str) -> list[int]:
            ran = state(place, "items", "--cat", *arguments)
            assert ran.code == 0, ran.err
            return [json.loads(line)["n"] for line in ran.out.splitlines()]

        assert items() == items("--crawl", "all") == [0, 1, 2, 3, 4, 5]
        assert items("--crawl", "last") == items("--crawl", "3") == [3, 4, 5]
        assert (items("--crawl", "1"), items("--crawl", "2")) == ([0, 1], [2])
        assert items("--crawl", "last", "--at", "3") == [2]
        refused(state(place, "items", "--crawl", "4"), 1, "no crawl 4", "the newest is crawl 3")
        refused(state(place, "items", "--crawl", "first"), 2, "first", "last, all")

    def test_what_a_crawl_does_not_need(self, history: History) -> None:
        """What is missing before a crawl does not make its items incomplete; what is missing within it does."""
        files = [history.file(f"{n}.jsonl", b"{}\n", 1) for n in range(4)]
        history.chain(*(Checkpoint({}, crawl=number, files=(file,)) for number, file in zip((1, 1, 2, 2), files, strict=True)))
        history.store.delete(history.template.key(1))
        assert state(history, "items", "--crawl", "2").code == 0
        assert state(history, "items", "--crawl", "1").code == 1
        assert state(history, "items").code == 1

    @pytest.mark.parametrize(
        ("name", "content", "text"),
        [
            ("1.jsonl", b"{}\n", "has 1 items, the checkpoint says 2"),
            ("1.jsonl.gz", zipped(b"{}\n{}\n")[:-9], "can't be read"),
            ("1.json", b"[{}, {}", "can't be read"),
            ("1.csv", b'a\r\n"1\r\n2\r\n', "can't be read"),
        ],
    )
    def test_damaged_files(self, history: History, name: str, content: bytes, text: str) -> None:
        """If the items are not the exact data set, an error names the file."""
        history.named(history.file(name, content, 2))
        ran = state(history, "items", "--cat")
        assert ran.code == 1
        assert name in ran.err
        assert text in ran.err
        assert "Traceback" not in ran.err

    def test_moved(self, history: History, tmp_path: Path) -> None:
        """``--map`` finds files that were moved; without it, the error mentions it."""
        history.run(2)
        (tmp_path / "data" / "items").rename(tmp_path / "elsewhere")
        ran = state(history, "items", "--cat")
        assert ran.code == 1
        assert "--map" in ran.err
        moved = f"{tmp_path}/data/items/={tmp_path}/elsewhere/"
        assert len(state(history, "items", "--cat", "--map", moved).out.splitlines()) == 2
        assert state(history, "verify").code == 1
        assert state(history, "verify", "--deep", "--map", moved).code == 0

    def test_missing_parent(self, history: History) -> None:
        """If a parent is missing, the list is not complete: an error names the parent, and the exit code is 1."""
        history.run(3)
        history.store.delete(history.template.key(2))
        ran = state(history, "items")
        assert ran.code == 1
        assert len(ran.out.splitlines()) == 2
        assert "checkpoint 2 is missing" in ran.err

    def test_flat_memory(self, history: History) -> None:
        """``--cat`` of 100 MB takes hardly more memory than of 4 MB."""
        content = (b'{"text": "%s"}\n' % (b"x" * 1000)) * 4000
        file = history.file("1.jsonl", content, 4000)
        history.named(file)
        history.named(*[file] * 25)
        given = [sys.executable, "-c", _PEAK, "scrapy", "state", "items", history.uri, "--cat"]
        done = subprocess.run(given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, text=True)
        few = subprocess.run([*given, "--at", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, text=True)
        assert int(done.stderr) - int(few.stderr) < 16_000, "kB"


#: Runs a command line and prints its peak memory on stderr, in kB
_PEAK = """
import atexit, resource, sys
from scrapy.cmdline import execute
atexit.register(lambda: sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)))
execute(sys.argv[1:])
"""


class TestVerify:
    def test_all_right(self, place: History) -> None:
        """``verify`` finds nothing wrong with an intact lineage, and prints what it counted."""
        place.run(2, pages=3)
        ran = state(place, "verify", "--deep")
        assert (ran.code, ran.err) == (0, "")
        assert re.fullmatch(r"3 checkpoints, 2 files \(\d+ bytes\), 6 items, counted in 2 files: all right\n", ran.out)
        assert state(place, "verify", "--json").json["items"] == 6

    @pytest.mark.parametrize(
        ("harm", "text", "deep"),
        [
            (lambda history, key: history.store.delete(key), "is not there; checkpoint 3 names it", False),
            (lambda history, key: _change(history, key, b""), "fewer", False),
            (lambda history, key: _change(history, key, b'{"page": 1}\n{"page": 1}\n'), "more", False),
            (lambda history, key: _change(history, key, b'{"page":\n}1\n'), "has 2 items, the checkpoint says 1", True),
        ],
        ids=["gone", "shorter", "longer", "another number of items"],
    )
    def test_files(self, history: History, harm: Callable[[History, str], None], text: str, deep: bool) -> None:
        """``verify`` names a file that is missing, or has another size or (``--deep``) number of items; the exit code is 1."""
        history.run(3)
        harm(history, history.item_keys()[1])
        ran = state(history, "verify", *(["--deep"] if deep else []))
        assert ran.code == 1, ran
        assert text in ran.out
        assert "-00002.jsonl" in ran.out
        assert "1 wrong" in ran.out
        assert len(state(history, "verify", "--json", *(["--deep"] if deep else [])).json["problems"]) == 1

    def test_checkpoints(self, history: History) -> None:
        """``verify`` names a parent that is missing, damaged, or not the one its child names, and a wrong sum of items."""
        history.run(5)
        history.store.delete(history.template.key(2))
        assert "0000000002.json is missing; it is the parent of checkpoint 3" in state(history, "verify").out
        history.replace(4, Checkpoint({"page": 9}, id=4).to_bytes())
        assert "not the parent that checkpoint 5 names" in state(history, "verify").out
        history.replace(4, b"torn")
        assert "the lineage breaks off" in state(history, "verify").out
        history.put(Checkpoint({}, id=7, parent=1, items=3))
        assert "counts 3 items" in state(history, "verify").out


def _change(history: History, key: str, content: bytes) -> None:
    import io

    history.store.delete(key)
    history.store.create(key, io.BytesIO(content))


def test_files_in_another_bucket(history: History, bucket: str, s3_settings: dict[str, str]) -> None:
    """If the files are elsewhere than the checkpoints, ``verify`` says where it has read them, and how to check copies."""
    elsewhere = History(f"s3://{bucket}/data", s3_settings)
    history.settings = s3_settings
    history.named(elsewhere.file("a.jsonl", b"{}\n", 1))
    ran = state(history, "verify")
    assert ran.code == 0, ran
    assert ran.err.startswith(f"note: item files were read from s3://{bucket}, and the checkpoints are in file://.")
    assert f"--map s3://{bucket}/=file:///" in ran.err
    history.run(1)
    assert state(elsewhere, "verify").err.startswith("no checkpoint at")


@pytest.mark.parametrize("verb", [("verify",), ("items", "--cat")])
def test_bucket_that_is_gone(history: History, bucket: str, s3_settings: dict[str, str], verb: tuple[str, ...]) -> None:
    """If the files are in a bucket that is gone, the error says how to read those that were moved."""
    file = History(f"s3://{bucket}/data", s3_settings).file("a.jsonl", b"{}\n", 1)
    history.settings = s3_settings
    history.named(replace(file, uri=file.uri.replace(bucket, "gone")))
    ran = state(history, *verb)
    assert ran.code == 3, ran
    assert "add --map s3://gone/=file:///" in ran.err
