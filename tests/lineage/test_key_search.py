"""Finding the newest of a million keys in few requests."""

import random
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scrapy_state.lineage.archive import StoreWithRollups
from scrapy_state.lineage.key_search import ListedKeys, SearchedKeys, find_keys
from scrapy_state.model.key_template import KeyTemplate

RUN = "20261121T120000-abcdef"
TEMPLATE = KeyTemplate.parse("state/%(batch_id)010d.json", {})
DIGEST = "sha256:" + "5f" * 32


@dataclass
class Bucket:
    """A store that lists as S3 does: in binary order, 1,000 keys to a request."""

    listed: list[str]
    ordered: bool = True
    shuffled: bool = False
    requests: int = 0
    parts: int = 0
    pages: list[int] = field(default_factory=list)

    def uri(self, key: str) -> str:
        return f"bucket://{key}"

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        found = sorted((key for key in self.listed if key.startswith(prefix) and key > after), key=str.encode)
        if self.shuffled:
            random.Random(1).shuffle(found)
        self.requests += 1
        for number, key in enumerate(found[:limit]):
            if number and number % 1000 == 0:
                self.requests += 1
            yield key

    def read(self, key: str) -> bytes | None:
        raise AssertionError("nothing is read by a search")

    def read_part(self, key: str, begin: int, size: int) -> bytes | None:
        self.parts += 1
        assert size == 1
        return b"[" if key in self.listed else None


