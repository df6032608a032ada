"""Which checkpoint a run starts from."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from histories import History

from scrapy_state import Checkpoint
from scrapy_state.exceptions import CheckpointError, CheckpointTooNew, StateSettingsError, StoreRefused, StoreUnreachable
from scrapy_state.lineage.chain import lineage, read_checkpoint
from scrapy_state.lineage.resolve import Resolution, resolve
from scrapy_state.model.checkpoint import digest_of
from scrapy_state.model.key_template import KeyTemplate
from scrapy_state.stores import StoreReader

TEMPLATE = KeyTemplate.parse("state/%(batch_id)010d.json", {})


@dataclass
class Memory:
    """A store that counts reads, and fails for the keys it is told to."""

    content: dict[str, bytes] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)
    fails: dict[str, Exception] = field(default_factory=dict)
    reads: int = 0
    most_reads: int = 100

    def uri(self, key: str) -> str:
        return f"memory://{key}"

    ordered = False

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        if "" in self.fails:
            raise self.fails[""]
        yield from (key for key in [*self.content, *self.listed] if key.startswith(prefix))

    def read(self, key: str) -> bytes | None:
        self.reads += 1
        assert self.reads < self.most_reads, "it does not come to an end"
        if key in self.fails:
            raise self.fails[key]
        return self.content.get(key)

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        if key in self.fails:
            raise self.fails[key]
        return self.content[key][begin:][:size] if key in self.content else None

    def put(self, *checkpoints: Checkpoint) -> None:
        for each in checkpoints:
            assert each.id is not None
            self.content[TEMPLATE.key(each.id)] = each.to_bytes()


def chain(count: int, first: int = 1) -> list[Checkpoint]:
    """Return checkpoints, each the child of the one before."""
    found: list[Checkpoint] = []
    for id in range(first, first + count):
        parent = found[-1] if found else None
        made = Checkpoint(
            {"t": id},
            id=id,
            parent=parent.id if parent else None,
            parent_digest=parent.digest if parent else None,
            spider="flights",
            items=10 * id,
        )
        found.append(replace(made, digest=made.to_json()["digest"]))
    return found


def changed(**values: Any) -> Callable[[Checkpoint], bytes]:
    """Return the bytes of a checkpoint with other *values*, and a digest that fits."""
    return lambda checkpoint: json.dumps([{**(data := {**checkpoint.to_json(), **values}), "digest": digest_of(data)}]).encode()


def without_digest(**values: Any) -> Callable[[Checkpoint], bytes]:
    return lambda _: json.dumps([{"state": {"t": -1}, **values}]).encode()


#: the content of the newest checkpoint's file -> what the warning says about it
BAD = [
    (lambda checkpoint: b"", "empty"),
    (lambda checkpoint: checkpoint.to_bytes()[:100], "not whole JSON"),
    (lambda checkpoint: checkpoint.to_bytes()[:-2], "not whole JSON"),
    (lambda checkpoint: checkpoint.to_bytes().replace(b'"t": 7', b'"t": 8'), "altered or damaged"),
    (lambda checkpoint: b'{"flight": "AA1"}\n', "no state"),
    (lambda checkpoint: b"\x89PNG\r\n", "not whole JSON"),
    (changed(spider="trains"), "spider 'trains'"),
    (changed(parent_digest="sha256:" + "0" * 64), "checkpoint 6 is not the parent that it names"),
    (changed(parent=5), "checkpoint 5 is not the parent that it names"),
    (without_digest(parent="six", parent_digest="x"), ""),
    (without_digest(parent=[], parent_digest="x"), ""),
    (without_digest(parent=1.5, parent_digest="x"), ""),
    (without_digest(items="many"), ""),
]


class TestEveryStore:
    def test_nothing_there(self, place: History) -> None:
        """If there is nothing under the prefix, there is no checkpoint, and no error."""
        assert resolve(place.store, place.template) == Resolution()

    def test_newest(self, place: History) -> None:
        """The newest checkpoint is found, whole, with its id, its digest and its URI."""
        checkpoints = chain(12)
        place.put(*checkpoints)
        assert resolve(place.store, place.template, "flights") == Resolution(
            checkpoints[-1], place.state_uri(12), 12, (), checkpoints[-1]
        )

    def test_past_the_padding(self, place: History) -> None:
        """An id that has outgrown its padding is the newest, although its key is not the last in text order."""
        for id in (9_999_999_998, 9_999_999_999, 10_000_000_000):
            place.put(Checkpoint({"t": id}, id=id))
        assert resolve(place.store, place.template).newest_id == 10_000_000_000

    def test_all_kinds_of_bad_files(self, place: History) -> None:
        """Every bad file that is newer is skipped, each with its reason, newest first. The highest id includes them."""
        checkpoints = chain(2)
        place.put(*checkpoints)
        place.put_bytes(5, b"")
        place.put_bytes(7, checkpoints[1].to_bytes()[:50])
        place.put_bytes(30, b'[{"flight": 1}]')
        place.store.create(place.template.prefix + "README", io.BytesIO(b"not one of these"))
        found = resolve(place.store, place.template)
        assert found.checkpoint == checkpoints[1]
        assert found.uri == place.state_uri(2)
        assert found.newest_id == 30
        assert [uri for uri, _ in found.skipped] == [place.state_uri(30), place.state_uri(7), place.state_uri(5)]
        assert [why for _, why in found.skipped] == ["it has no state", "it is not whole JSON", "it is empty"]

    def test_scrapys_own(self, place: History) -> None:
        """Runs resume from files that plain Scrapy wrote; their id is the one in the key."""
        place.put_bytes(3, b'[{"state": {"t": 1}},{"state": {"t": 2}}]')
        assert resolve(place.store, place.template, "flights").checkpoint == Checkpoint({"t": 2}, id=3)

    def test_lineage(self, place: History) -> None:
        """The lineage is the checkpoint and its parents, newest first, without other branches."""
        checkpoints = chain(3)
        branch = replace(checkpoints[1], id=9, digest=None)
        place.put(*checkpoints, branch)
        assert lineage(place.store, place.template, checkpoints[-1]) == checkpoints[::-1]
        found = read_checkpoint(place.store, place.template, place.template.key(9))
        assert found is not None
        assert [each.id for each in lineage(place.store, place.template, found)] == [9, 1]


@pytest.mark.parametrize(("content", "why"), BAD)
@pytest.mark.parametrize("count", [1, 2])
def test_bad_newest_files_are_skipped(content: Callable[[Checkpoint], bytes], why: str, count: int) -> None:
    """Whatever is wrong with the newest file or two, they are skipped, with their URIs and the reasons; their ids count."""
    store = Memory()
    checkpoints = chain(7)
    store.put(*checkpoints)
    bad = [7, 8][:count]
    for id in bad:
        store.content[TEMPLATE.key(id)] = content(checkpoints[-1])
    found = resolve(store, TEMPLATE, "flights")
    assert found.checkpoint == checkpoints[5]
    assert found.uri == store.uri(TEMPLATE.key(6))
    assert found.newest_id == bad[-1]
    assert found.skipped_count == count
    assert found.skipped[0][0] == store.uri(TEMPLATE.key(bad[-1]))
    assert all(why in text for _, text in found.skipped)
    assert len(found.skipped) == 1 or found.skipped[1][0] == store.uri(TEMPLATE.key(bad[0]))


@dataclass
class Lagging(Memory):
    """A store whose listing lacks some keys, as Swift's may for a while."""

    hidden: set[str] = field(default_factory=set)
    ordered: bool = False

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        found = sorted(key for key in super().keys(prefix) if key not in self.hidden and key > after)
        yield from found[:limit]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("hidden", [{3}, {2, 3}, {1, 2, 3}, {2}, {1}])
