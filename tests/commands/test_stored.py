"""``scrapy state prune``, ``copy`` and ``verify`` know the segments of requests; ``orphans`` leaves them alone."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
from histories import History, state
from segment_books import Books, segment

from scrapy_state.exceptions import CheckpointError
from scrapy_state.frontier.segments.files import StoredSegments
from scrapy_state.lineage import prune
from scrapy_state.lineage.prune import Pruned, delete_stored, keep_needed, prunable, roll_up
from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.requests import Requests
from scrapy_state.model.stored_file import StoredFile
from scrapy_state.stores.temporary_names import StoredNames

RUN = "20261101T000000-abc000"


def folder(history: History) -> str:
    return f"{history.template.prefix}requests/"


def store(history: History, page: int, at: str = "") -> StoredFile:
    """Store a segment with one page."""
    data = segment(lambda opened: opened.add(page, 0, False, f'"{page}"')).read()
    name = f"{RUN}-{page:05d}.tsv.gz"
    history.store.create((at or folder(history)) + name, io.BytesIO(data))
    return StoredFile(name, len(data), "sha256:" + hashlib.sha256(data).hexdigest())


def checkpoint(id: int, parent: Checkpoint | None, *segments: StoredFile) -> Checkpoint:
    requests = Requests(segments, {"state": {}, "ended": True}, pending=len(segments))
    made = Checkpoint(
        {"page": id},
        id=id,
        parent=parent and parent.id,
        parent_digest=parent and parent.digest,
        run=RUN,
        reason="finished",
        requests=requests,
    )
    return replace(made, digest=made.to_json()["digest"])


def fill(history: History) -> list[StoredFile]:
    """Five checkpoints. The second one names what the first one does; the third one has merged all; the fifth is a branch."""
    a, b, merged, c, d = (store(history, page) for page in range(1, 6))
    one = checkpoint(1, None, a)
    two = checkpoint(2, one, a, b)
    three = checkpoint(3, two, merged)
    four = checkpoint(4, three, merged, c)
    five = checkpoint(5, two, a, b, d)
    history.put(one, two, three, four, five)
    return [a, b, merged, c, d]


def stored(history: History) -> list[int]:
    """The numbers of the segments that are there."""
    return [int(key[-12:-7]) for key in sorted(history.store.keys(folder(history)))]


def pages(history: History, found: Checkpoint) -> list[int]:
    books = Books()
    assert found.requests is not None
    StoredSegments(history.store, folder(history)).read(found.requests.segments, books)
    return [*books.pending]


def read(history: History, id: int) -> Checkpoint:
    data = history.store.read(history.template.key(id))
    assert data is not None
    return Checkpoint.from_bytes(data)


class TestPrune:
    def test_segments(self, place: History) -> None:
        """A segment goes with the last checkpoint, on any branch, that names it; what stays can be read."""
        fill(place)
        ran = state(place, "prune", "--keep", "3")
        assert (ran.code, ran.err) == (0, "")
        assert stored(place) == [1, 2, 3, 4, 5], "the branch needs the first two"
        ran = state(place, "prune", "--keep", "1")
        assert ran.out.endswith("2 state files deleted, 2 of them rolled up now, and 2 other files that only they name\n")
        assert stored(place) == [1, 2, 5]
        assert pages(place, read(place, 5)) == [1, 2, 5]

    def test_merged_away(self, history: History) -> None:
        """What a merge has replaced is deleted with the checkpoints before the merge."""
        fill(history)
        history.store.delete(history.template.key(5))
        assert state(history, "prune", "--keep", "2", "--json").json["stored"] == 2
        assert stored(history) == [3, 4, 5]
        assert pages(history, read(history, 4)) == [3, 4]

    def test_a_pruned_checkpoint(self, history: History) -> None:
        """A checkpoint in a roll-up still says where its requests were; reading them names the remedy."""
        fill(history)
        history.store.delete(history.template.key(5))
        before = read(history, 2)
        state(history, "prune", "--keep", "1")
        ran = state(history, "get", "--at", "2")
        assert ran.code == 0
        with pytest.raises(CheckpointError, match=r"00001\.tsv\.gz: .*missing.*STATE_REQUESTS=False"):
            pages(history, before)

    def test_torn_files_and_foreign_segments(self, history: History) -> None:
        """A torn state file neither stops a prune nor goes; segments that no checkpoint names stay."""
        fill(history)
        store(history, 9)
        history.put_bytes(6, b"[{")
        history.put(checkpoint(7, None))
        ran = state(history, "prune", "--keep", "1")
        assert "0000000006.json stays where it is" in ran.err
        assert stored(history) == [9]

    def test_elsewhere(self, history: History) -> None:
        """STATE_REQUESTS_URI says where segments are deleted; those next to the state files stay."""
        fill(history)
        history.store.delete(history.template.key(5))
        away = f"{history.template.prefix.removesuffix('state/')}private/"
        for page in (1, 2, 3):
            store(history, page, away)
        ran = state(history, "prune", "--keep", "1", "-s", f"STATE_REQUESTS_URI={history.where}/private")
        assert ran.code == 0, ran.err
        assert len([*history.store.keys(away)]) == 1
        assert stored(history) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    def test_killed_at_every_point(self, tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Killed before or after any one of its requests, it has deleted no segment that a kept checkpoint names; the next
        prune does the rest."""
        monkeypatch.setattr(prune, "ROLLUP_FILES", 2)
        for point in range(100):
            history = History(str(tmp_path / f"data-{point}"))
            fill(history)
            history.store.delete(history.template.key(5))
            if self.prune(history, point, after):
                break
            assert pages(history, read(history, 4)) == [3, 4]
            assert self.prune(history, 10**9, after)
            assert stored(history) == [3, 4, 5]
            assert not history.store.read(history.template.key(1))
        assert point == 3 + 2 + 2, "each state file, each roll-up, each segment"

    def prune(self, history: History, at: int, after: bool) -> bool:
        """Prune all but the newest checkpoint; return False if the process was killed at that request."""
        dying = Dying(history.store, at, after)
        keys, pruned = prunable(history.store, history.template, 4, keep=1), Pruned()

        def drop(stored: StoredNames) -> None:
            keep_needed(dying, history.template, keys, stored)
            delete_stored(dying, (folder(history) + name for _, name in stored), pruned)

        try:
            roll_up(dying, history.template, keys, pruned, drop=drop)
        except KeyboardInterrupt:
            return False
        return True


