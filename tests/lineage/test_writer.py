"""CheckpointWriter: ids, parents, digests, and other writers."""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Any

import pytest
from histories import History

from scrapy_state import Checkpoint
from scrapy_state.exceptions import KeyTaken, StateConflict, StoreRefused, StoreUnreachable
from scrapy_state.lineage.chain import lineage
from scrapy_state.lineage.resolve import Resolution, resolve
from scrapy_state.lineage.writer import CheckpointWriter
from scrapy_state.model.item_file import ItemFile
from scrapy_state.model.key_template import KeyTemplate
from scrapy_state.model.totals import Totals
from scrapy_state.stores import StoreWriter

TEMPLATE = KeyTemplate.parse("state/%(batch_id)010d.json", {})
UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@dataclass
class Memory:
    """A store that fails when it is told to.

    :param before: raised instead of the next writes; *after*: raised once they are done, as when a reply is lost
    :param overwrites: whether it ignores "create only"
    """

    content: dict[str, bytes] = field(default_factory=dict)
    atomic: bool = True
    overwrites: bool = False
    before: list[Exception] = field(default_factory=list)
    after: list[Exception] = field(default_factory=list)
    calls: int = 0

    ordered = False

    def uri(self, key: str) -> str:
        return f"memory://{key}"

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        self.calls += 1
        yield from (key for key in list(self.content) if key.startswith(prefix))

    def read(self, key: str) -> bytes | None:
        self.calls += 1
        return self.content.get(key)

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        data = self.read(key)
        return None if data is None else data[begin:][:size]

    def create(self, key: str, file: IO[bytes]) -> None:
        self.calls += 1
        if self.before:
            raise self.before.pop(0)
        content = file.read()
        if not self.overwrites and self.content.get(key, content) != content:
            raise KeyTaken(f"{key} is there already")
        self.content[key] = content
        if self.after:
            raise self.after.pop(0)


def writer(store: StoreWriter, run: str = "ours", template: KeyTemplate = TEMPLATE, format: str = "json") -> CheckpointWriter:
    return CheckpointWriter(store, template, format=format, spider="flights", run=run, job="1/2/3")


def never() -> Resolution:
    raise AssertionError("no other run has written: the writer must not resolve again")


def opened(store: StoreWriter, run: str = "ours", state: dict[str, Any] | None = None) -> CheckpointWriter:
    """Return a writer that has stored its opening checkpoint, at the newest state there or at *state*."""
    found = resolve(store, TEMPLATE)
    made = writer(store, run)
    start = state if state is not None else found.checkpoint.state if found.checkpoint else {}
    made.open(start, found, never)
    return made


def stored(store: Memory, id: int) -> Checkpoint:
    return Checkpoint.from_bytes(store.content[TEMPLATE.key(id)])


def commit(made: CheckpointWriter, state: dict[str, Any], *files: ItemFile, **options: Any) -> Checkpoint:
    checkpoint = made.next(state, files, **options)
    made.commit(checkpoint)
    return checkpoint


def test_two_runs(place: History) -> None:
    """On every store: one run continues from another, and the lineage counts all items once."""
    store, template = place.store, place.template
    for run, first in (("one", 1), ("two", 4)):
        found = resolve(store, template, "flights")
        made = writer(store, run, template)
        assert made.open(found.checkpoint.state if found.checkpoint else {}, found, never).id == first
        commit(made, {"t": first + 1}, ItemFile("a", 10), ItemFile("b", 7, skip=((5, 7),)))
        commit(made, {"t": first + 2}, ItemFile("c", 1), reason="finished")
    found = resolve(store, template, "flights")
    assert found.checkpoint is not None
    assert found.skipped == ()
    checkpoints = lineage(store, template, found.checkpoint)
    assert [each.id for each in checkpoints] == [6, 5, 4, 3, 2, 1]
    assert [each.run for each in checkpoints] == ["two"] * 3 + ["one"] * 3
    assert found.checkpoint.items == 32 == sum(file.counted for each in checkpoints for file in each.files)


def test_second_run_on_every_store(place: History) -> None:
    """On every store: if two runs write at once, the one that commits later fails, and the error names the other."""
    store, template = place.store, place.template
    one, two = writer(store, "one", template), writer(store, "two", template)
    one.open({}, resolve(store, template), never)
    two.open({}, resolve(store, template), never)
    with pytest.raises(StateConflict, match="belongs to run two"):
        commit(one, {"t": 1})
    assert commit(two, {"t": 1}).id == 3
    assert len(list(store.keys(template.prefix))) == 3