def test_listing_lags(hidden: set[int], ordered: bool) -> None:
    """Checkpoints that a listing does not show yet are found all the same: the newest, and those before it."""
    store = Lagging(ordered=ordered, hidden={TEMPLATE.key(id) for id in hidden})
    made = chain(3)
    store.put(*made)
    found = resolve(store, TEMPLATE, "flights")
    assert (found.checkpoint, found.newest_id, found.uri) == (made[-1], 3, store.uri(TEMPLATE.key(3)))
    if hidden != {2}:
        store.content[TEMPLATE.key(3)] = b"torn"
        found = resolve(store, TEMPLATE, "flights")
        assert (found.checkpoint, found.newest_id) == (made[1], 3)


def foreign(first: int, count: int, run: str, spider: str = "trains") -> list[Checkpoint]:
    return [Checkpoint({}, id=id, spider=spider, run=run) for id in range(first, first + count)]


@pytest.mark.parametrize("ordered", [True, False])
def test_another_spiders_runs(ordered: bool) -> None:
    """Thousands of checkpoints of another spider are skipped run by run: a few dozen reads, and one reason for all."""
    store = Lagging(ordered=ordered)
    ours = chain(2)
    store.put(*ours, *foreign(3, 20_000, "a"), *foreign(20_003, 3, "b"), *foreign(20_006, 1, "c", "ships"))
    store.reads = 0
    found = resolve(store, TEMPLATE, "flights")
    assert (found.checkpoint, found.newest_id, found.skipped_count) == (ours[-1], 20_006, 20_004)
    assert [uri for uri, _ in found.skipped] == [store.uri(TEMPLATE.key(id)) for id in (20_006, 20_005)]
    assert "'ships'; put %(name)s into" in found.skipped[0][1]
    assert found.skipped[1][1].endswith("URI; likewise 20,002 older ones")
    assert store.reads < 60