class Dying:
    """A store whose process is killed at a request that changes something: before it, or after it."""

    def __init__(self, store: Any, at: int, after: bool) -> None:
        self._store, self._left, self._after = store, at, after
        self.uri, self.keys, self.read, self.read_part = store.uri, store.keys, store.read, store.read_part
        self.ordered, self.atomic = store.ordered, store.atomic

    def create(self, key: str, file: IO[bytes]) -> None:
        self._count(lambda: self._store.create(key, file))

    def delete(self, key: str) -> None:
        self._count(lambda: self._store.delete(key))

    def probe(self, key: str) -> None:
        raise NotImplementedError

    def _count(self, act: Any) -> None:
        self._left -= 1
        if self._left >= 0 or (self._left == -1 and self._after):
            act()
        if self._left < 0:
            raise KeyboardInterrupt


class TestCopy:
    def test_copy(self, tmp_path: Path, bucket: str, s3_settings: dict[str, str]) -> None:
        """The copy names segments of its own, in the target's folder, with the same content; the source may go."""
        source, target = History(f"s3://{bucket}/data", s3_settings), History(str(tmp_path / "dev"), s3_settings)
        fill(source)
        ran = state(source, "copy", target.uri)
        assert ran.code == 0, ran.err
        for key in [*source.store.keys(folder(source))]:
            source.store.delete(key)
        made = read(target, 1)
        assert (made.version, pages(target, made)) == (2, [1, 2, 5])
        assert made.requests is not None
        assert made.requests.pending == 3
        assert {segment.name[:22] for segment in made.requests.segments} == {made.run}
        assert made.digest == made.to_json()["digest"]

    def test_in_one_folder(self, history: History, tmp_path: Path) -> None:
        """If both have the same folder for requests, pruning one leaves the other whole."""
        target, private = History(str(tmp_path / "dev")), f"-sSTATE_REQUESTS_URI={tmp_path}/private"
        for page in range(1, 6):
            store(history, page, f"{tmp_path}/private/")
        fill(history)
        assert state(history, "copy", target.uri, private).code == 0
        history.put(checkpoint(6, None))
        assert state(history, "prune", "--keep", "1", private).code == 0
        assert state(target, "verify", "--deep", private).code == 0

    def test_missing(self, history: History, tmp_path: Path) -> None:
        """If a segment is missing, nothing is stored, and one error says which."""
        fill(history)
        history.store.delete(folder(history) + f"{RUN}-00002.tsv.gz")
        target = History(str(tmp_path / "dev"))
        ran = state(history, "copy", target.uri)
        assert ran.code != 0
        assert "00002.tsv.gz: the segment is missing" in ran.err
        assert not any(name.endswith(".json") for name in target.state_names())

    def test_without_requests(self, history: History, tmp_path: Path) -> None:
        """A checkpoint without requests is copied as before."""
        history.run(1)
        target = History(str(tmp_path / "dev"))
        assert state(history, "copy", target.uri).code == 0
        assert read(target, 1).version == 1
        assert target.state_names() == ["0000000001.json"]