@dataclass
class Dense(Bucket):
    """The same with the ids 1 to *count*, and no list of them in memory."""

    count: int = 0

    def keys(self, prefix: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        first = (TEMPLATE.id_of(after) or 0) + 1 if after else 1
        self.requests += 1
        self.pages.append(limit or 0)
        for id in range(first, min(first + (limit or self.count), self.count + 1)):
            yield TEMPLATE.key(id)


#: ids with gaps as pruning leaves them, few or many, and runs of neighbours
IDS = st.sets(
    st.integers(1, 300)
    | st.integers(1, 40_000)
    | st.builds(range, st.integers(1, 9_000), st.integers(9_000, 12_000)).map(lambda each: each[len(each) // 2]),
    max_size=60,
)
FOREIGN = [
    "state/{}.json.bak",
    "state/{}",
    "state/{}-x.json",
    "state/0{}.json",
    "state/{}0.json",
    "state/x{}.json",
    "state/-{}",
]


@given(
    width=st.integers(1, 7),
    suffix=st.sampled_from([".json", "", "/state.json", "_x", "0"]),
    ids=IDS,
    runs=st.lists(st.tuples(st.integers(1, 20_000), st.integers(1, 3_000)), max_size=2),
    foreign=st.lists(st.tuples(st.sampled_from(FOREIGN), st.integers(1, 40_000)), max_size=20),
    asked=st.integers(0, 45_000),
    signposts=st.lists(st.integers(1, 45_000), max_size=2),
)
@example(width=5, suffix=".json", ids=set(), runs=[(1, 1000)], foreign=[], asked=0, signposts=[])
@example(width=5, suffix=".json", ids={40_000}, runs=[(1, 1001)], foreign=[], asked=2000, signposts=[40_000])
@example(width=4, suffix=".json", ids={12_345}, runs=[(1, 9_999)], foreign=[], asked=0, signposts=[])
@example(width=2, suffix="", ids={7, 150}, runs=[(1, 3_000)], foreign=[], asked=99, signposts=[])
@example(width=5, suffix=".json", ids=set(), runs=[(1, 3_000)], foreign=[], asked=99, signposts=[1_500])
@example(width=5, suffix=".json", ids=set(), runs=[(1, 3_000)], foreign=[], asked=99, signposts=[3_001, 9_999])
def test_against_a_sorted_list(
    width: int, suffix: str, ids: set[int], runs: list[tuple[int, int]], foreign: list[tuple[str, int]], asked: int,
    signposts: list[int],
) -> None:  # fmt: skip
    """Whatever ids there are, even with more digits than the template has, whatever else is there, and wherever signposts
    point, the search gives what a sorted list of all keys would: the newest, those downwards from a position, the first one
    upwards from it."""
    template = KeyTemplate.parse(f"state/%(batch_id)0{width}d{suffix.replace('%', '')}", {})
    ids = ids.union(*(range(first, first + count) for first, count in runs))
    keys = {template.key(id) for id in ids} | {text.format(str(number).zfill(width)) for text, number in foreign}
    keys |= {template.signpost(id, DIGEST) for id in signposts if len(str(id)) <= width}
    ordered = [*template.in_order(keys)]
    found = find_keys(Bucket(sorted(keys)), template)
    newest = found.newest()
    assert (newest.key if newest else None) == (ordered[-1] if ordered else None)
    if newest is None:
        return
    assert [each.key for each in islice(found.down(newest.position), 1_200)] == ordered[::-1][:1_200]
    if isinstance(found, ListedKeys):
        return
    below = [key for key in ordered if (template.id_of(key) or 0) <= asked]
    above = [key for key in ordered if (template.id_of(key) or 0) >= asked]
    assert [each.key for each in islice(found.down(asked), 1_200)] == below[::-1][:1_200]
    first = found.up(asked)
    assert (first.key if first else None) == (above[0] if above else None)


@pytest.mark.parametrize("count", [0, 1, 999])
def test_one_page_below_a_thousand(count: int) -> None:
    """Up to 999 checkpoints take one request, even to find those before the newest."""
    store = Dense([], count=count)
    found = find_keys(store, TEMPLATE)
    newest = found.newest()
    assert (newest.position if newest else 0) == count
    assert len(list(found.down(count))) == count
    assert store.requests == 1
    assert store.parts == 1, "is there one that the listing does not show yet?"


@pytest.mark.parametrize("count", [1_000, 1_001, 2_000, 65_536, 999_999, 1_000_000, 31_536_000])
def test_few_requests_for_very_many(count: int) -> None:
    """A million checkpoints take at most 25 requests; only the first and the last return full pages."""
    store = Dense([], count=count)
    newest = find_keys(store, TEMPLATE).newest()
    assert newest is not None
    assert newest.position == count
    assert store.requests <= (25 if count <= 1_000_000 else 35)
    assert sum(store.pages) <= 3_000 + 10 * store.requests


@pytest.mark.parametrize("more", [0, 500])
def test_two_pages_with_a_signpost(more: int) -> None:
    """With a signpost, two pages show the newest of any number of checkpoints, and that none follows it."""
    store = Bucket([TEMPLATE.signpost(20_000, DIGEST), *(TEMPLATE.key(id) for id in range(1, 20_001 + more))])
    found = find_keys(store, TEMPLATE)
    newest = found.newest()
    assert newest is not None
    assert (newest.position, store.requests) == (20_000 + more, 2)
    assert found.is_signposted(20_000, DIGEST)
    assert not found.is_signposted(20_000, "sha256:other")


def test_no_extra_request_where_listings_are_complete() -> None:
    """Only a store that may list late is asked for the checkpoint after the newest."""
    store = Dense([], count=5)
    store.lists_late = False  # type: ignore[attr-defined]
    newest = find_keys(store, TEMPLATE).newest()
    assert newest is not None
    assert (newest.position, store.requests, store.parts) == (5, 1, 0)


def test_segments_cost_nothing() -> None:
    """However many segments of requests are next to the checkpoints, one page of keys is enough for a few checkpoints."""
    segments = [f"state/requests/{RUN}-{number:05d}.tsv.gz" for number in range(5000)]
    bucket = Bucket([TEMPLATE.key(id) for id in range(1, 21)] + segments)
    newest = find_keys(bucket, TEMPLATE).newest()
    assert newest is not None
    assert (newest.position, bucket.requests) == (20, 1)


def test_stored_files_are_no_state_files() -> None:
    """Whatever checkpoints name beside item files is not taken for a state file where only the prefix is known."""
    digest = "5f" * 32
    stored = [f"requests/{RUN}-00001.tsv.gz", f"delta/{RUN}-00001.keys", f"files/{digest}", f"objects/{RUN}-00001.jsonl.gz"]
    stored += [
        f"files/{digest}-{RUN}-00001",
        f"objects/{digest}-{RUN}-00001",
        TEMPLATE.signpost(7, DIGEST).removeprefix("state/"),
    ]
    template = KeyTemplate("state/")
    found = template.in_order([*(f"state/{name}" for name in (*stored, f"objects/{digest}")), "state/files/0000000001.json"])
    assert found == ["state/files/0000000001.json"], "it may be a spider's that is called files"


def test_foreign_keys_beyond_the_digits_cost_nothing() -> None:
    """Keys that sort after the widest id are not listed."""
    store = Bucket([TEMPLATE.key(id) for id in range(1, 2_500)] + [f"state/old/{number:06d}" for number in range(20_000)])
    newest = find_keys(store, TEMPLATE).newest()
    assert newest is not None
    assert newest.position == 2_499
    assert store.requests < 10


ITEMS = [f"state/20261121T{second:06d}-74d768-{number:05d}.jsonl" for second in range(400) for number in range(100)]


@pytest.mark.parametrize("count", [1, 1_000, 12_000])
def test_many_other_files_are_not_paged_through(count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Forty thousand item files among the checkpoints cost a dozen requests, and one line that says what to do."""
    store = Bucket([*(TEMPLATE.key(id) for id in range(1, count + 1)), *ITEMS])
    found = find_keys(store, TEMPLATE)
    newest = found.newest()
    assert newest is not None
    assert newest.position == count
    assert [each.position for each in found.down(count)] == list(range(count, 0, -1))
    store.requests = 0
    find_keys(store, TEMPLATE)
    assert store.requests <= 25
    [line, _] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.fullmatch(rf"bucket://state/: .*10,000 other files .* checkpoint {count}[.] .* folder of their own", line)


@pytest.mark.parametrize(
    ("present", "rollups"), [([50_000, 50_001], []), ([3, 50_000], ["rollup-0000000004-0000049999.tar.gz"])]
)
def test_checkpoints_behind_many_other_files(present: list[int], rollups: list[str]) -> None:
    """Checkpoints behind them are found all the same if there are none before, and if those in between were pruned."""
    others = [f"state/{number:010d}-of-another.json" for number in range(1, 30_000)]
    store = Bucket([*(TEMPLATE.key(id) for id in present), *others, *(f"state/{name}" for name in rollups)])
    newest = find_keys(store, TEMPLATE, newest_pruned=StoreWithRollups(store, TEMPLATE).newest_pruned).newest()
    assert newest is not None
    assert newest.position == present[-1]


@pytest.mark.parametrize("trouble", ["unordered", "shuffled", "unpadded", "times", "bare"])
def test_where_keys_do_not_sort_all_are_listed(trouble: str) -> None:
    """If a bucket lists in no order, or only pretends to, or its keys don't sort by id, all keys are listed."""
    text = {"unpadded": "state/%(batch_id)d.json", "times": "state/%(time)s-%(batch_id)d.json", "bare": "state/"}.get(trouble)
    template = KeyTemplate.parse(text or "state/%(batch_id)010d.json", {})
    keys = [f"state/2026-{id}.json" if trouble == "times" else template.key(id) for id in range(1, 1_500)]
    keys = [TEMPLATE.key(id) for id in range(1, 1_500)] if trouble == "bare" else keys
    store = Bucket(keys, ordered=trouble != "unordered", shuffled=trouble == "shuffled")
    found = find_keys(store, template)
    assert isinstance(found, ListedKeys)
    newest = found.newest()
    assert newest is not None
    assert newest.key == keys[-1]
    assert [each.key for each in found.down(newest.position)] == keys[::-1]
    assert found.up(newest.position) == newest
    assert found.up(newest.position + 1) is None


def test_memory_where_all_are_listed() -> None:
    """Where all keys must be listed, as on a local disk, a start remembers few bytes of each."""
    count = 20_000
    store = Dense([], ordered=False, count=count)
    tracemalloc.start()
    try:
        found = find_keys(store, TEMPLATE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    newest = found.newest()
    assert newest is not None
    assert (newest.position, newest.key) == (count - 1, TEMPLATE.key(count))
    assert peak < 100 * count


def test_ids_that_outgrow_their_digits() -> None:
    """The checkpoint after 999,999 is found in a template of six digits, although its key sorts among the others."""
    template = KeyTemplate.parse("state/%(batch_id)06d.json", {})
    keys = [template.key(id) for id in [*range(1, 1_000_000, 50), 1_000_000, 1_000_001, 1_000_002]]
    found = find_keys(Bucket(keys), template)
    assert isinstance(found, ListedKeys)
    newest = found.newest()
    assert newest is not None
    assert newest.key == "state/1000002.json"
    still = find_keys(Bucket(keys[:-3]), template)
    assert isinstance(still, SearchedKeys)
    newest = still.newest()
    assert newest is not None
    assert newest.position == 999_951