@pytest.mark.parametrize("at", [2, -1, datetime(2026, 11, 20, 10, 2, tzinfo=timezone.utc)])
def test_at_beside_another_spiders_runs(at: Any) -> None:
    """STATE_AT skips them in the same way."""
    store = Memory()
    ours = [replace(each, time=f"2026-11-20T10:0{each.id}:00Z") for each in chain(2)]
    last = Checkpoint({"t": 3}, id=10_003, parent=2, spider="flights", time="2026-11-20T10:03:00Z")
    store.put(*(replace(each, parent_digest=None) for each in ours), *foreign(3, 10_000, "a"), last)
    found = resolve(store, TEMPLATE, "flights", at)
    assert found.checkpoint is not None
    assert found.checkpoint.id == 2
    assert store.reads < 60


def test_a_run_between_anothers() -> None:
    """A run of our own between two runs of another spider is never skipped, however short it is and however long they are."""
    for before, between in ((1, 1), (7, 2), (64, 1), (1_000, 3)):
        store = Memory()
        ours = [Checkpoint({"t": id}, id=id, spider="flights", run="ours") for id in range(before + 1, before + between + 1)]
        store.put(*foreign(1, before, "a"), *ours, *foreign(before + between + 1, 500, "b"))
        found = resolve(store, TEMPLATE, "flights").checkpoint
        assert found is not None
        assert found.id == before + between


@pytest.mark.parametrize("kind", ["foreign", "damaged"])
def test_too_many_to_skip(kind: str) -> None:
    """If no valid checkpoint is found among a thousand files, the run does not start from the beginning unless asked to."""
    store = Memory(most_reads=1_100)
    if kind == "damaged":
        store.content = {TEMPLATE.key(id): b"" for id in range(2, 3_000)}
    else:
        store.put(*(each for id in range(2, 3_000) for each in foreign(id, 1, f"run {id}")))
    store.put(*chain(1))
    with pytest.raises(StateSettingsError, match=r"memory://state/: 1,000 files were read.*%\(name\)s.*STATE_AT") as caught:
        resolve(store, TEMPLATE, "flights")
    assert len(str(caught.value)) < 1_000
    store.reads = 0
    for options in ({"at": "none"}, {"or_none": True}):
        store.reads = 0
        found = resolve(store, TEMPLATE, "flights", **options)
        assert (found.checkpoint, found.newest, found.newest_id) == (None, None, 2_999)
    store.reads = 0
    found = resolve(store, TEMPLATE, "flights", 1)
    assert found.checkpoint == chain(1)[0]


def test_only_bad_files() -> None:
    """If no file is valid, there is no checkpoint, but the highest id and the reasons are known."""
    store = Memory({TEMPLATE.key(3): b"", TEMPLATE.key(4): b"{"})
    found = resolve(store, TEMPLATE)
    assert (found.checkpoint, found.uri, found.newest_id, found.skipped_count) == (None, None, 4, 2)


def test_bad_older_files() -> None:
    """Files that are older than the checkpoint and not its parent are not read, and no line mentions them."""
    store = Memory()
    store.put(*chain(5))
    store.content[TEMPLATE.key(2)] = b""
    found = resolve(store, TEMPLATE)
    assert found.checkpoint is not None
    assert found.checkpoint.id == 5
    assert found.skipped == ()
    assert store.reads == 2


@pytest.mark.parametrize("content", [b"", b"{", Checkpoint({"t": 0}, id=6).to_bytes(), b'[{"state": {"t": 6}}]'])
def test_damaged_parent(content: bytes) -> None:
    """A checkpoint whose parent has changed is skipped, and the reason names the parent."""
    store = Memory()
    store.put(*chain(7))
    store.content[TEMPLATE.key(6)] = content
    found = resolve(store, TEMPLATE)
    assert found.skipped[0][0] == store.uri(TEMPLATE.key(7))
    assert "checkpoint 6" in found.skipped[0][1]