class TestVerify:
    def test_whole(self, place: History) -> None:
        """Segments that are there are all right."""
        fill(place)
        for deep in ([], ["--deep"]):
            ran = state(place, "verify", *deep)
            assert (ran.code, ran.out.endswith("all right\n")) == (0, True), ran

    def test_wrong(self, place: History) -> None:
        """It names each segment of the newest checkpoint that is missing, or has another size; older ones don't matter."""
        segments = fill(place)
        for name in (segments[0].name, segments[1].name, segments[3].name):
            place.store.delete(folder(place) + name)
        place.store.create(folder(place) + segments[1].name, io.BytesIO(b"x"))
        ran = state(place, "verify")
        assert ran.code == 1
        first, second, last = ran.out.splitlines()
        assert first.endswith(f"requests/{segments[0].name} is missing (prune deletes those of pruned checkpoints)")
        assert second.endswith(f"requests/{segments[1].name} has fewer than {segments[1].bytes} bytes")
        assert last.endswith("2 wrong")
        assert len(state(place, "verify", "--json").json["problems"]) == 2

    def test_deep(self, history: History) -> None:
        """A segment of the right size with other content is found by --deep."""
        a, *_ = fill(history)
        history.store.delete(folder(history) + a.name)
        history.store.create(folder(history) + a.name, io.BytesIO(b"x" * a.bytes))
        assert state(history, "verify").code == 0
        ran = state(history, "verify", "--deep")
        assert ran.code == 1
        assert f"{a.name} is damaged: its digest does not match" in ran.out


class TestMemories:
    """Files of memories, which checkpoints name in folders of their own, are pruned, copied and verified like segments."""

    def keep(self, history: History, *contents: bytes) -> dict[str, Any]:
        """Store a file for each of *contents*; return the memory that names them."""
        stored = []
        for data in contents:
            digest = hashlib.sha256(data).hexdigest()
            history.store.create(f"{history.template.prefix}kept/{digest}", io.BytesIO(data))
            stored.append({"name": digest, "bytes": len(data), "digest": f"sha256:{digest}"})
        return {"stored": stored, "count": len(stored)}

    def fill(self, history: History) -> None:
        """Three checkpoints; the file b, which is empty, is in all of them."""
        contents = ((b"a", b""), (b"", b"c"), (b"", b"c", b"d"))
        history.chain(*(Checkpoint({"n": n}, memories={"kept": self.keep(history, *each)}) for n, each in enumerate(contents)))

    def kept(self, history: History) -> int:
        return len([*history.store.keys(f"{history.template.prefix}kept/")])

    def test_prune(self, place: History) -> None:
        """A file goes with the last checkpoint that names it."""
        self.fill(place)
        assert state(place, "prune", "--keep", "1").out.endswith("and 1 other file that only they name\n")
        assert self.kept(place) == 3

    def test_copy_and_verify(self, history: History, tmp_path: Path) -> None:
        """The copy has the memories and their files; verify finds a damaged and a missing one."""
        self.fill(history)
        target = History(str(tmp_path / "dev"))
        assert state(history, "copy", target.uri).code == 0
        made = read(target, 1)
        assert (made.memories, self.kept(target)) == (read(history, 3).memories, 3)
        assert state(target, "verify", "--deep").code == 0
        first, _, last = made.stored["kept"]
        target.store.delete(f"{target.template.prefix}kept/{first.name}")
        target.store.delete(f"{target.template.prefix}kept/{last.name}")
        target.store.create(f"{target.template.prefix}kept/{last.name}", io.BytesIO(b"x"))
        assert (
            state(target, "verify")
            .out.splitlines()[0]
            .endswith(f"{first.name} is missing (prune deletes those of pruned checkpoints)")
        )
        ran = state(target, "verify", "--deep")
        assert (ran.code, "2 wrong" in ran.out, f"{last.name} is damaged" in ran.out) == (1, True, True)

    def test_set(self, history: History) -> None:
        """A state that is set by hand keeps what else the next run must know."""
        self.fill(history)
        assert state(history, "set", '{"n": 9}', "--yes").code == 0
        assert read(history, 4).memories == read(history, 3).memories


def test_segments_are_no_orphans(tmp_path: Path) -> None:
    """Segments in the folder of an item feed are never listed as its orphans, even if their names fit; other files are."""
    history = History(str(tmp_path / "data"))
    run = history.run(1, reason=None)
    history.run(1)
    items = f"{history.where}/items"
    history.named(history.file(f"{run}-00001.tsv.gz", b"x", 1))
    history.file(f"{run}-00007.tsv.gz", b"x", 1)
    (tmp_path / "spider.py").write_text(f"""
import scrapy
from scrapy_state import StateItem

class Numbers(scrapy.Spider):
    name = "numbers"
    custom_settings = {{
        "ADDONS": {{"scrapy_state.Addon": 500}},
        "FEEDS": {{
            {history.uri!r}: {{"format": "json", "item_classes": [StateItem]}},
            {items + "/%(run_id)s-%(batch_id)05d.tsv.gz"!r}: {{"format": "csv"}},
        }},
    }}
""")
    from commands import run as run_verb

    plain = run_verb(tmp_path, "orphans", "spider.py", "--json")
    assert [uri.rpartition("-")[2] for uri in json.loads(plain.out)] == ["00007.tsv.gz"], plain
    ran = run_verb(tmp_path, "orphans", "spider.py", "--json", "-s", f"STATE_REQUESTS_URI={items}")
    assert json.loads(ran.out) == [], ran