class TestOpening:
    def test_first(self) -> None:
        """On an empty prefix the opening checkpoint is number 1: the state, no parent, no files."""
        store = Memory()
        made = writer(store)
        opening = made.open({"t": 0}, Resolution(), never)
        found = stored(store, 1)
        assert found == opening == made.last
        assert found.time is not None
        assert UTC.fullmatch(found.time)
        assert found == Checkpoint(
            {"t": 0},
            id=1,
            spider="flights",
            run="ours",
            job="1/2/3",
            reason="opened",
            time=found.time,
            crawl=1,
            totals=Totals(),
            digest=found.digest,
        )

    def test_totals(self) -> None:
        """Totals go on from the parent, also in the next run; a parent without any counts as nothing."""
        store = Memory()
        first = writer(store)
        first.open({"t": 0}, Resolution(), never)
        first.commit(first.next({"t": 1}, [ItemFile("file:///a", 1, 70)], spent=Totals(pages=3, seconds=1.5)))
        second = writer(store, "other")
        opening = second.open({"t": 1}, resolve(store, TEMPLATE), never)
        assert opening.totals == Totals(3, 1.5, 70)
        second.commit(second.next({"t": 2}, [ItemFile("file:///b", 1)], spent=Totals(pages=1, seconds=0.5)))
        assert stored(store, 4).totals == Totals(4, 2.0, 70)
        second.last = replace(second.last, totals=None)  # type: ignore[type-var]
        assert second.next({"t": 3}, [], spent=Totals(pages=1)).totals == Totals(1)

    def test_numbers_on(self) -> None:
        """After a valid checkpoint it is its child, with the items and errors counted so far."""
        store = Memory()
        first = opened(store, "one")
        last = commit(first, {"t": 5}, ItemFile("a", 10), errors=2)
        found = opened(store, "two").last
        assert found is not None
        assert (found.id, found.parent, found.parent_digest) == (3, 2, last.digest)
        assert (found.state, found.items, found.errors, found.files, found.overlap) == ({"t": 5}, 10, 2, (), False)

    def test_after_invalid(self) -> None:
        """Its id is one more than the highest there, valid or not; its parent is the newest valid one."""
        store = Memory()
        opened(store, "one")
        store.content[TEMPLATE.key(9)] = b""
        found = opened(store, "two").last
        assert found is not None
        assert (found.id, found.parent) == (10, 1)

    @pytest.mark.parametrize(("state", "overlap"), [({"t": 5}, False), ({"t": 4}, True), ({}, True)])
    def test_overlap(self, state: dict[str, Any], overlap: bool) -> None:
        """A run that begins at another state than its parent's records that items may appear twice."""
        store = Memory()
        commit(opened(store, "one"), {"t": 5})
        opened(store, "two", state)
        assert stored(store, 3).overlap is overlap
        assert stored(store, 3).state == state

    def test_taken_by_invalid_file(self) -> None:
        """If something else has taken the id since, the writer looks again, and takes the next id."""
        store = Memory({TEMPLATE.key(1): b"{"})
        opening = writer(store).open({}, Resolution(), lambda: resolve(store, TEMPLATE))
        assert (opening.id, opening.parent) == (2, None)
        assert store.content[TEMPLATE.key(1)] == b"{"

    def test_taken_at_same_state(self) -> None:
        """If another run has taken the id since, but has stored nothing past our state, we continue after it."""
        store = Memory()
        commit(opened(store, "one"), {"t": 5})
        before = resolve(store, TEMPLATE)
        opened(store, "two")
        opening = writer(store).open({"t": 5}, before, lambda: resolve(store, TEMPLATE))
        assert (opening.id, opening.parent, opening.parent_digest) == (4, 3, stored(store, 3).digest)
        assert not opening.overlap

    def test_taken_at_same_first_state(self) -> None:
        """The same on an empty prefix: two runs that begin at the same first state."""
        store = Memory()
        opened(store, "two", {"t": 0})
        opening = writer(store).open({"t": 0}, Resolution(), lambda: resolve(store, TEMPLATE))
        assert (opening.id, opening.parent) == (2, 1)

    def test_state_moved_on(self) -> None:
        """If another run has stored a later state since, the run must not start from ours: StateConflict, nothing stored."""
        store = Memory()
        commit(opened(store, "one"), {"t": 5})
        before = resolve(store, TEMPLATE)
        commit(opened(store, "two"), {"t": 6})
        with pytest.raises(StateConflict, match=r"another run .* start again") as caught:
            writer(store).open({"t": 5}, before, lambda: resolve(store, TEMPLATE))
        assert "memory://state/" in str(caught.value)
        assert len(store.content) == 4

    def test_first_state_moved_on(self) -> None:
        """The same where there was nothing before."""
        store = Memory()
        commit(opened(store, "two"), {"t": 6})
        with pytest.raises(StateConflict):
            writer(store).open({}, Resolution(), lambda: resolve(store, TEMPLATE))
        assert len(store.content) == 2

    def test_gives_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the id is taken each time, it gives up after a few attempts and some seconds, and names both causes."""
        waited: list[float] = []
        monkeypatch.setattr(time, "sleep", waited.append)
        store = Memory({TEMPLATE.key(1): b"{"})
        with pytest.raises(StateConflict, match=r"another run .* the store lists new files late .* start again"):
            writer(store).open({}, Resolution(), Resolution)
        assert store.calls < 20
        assert 10 < sum(waited) < 30

    @pytest.mark.parametrize("later", [1, 4])
    def test_seen_late(self, monkeypatch: pytest.MonkeyPatch, later: int) -> None:
        """A listing may show the file that took the id late: a run that begins at the same state continues from it."""
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        store = Memory()
        opened(store, "two", {"t": 0})
        seen = iter([Resolution()] * later)
        opening = writer(store).open({"t": 0}, Resolution(), lambda: next(seen, None) or resolve(store, TEMPLATE))
        assert (opening.id, opening.parent) == (2, 1)

    @pytest.mark.parametrize("error", [StoreUnreachable("no answer"), StoreRefused("forbidden")])
    def test_store_fails(self, error: Exception) -> None:
        """A store that fails is an error, and there is no last checkpoint."""
        made = writer(Memory(before=[error]))
        with pytest.raises(type(error)):
            made.open({}, Resolution(), never)
        assert made.last is None

    @pytest.mark.parametrize("explicit", [None, {"t": -1}])
    @pytest.mark.parametrize("earlier", [0, 2])
    @pytest.mark.parametrize("atomic", [True, False])
    def test_lost_reply(self, earlier: int, explicit: dict[str, Any] | None, atomic: bool) -> None:
        """If the reply was lost and the writer opens again, it recognizes its own opening checkpoint."""
        store = Memory(atomic=atomic)
        for number in range(earlier):
            commit(opened(store, f"run {number}"), {"t": number})
        before = resolve(store, TEMPLATE)
        state = explicit or (before.checkpoint.state if before.checkpoint else {})
        made = writer(store)
        store.after.append(StoreUnreachable("no answer"))
        with pytest.raises(StoreUnreachable):
            made.open(state, before, never)
        time.sleep(0.002)  # so that the checkpoint's time differs
        opening = made.open(state, before, lambda: resolve(store, TEMPLATE))
        assert opening.state == state
        assert opening.run == "ours"
        assert commit(made, {"t": 9}).parent == opening.id


class TestCommit:
    @pytest.mark.parametrize("format", ["json", "jsonlines"])
    def test_chain(self, format: str) -> None:
        """Each checkpoint is the child of the one before, by id and digest, in the feed's format."""
        store = Memory()
        made = writer(store, format=format)
        parent = made.open({}, Resolution(), never)
        for id in range(2, 6):
            checkpoint = commit(made, {"t": id}, ItemFile(f"file-{id}", 3))
            assert checkpoint == stored(store, id) == made.last
            assert (checkpoint.id, checkpoint.parent, checkpoint.parent_digest) == (id, parent.id, parent.digest)
            assert checkpoint.to_json()["digest"] == checkpoint.digest
            assert (checkpoint.spider, checkpoint.run, checkpoint.job) == ("flights", "ours", "1/2/3")
            assert store.content[TEMPLATE.key(id)].startswith(b"[{" if format == "json" else b"{")
            parent = checkpoint

    def test_counts(self) -> None:
        """Items and errors are counted along the lineage, skipped ones left out."""
        made = opened(Memory())
        commit(made, {"t": 1}, ItemFile("a", 10), ItemFile("b", 7, 99, ((5, 7),)), errors=1)
        last = commit(made, {"t": 2}, ItemFile("c", 4, None, ((0, 1), (2, 4))), errors=2, reason="finished")
        assert (last.items, last.errors, last.reason) == (16, 3, "finished")
        assert last.files == (ItemFile("c", 4, None, ((0, 1), (2, 4))),)
        assert not last.overlap

    def test_next_does_nothing(self) -> None:
        """next() asks the store for nothing, and changes nothing: it may be called again."""
        store = Memory()
        made = opened(store)
        before = store.calls
        one, two = made.next({"t": 1}, []), made.next({"t": 2}, [])
        assert store.calls == before
        assert one.id == two.id == 2
        assert made.last == stored(store, 1)

    @pytest.mark.parametrize("atomic", [True, False])
    def test_lost_reply(self, atomic: bool) -> None:
        """The same checkpoint may be committed again after its reply was lost, as often as necessary."""
        store = Memory(atomic=atomic)
        made = opened(store)
        checkpoint = made.next({"t": 1}, [])
        store.after += [StoreUnreachable("no answer")] * 2
        for _ in range(2):
            with pytest.raises(StoreUnreachable):
                made.commit(checkpoint)
            assert made.last == stored(store, 1)
        made.commit(checkpoint)
        made.commit(checkpoint)
        assert made.last == checkpoint == stored(store, 2)
        assert commit(made, {"t": 2}).parent_digest == checkpoint.digest

    @pytest.mark.parametrize("error", [StoreUnreachable("no answer"), StoreRefused("forbidden")])
    def test_store_fails(self, error: Exception) -> None:
        """A store that fails is an error, and the last checkpoint stays the one that is stored."""
        store = Memory()
        made = opened(store)
        store.before.append(error)
        with pytest.raises(type(error)):
            commit(made, {"t": 1})
        assert made.last == stored(store, 1)
        assert len(store.content) == 1

    @pytest.mark.parametrize("atomic", [True, False])
    def test_conflict(self, atomic: bool) -> None:
        """If another run took the id, it is named, and its checkpoint stays."""
        store = Memory(atomic=atomic)
        made = opened(store)
        opened(store, "the-other")
        with pytest.raises(StateConflict, match="belongs to run the-other"):
            commit(made, {"t": 1})
        assert stored(store, 2).run == "the-other"
        assert made.last == stored(store, 1)

    @pytest.mark.parametrize("content", [b"", b"{", b'[{"flight": 1}]'])
    @pytest.mark.parametrize("atomic", [True, False])
    def test_taken_by_something_else(self, content: bytes, atomic: bool) -> None:
        """If something else has taken the id, that is a conflict, too, and the file stays."""
        store = Memory(atomic=atomic)
        made = opened(store)
        store.content[TEMPLATE.key(2)] = content
        with pytest.raises(StateConflict, match=f"{TEMPLATE.key(2)}.* is not a checkpoint"):
            commit(made, {"t": 1})
        assert store.content[TEMPLATE.key(2)] == content

    @pytest.mark.parametrize(
        "alter",
        [
            lambda content: b"",
            lambda content: content[:-9],
            lambda content: json.dumps([{**json.loads(content)[0], "digest": None}]).encode(),
            lambda content: content.replace(b'"t": 1', b'"t": 2'),
            lambda content: None,
        ],
        ids=["empty", "torn", "without digest", "altered", "deleted"],
    )
    def test_last_is_read_again(self, alter: Callable[[bytes], bytes | None]) -> None:
        """If the store is not known to be atomic, the last checkpoint must be what we stored; otherwise it is a conflict."""
        store = Memory(atomic=False, overwrites=True)
        made = opened(store)
        commit(made, {"t": 1})
        altered = alter(store.content.pop(TEMPLATE.key(2)))
        if altered is not None:
            store.content[TEMPLATE.key(2)] = altered
        with pytest.raises(StateConflict, match=rf"memory://{TEMPLATE.key(2)}: the file is no longer what this run stored"):
            commit(made, {"t": 2})
        assert TEMPLATE.key(3) not in store.content

    def test_last_overwritten(self) -> None:
        """If the store has overwritten our last checkpoint with another run's, the error names that run."""
        store = Memory(atomic=False, overwrites=True)
        made = opened(store)
        writer(store, "the-other").open({}, Resolution(), never)
        with pytest.raises(StateConflict, match="no longer what this run stored: it belongs to run the-other"):
            commit(made, {"t": 1})

    @pytest.mark.parametrize(("atomic", "calls"), [(True, 1), (False, 2)])
    def test_cheap(self, atomic: bool, calls: int) -> None:
        """A commit is one call to the store; one more if that is not known to be atomic."""
        store = Memory(atomic=atomic)
        made = opened(store)
        before = store.calls
        commit(made, {"t": 1})
        assert store.calls == before + calls


def test_stored_bytes() -> None:
    """What is stored is just the checkpoint's own bytes."""
    store = Memory()
    made = opened(store)
    checkpoint = commit(made, {"t": "é"}, ItemFile("a", 1))
    assert store.content[TEMPLATE.key(2)] == checkpoint.to_bytes("json")