def test_parent_gone() -> None:
    """A checkpoint whose parent was deleted is valid."""
    store = Memory()
    store.put(*chain(7))
    del store.content[TEMPLATE.key(6)]
    found = resolve(store, TEMPLATE)
    assert found.checkpoint is not None
    assert found.checkpoint.id == 7


@pytest.mark.parametrize(("first", "reads"), [(7, 1), (5, 2), (1, 2)])
def test_few_requests_after_a_prune(first: int, reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent that the listing shows to be gone is not asked for: then the newest checkpoint is the only one that is read."""
    monkeypatch.setattr(Memory, "ordered", True)
    store = Memory()
    store.put(*chain(7)[first - 1 :])
    found = resolve(store, TEMPLATE)
    assert found.checkpoint is not None
    assert (found.checkpoint.id, store.reads) == (7, reads)


@pytest.mark.parametrize(("id", "digest", "reads"), [(7, None, 1), (7, "sha256:" + "0" * 64, 2), (6, None, 2)])
def test_few_requests_with_a_signpost(id: int, digest: str | None, reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent of exactly the checkpoint that prune has checked is not read again."""
    monkeypatch.setattr(Memory, "ordered", True)
    store, made = Memory(), chain(7)
    store.content[TEMPLATE.signpost(id, digest or made[id - 1].digest or "")] = b""  # it is listed first
    store.put(*made)
    found = resolve(store, TEMPLATE)
    assert found.checkpoint is not None
    assert (found.checkpoint.id, store.reads) == (7, reads)


def test_deleted_since_the_listing() -> None:
    """A file that was deleted since the listing is no reason to stop or to warn; its id counts."""
    store = Memory(listed=[TEMPLATE.key(8)])
    store.put(*chain(7))
    found = resolve(store, TEMPLATE)
    assert found.checkpoint is not None
    assert (found.checkpoint.id, found.newest_id, found.skipped) == (7, 8, ())


@pytest.mark.parametrize("error", [StoreUnreachable("no answer"), StoreRefused("forbidden")])
@pytest.mark.parametrize("where", ["", TEMPLATE.key(7), TEMPLATE.key(6)], ids=["listing", "newest", "parent"])
def test_unreachable_is_never_empty(error: Exception, where: str) -> None:
    """A store that doesn't answer or refuses, at whatever request, is an error: no older checkpoint, no "none" instead."""
    store = Memory(fails={where: error})
    store.put(*chain(7))
    with pytest.raises(type(error)):
        resolve(store, TEMPLATE)


def test_higher_version() -> None:
    """A checkpoint that a newer scrapy_state stored is neither used nor skipped: the run must not start before it."""
    store = Memory()
    checkpoints = chain(7)
    store.put(*checkpoints)
    store.content[TEMPLATE.key(7)] = changed(version=3)(checkpoints[6])
    with pytest.raises(CheckpointTooNew):
        resolve(store, TEMPLATE)


def test_any_spider() -> None:
    """Without a spider's name a checkpoint of any spider is taken."""
    store = Memory()
    store.put(*chain(1))
    assert resolve(store, TEMPLATE, None).checkpoint is not None
    assert resolve(store, TEMPLATE, "trains").checkpoint is None


@pytest.mark.parametrize(
    ("text", "names", "newest_id"),
    [
        ("s/%(batch_time)s.json", ["s/2026-01-01T00-00-00.5+00-00.json", "s/2025-12-31T23-59-59.9+00-00.json"], 0),
        ("s/%(time)s-%(batch_id)d.json", ["s/2026-10.json", "s/2026-9.json", "s/2025-11.json"], 10),
        ("s/%(batch_id)d.json", ["s/10.json", "s/9.json"], 10),
        ("s/", ["s/b.json", "s/a.json"], 0),
    ],
)
def test_read_only_templates(text: str, names: list[str], newest_id: int) -> None:
    """Other templates and a bare prefix can be read: the newest by name counts."""
    store = Memory({name: json.dumps({"state": {"name": name}}).encode() for name in names})
    found = resolve(store, KeyTemplate.parse(text, {}))
    assert found.checkpoint is not None
    assert found.checkpoint.state == {"name": names[0]}
    assert found.newest_id == newest_id


class TestLineage:
    def test_parent_gone(self) -> None:
        """The lineage ends where a parent was deleted."""
        store = Memory()
        checkpoints = chain(5)
        store.put(*checkpoints)
        del store.content[TEMPLATE.key(2)]
        assert [each.id for each in lineage(store, TEMPLATE, checkpoints[-1])] == [5, 4, 3]

    @pytest.mark.parametrize("content", [b"", b"{", Checkpoint({"t": 3}, id=3).to_bytes()])
    def test_damaged(self, content: bytes) -> None:
        """A parent that is damaged, or is not the one that its child names, is an error."""
        store = Memory()
        checkpoints = chain(5)
        store.put(*checkpoints)
        store.content[TEMPLATE.key(3)] = content
        with pytest.raises(CheckpointError):
            lineage(store, TEMPLATE, checkpoints[-1])

    def test_without_digests(self) -> None:
        """Files without digests have a lineage too."""
        store = Memory({TEMPLATE.key(1): b'{"state": {}}', TEMPLATE.key(2): b'{"state": {}, "parent": 1}'})
        newest = read_checkpoint(store, TEMPLATE, TEMPLATE.key(2))
        assert newest is not None
        assert [each.id for each in lineage(store, TEMPLATE, newest)] == [2, 1]

    @pytest.mark.parametrize("parent", [2, 3])
    def test_circle(self, parent: int) -> None:
        """Foreign files that are their own ancestors are an error, not an endless loop."""
        store = Memory(
            {TEMPLATE.key(2): b'{"state": {}, "parent": %d}' % parent, TEMPLATE.key(3): b'{"state": {}, "parent": 2}'}
        )
        newest = read_checkpoint(store, TEMPLATE, TEMPLATE.key(2))
        assert newest is not None
        with pytest.raises(CheckpointError):
            lineage(store, TEMPLATE, newest)

    @pytest.mark.parametrize("error", [StoreUnreachable("no answer"), StoreRefused("forbidden")])
    def test_unreachable(self, error: Exception) -> None:
        """A store that doesn't answer or refuses is an error, never the end of the lineage."""
        checkpoints = chain(3)
        store = Memory(fails={TEMPLATE.key(1): error})
        store.put(*checkpoints)
        with pytest.raises(type(error)):
            lineage(store, TEMPLATE, checkpoints[-1])


def test_read_checkpoint() -> None:
    """A missing checkpoint is None; the id is the one in the key, whatever the file says."""
    store: StoreReader = Memory({TEMPLATE.key(4): Checkpoint({}, id=3).to_bytes()})
    assert read_checkpoint(store, TEMPLATE, TEMPLATE.key(5)) is None
    found = read_checkpoint(store, TEMPLATE, TEMPLATE.key(4))
    assert found is not None
    assert found.id == 4


class TestAt:
    """STATE_AT."""

    @pytest.fixture
    def store(self) -> Memory:
        """1 to 6; 5 and 6 branch off at 3; one minute between each."""
        made = chain(4)
        branch = [replace(each, parent=each.parent and each.parent - 1) for each in chain(2, 5)]
        branch[0] = replace(branch[0], parent=3, parent_digest=None)
        branch[1] = replace(branch[1], parent=5, parent_digest=None)
        store = Memory()
        store.put(*(replace(each, time=f"2026-11-20T10:{each.id:02}:00.000Z", parent_digest=None) for each in [*made, *branch]))
        return store

    @pytest.mark.parametrize(
        ("at", "id"),
        [("latest", 6), ("none", None), (4, 4), (1, 1), (-1, 5), (-2, 3), (-4, 1), ("10:03", 3), ("10:03:59", 3), ("10:59", 6)],
    )
    def test_which(self, store: Memory, at: Any, id: int | None) -> None:
        """An id of any branch, -n along the lineage, a time over all branches; the next id and the newest are still known."""
        if isinstance(at, str) and ":" in at:
            at = datetime.fromisoformat(f"2026-11-20T{at}+00:00")
        found = resolve(store, TEMPLATE, "flights", at)
        assert (found.checkpoint.id if found.checkpoint else None) == id
        assert found.uri == (f"memory://{TEMPLATE.key(id)}" if id else None)
        assert found.newest_id == 6
        assert found.newest is not None
        assert found.newest.id == 6

    @pytest.mark.parametrize("at", [7, -5, -99, datetime(2026, 11, 20, 10, 0, 59, tzinfo=timezone.utc)])
    def test_there_is_none(self, store: Memory, at: Any) -> None:
        """If that checkpoint does not exist, the run does not start from another one."""
        with pytest.raises(
            StateSettingsError, match=r"STATE_AT: no checkpoint under memory://state/ .*newest one is 6\); correct"
        ):
            resolve(store, TEMPLATE, "flights", at)

    @pytest.mark.parametrize("at", [1, -1, datetime(2026, 11, 20, tzinfo=timezone.utc)])
    @pytest.mark.parametrize("content", [{}, {TEMPLATE.key(3): b"torn"}])
    def test_there_is_nothing(self, content: dict[str, bytes], at: Any) -> None:
        """The same is true of a prefix without any valid checkpoint."""
        with pytest.raises(StateSettingsError, match="STATE_AT: there is no valid checkpoint under memory://state/"):
            resolve(Memory(content), TEMPLATE, "flights", at)
        assert resolve(Memory(content), TEMPLATE, "flights", "none").checkpoint is None

    def test_the_named_one_must_be_valid(self, store: Memory) -> None:
        """If STATE_AT gives the id of a torn file or of another spider's, that is an error; for a time, the valid one before
        counts."""
        store.content[TEMPLATE.key(4)] = b"torn"
        with pytest.raises(CheckpointError, match=r"memory://state/0000000004.json: STATE_AT names .* it is not whole"):
            resolve(store, TEMPLATE, "flights", 4)
        store.put(replace(chain(1)[0], spider="trains"))
        with pytest.raises(
            CheckpointError,
            match=r"memory://state/0000000001.json: STATE_AT names .* it belongs to the spider 'trains'",
        ):
            resolve(store, TEMPLATE, "flights", 1)
        found = resolve(store, TEMPLATE, "flights", datetime(2026, 11, 20, 10, 4, tzinfo=timezone.utc))
        assert found.checkpoint is not None
        assert found.checkpoint.id == 3

    def test_time_among_many(self) -> None:
        """Among a thousand checkpoints with gaps and torn files, halving finds a time with few reads."""
        store = Memory()
        begin = datetime(2026, 11, 20, tzinfo=timezone.utc)
        for each in chain(1000):
            if each.id % 7 == 0:  # type: ignore[operator]
                continue
            torn = each.id % 10 == 0  # type: ignore[operator]
            made = replace(each, time=(begin + timedelta(minutes=each.id or 0)).isoformat(), parent_digest=None)
            store.content[TEMPLATE.key(each.id or 0)] = b"" if torn else made.to_bytes()
        for minute in (1, 500, 700, 701, 999):
            store.reads = 0
            found = resolve(store, TEMPLATE, "flights", begin + timedelta(minutes=minute))
            assert found.checkpoint is not None
            assert found.checkpoint.id == max(id for id in range(1, minute + 1) if id % 7 and id % 10)
            assert store.reads < 40

    @pytest.mark.parametrize("text", ["state/%(batch_id)d.json", "state/"])
    @pytest.mark.parametrize("at", [4, -1, -2, datetime(2026, 11, 20, 10, 4, tzinfo=timezone.utc)])
    def test_other_templates(self, store: Memory, text: str, at: Any) -> None:
        """With unpadded ids and under a bare prefix, too: the ids are in the files, and the parents are found."""
        if text != "state/":
            store.content = {f"state/{int(key[6:16])}.json": data for key, data in store.content.items()}
        found = resolve(store, KeyTemplate.parse(text, {}), None, at)
        assert found.checkpoint is not None
        assert found.checkpoint.id == {4: 4, -1: 5, -2: 3}.get(at, 4)

    def test_files_of_scrapys_own_exporter(self) -> None:
        """They name no parent: -n counts files; their time is the one in their names."""
        keys = [f"state/2026-11-20T10-0{minute}-00.000001+00-00.json" for minute in range(5)]
        store = Memory({key: json.dumps([{"state": {"n": n}}]).encode() for n, key in enumerate(keys)})
        template = KeyTemplate.parse("state/%(batch_time)s.json", {})
        for at in (-1, datetime(2026, 11, 20, 10, 4, tzinfo=timezone.utc)):
            found = resolve(store, template, None, at)
            assert found.checkpoint is not None
            assert found.checkpoint.state == {"n": 3}
            assert found.uri == f"memory://{keys[3]}"
        with pytest.raises(StateSettingsError, match=r"STATE_AT is an id, but memory://.* has none"):
            resolve(store, template, None, 3)
        with pytest.raises(StateSettingsError, match="does not say when it was made"):
            resolve(Memory({"state/a": b'{"state": {}}'}), KeyTemplate.parse("state/", {}), None, datetime.now(timezone.utc))
