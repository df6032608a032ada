"""Segments: what changed between two cuts, written, read and merged."""

from __future__ import annotations

import errno
import gc
import gzip
import hashlib
import io
import json
import random
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import IO, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_books import Books, read, segment, written

from scrapy_state.exceptions import CheckpointError, CheckpointTooNew, StoreError
from scrapy_state.frontier.segments import OpenSegment, merge, read_lines, read_segments, to_merge

REQUEST = '{"url":"http://a.example/ü\u2028"}'


def lines(file: IO[bytes]) -> list[str]:
    """The lines of a segment, without the first one."""
    file.seek(0)
    return gzip.decompress(file.read()).decode().split("\n")[1:-1]


def everything(opened: OpenSegment) -> None:
    """Every kind of change."""
    opened.add(7, -3, True, REQUEST)
    opened.add(8, 0, False, b'{"url":"http://a.example/8"}')
    opened.add(9, 5, False, "{}")
    opened.settle(3)
    opened.saw(bytes(range(20)))
    opened.form("0123456789abcdef")
    opened.form("0123456789abcdef")
    opened.deaths(8, 2)
    opened.failed("http://a.example/404", "HTTP\n404")
    opened.held(9, "HTTP 403", ["fedcba9876543210"])
    opened.cookies({"jar": None, "cookies": [{"name": "a", "value": "b\tc"}]})
    opened.name("callback", "parse_über")


def test_what_is_written_is_read() -> None:
    """A reader gets every kind of change back."""
    assert read(segment(everything, [8, 9])) == {
        "pending": {
            7: (-3, True, REQUEST.encode()),
            8: (0, False, b'{"url":"http://a.example/8"}'),
            9: (5, False, b"{}"),
        },
        "seen": {bytes(range(12))},
        "forms": {"0123456789abcdef": 2},
        "died": {8: 2},
        "failures": [{"url": "http://a.example/404", "reason": "HTTP\n404"}],
        "kept_back": {9: {"reason": "HTTP 403", "sent": ["fedcba9876543210"]}},
        "jars": {"null": [{"name": "a", "value": "b\tc"}]},
        "names": {("callback", "parse_über")},
        "flying": [8, 9],
    }


def test_a_page_that_comes_and_goes_leaves_no_trace() -> None:
    """A page that is settled before the cut is not stored, nor what was noted about it."""

    def fill(opened: OpenSegment) -> None:
        opened.add(1, 0, False, REQUEST)
        opened.deaths(1, 1)
        opened.held(1, "why", [])
        opened.settle(1)
        assert opened.empty

    assert lines(segment(fill)) == []


def test_forms_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting says so in one line, however often, and forms that were written in between don't count."""
    monkeypatch.setattr("scrapy_state.frontier.segments.segment.A_LINE", 2)

    def changes(opened: OpenSegment) -> None:
        for _ in range(3):
            opened.forget_forms()
        for _ in range(2):
            opened.form("a" * 16)  # enough for a line
        opened.forget_forms()
        opened.form(lambda: "b" * 16)

    assert read(segment(changes))["forms"] == {"b" * 16: 1}
    assert lines(segment(changes)).count("O") == 2


def test_empty() -> None:
    """Each kind of change counts; a new segment has none."""
    calls: list[Callable[[OpenSegment], object]] = [
        lambda opened: opened.add(1, 0, False, "{}"),
        lambda opened: opened.settle(1),
        lambda opened: opened.saw(b"x" * 20),
        lambda opened: opened.form("0" * 16),
        lambda opened: opened.forget_forms(),
        lambda opened: opened.deaths(1, 1),
        lambda opened: opened.failed("u", "r"),
        lambda opened: opened.held(1, "r", []),
        lambda opened: opened.cookies({"jar": 1, "cookies": []}),
        lambda opened: opened.name("class", "a.B"),
    ]
    assert OpenSegment("r", "s").empty
    for call in calls:
        opened = OpenSegment("r", "s", io.BytesIO)
        call(opened)
        assert not opened.empty


def test_put_back() -> None:
    """A page that is settled and added again is pending, whether or not it was compressed in between."""
    for others in (0, 20_000):

        def fill(opened: OpenSegment, others: int = others) -> None:
            opened.settle(1)
            opened.add(1, 0, False, '"new"')
            for page in range(10, 10 + others):
                opened.add(page, 0, False, "{}")

        assert read(segment(lambda opened: opened.add(1, 0, False, '"old"')), segment(fill))["pending"][1][2] == b'"new"'


def test_the_same_changes_give_the_same_file() -> None:
    """A segment doesn't depend on when it was made; its size and digest are those of the file."""
    made = []
    for _ in range(2):
        opened = OpenSegment("r", "s", io.BytesIO)
        everything(opened)
        made.append(opened.finish([8]))
    (file, size, digest), (again, *_) = made
    data = file.read()
    assert data == again.read()
    assert (size, digest) == (len(data), "sha256:" + hashlib.sha256(data).hexdigest())


def test_many_pages_take_little_memory() -> None:
    """Beyond some thousand, pages go to a file: a hundred thousand take a few megabytes, and all of them can be read."""
    opened = OpenSegment("r", "s")
    tracemalloc.start()
    try:
        for page in range(100_000):
            opened.add(page, 0, False, json.dumps({"url": f"http://a.example/{page}", "pad": "x" * 200}))
            opened.saw(page.to_bytes(20, "big"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    for page in range(0, 100_000, 2):
        opened.settle(page)
    assert peak < 8 << 20
    with opened.finish([])[0] as file:
        found = read(file)
    assert [*found["pending"]] == [*range(1, 100_000, 2)]


def test_large_requests_take_little_memory() -> None:
    """What waits is limited by bytes, too."""
    opened = OpenSegment("r", "s")
    tracemalloc.start()
    try:
        for page in range(100):
            opened.add(page, 0, False, b'"%s"' % random.Random(page).randbytes(250_000).hex().encode())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    with opened.finish([])[0] as file:
        assert len(read(file)["pending"]) == 100


def test_a_line_break_is_refused() -> None:
    """What would tear a segment is refused when it is added."""
    for request in ('{"a":\n1}', b'{"a":\t1}'):
        with pytest.raises(ValueError, match="line breaks"):
            OpenSegment("r", "s").add(1, 0, False, request)


def test_lines() -> None:
    """A segment is lines of fields; no fields but an O has none."""
    assert dict(read_lines(segment(everything, [8]))) | {"+": [], "c": []} == {
        "+": [],
        "-": ["3"],
        "s": ["AAECAwQFBgcICQoL"],
        "o": ["0123456789abcdef", "2"],
        "d": ["8", "2"],
        "f": ['{"url":"http://a.example/404","reason":"HTTP\\n404"}'],
        "h": ["9", '{"reason":"HTTP 403","sent":["fedcba9876543210"]}'],
        "c": [],
        "n": ["callback", "parse_über"],
        "i": ["8"],
    }


def test_the_newest_segment_says_what_is_in_flight() -> None:
    """Pages in flight at an earlier cut don't count."""
    assert read(segment(in_flight=[1, 2]), segment(in_flight=[3]))["flying"] == [3]
    assert read(segment(in_flight=[1, 2]), segment())["flying"] == []


def test_the_first_thousand_failures() -> None:
    """A reader hears of the first 1,000 failed pages of a crawl."""
    several = [written(*(f'f\t{{"url":"{n}","reason":""}}' for n in range(first, first + 600))) for first in (0, 600)]
    for files in (several, [merged(several, True)], [merged(several, False)]):
        assert [each["url"] for each in read(*files)["failures"]] == [str(n) for n in range(1000)]


DAMAGED = {
    "no gzip": io.BytesIO(b"segment\t{}\n"),
    "empty": io.BytesIO(),
    "no first line": written(first="+\t1\t0\t\t{}"),
    "no version": written(first='segment\t{"run":"r"}'),
    "a strange version": written(first='segment\t{"version":"1"}'),
    "a list": written(first="segment\t[1]"),
    "an unknown kind": written("x\t1"),
    "an empty line": written(""),
    "too few fields": written("+\t1\t0"),
    "no number": written("+\tone\t0\t\t{}"),
    "no page": written("- "),
    "a torn base64": written("s\tAAA"),
    "a short fingerprint": written("s\tAAAA"),
    "no count": written("o\t0123456789abcdef"),
    "no deaths": written("d\t1"),
    "no object": written("f\t1"),
    "no reason": written('h\t1\t{"sent":[]}'),
    "no JSON": written("c\t{"),
    "deep JSON": written("c\t" + "[" * 200_000),
    "no name": written("n\tcallback"),
    "a torn line": io.BytesIO(gzip.compress(b'segment\t{"version":1}\n-\t1')),
}


@pytest.mark.parametrize("file", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_noticed(file: IO[bytes]) -> None:
    """Whatever is wrong with a segment, reading it says that it is damaged."""
    with pytest.raises(CheckpointError, match="damaged"):
        read(file)


@pytest.mark.parametrize(
    "file", [DAMAGED[name] for name in ("no gzip", "empty", "an unknown kind", "an empty line", "a torn line")]
)
def test_a_merge_notices_damage(file: IO[bytes]) -> None:
    """A damaged segment is never merged into a whole one."""
    with pytest.raises(CheckpointError, match="damaged"):
        merge([written("-\t1"), file], False, io.BytesIO())


def test_a_torn_or_altered_file_is_noticed() -> None:
    """A segment that is cut off anywhere, or of which any byte is changed, is damaged, or says the same."""
    whole = segment(everything, [8])
    data, books = whole.read(), read(whole)
    for end in range(len(data)):
        with pytest.raises(CheckpointError, match="damaged"):
            read(io.BytesIO(data[:end]))
    for at in range(len(data)):
        with suppress(CheckpointError):
            assert read(io.BytesIO(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])) == books


def test_a_newer_version_is_refused() -> None:
    """A segment of a newer version is neither damaged nor guessed at."""
    for reads in (read, lambda file: merge([file], True, io.BytesIO())):
        with pytest.raises(CheckpointTooNew, match=r"version 2.*newer scrapy_state"):
            reads(written(first='segment\t{"version":2}'))


def test_a_line_without_end_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that unpacks to one endless line is refused as soon as the line is longer than any request."""
    monkeypatch.setattr("scrapy_state.frontier.segments.lines._LONGEST_LINE", 1 << 20)
    bomb = io.BytesIO(gzip.compress(b'segment\t{"version":1}\nc\t' + b" " * (64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="no end"):
            read(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_an_error_of_the_target_is_not_damage() -> None:
    """What the target raises reaches the caller as it is."""

    class Strict(Books):
        def add(self, *args: Any) -> None:
            raise ValueError("strict")

    with pytest.raises(ValueError, match=r"^strict$"):
        read_segments([segment(everything)], Strict())


PAGES = st.integers(1, 12)
HASHES = st.sampled_from(["a" * 16, "b" * 16, "c" * 16])
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), PAGES, st.integers(-2, 2), st.booleans()),
        st.tuples(st.just("settle"), PAGES),
        st.tuples(st.just("saw"), st.binary(min_size=12, max_size=12)),
        st.tuples(st.just("form"), HASHES),
        st.tuples(st.just("forget_forms")),
        st.tuples(st.just("deaths"), PAGES, st.integers(1, 5)),
        st.tuples(st.just("failed"), st.text(max_size=3)),
        st.tuples(st.just("held"), PAGES, st.text(max_size=3), st.lists(HASHES, max_size=2)),
        st.tuples(st.just("cookies"), st.sampled_from([None, 1, "1"]), st.integers()),
        st.tuples(st.just("name"), st.sampled_from(["callback", "class"]), st.sampled_from(["a", "b"])),
        st.tuples(st.just("cut"), st.lists(PAGES, max_size=3)),
    ),
    max_size=60,
)


def crawl(changes: list[Any]) -> tuple[list[IO[bytes]], dict[str, Any]]:
    """Return the segments of a crawl with these changes, and what they should say. A page lives once; it may be overridden."""
    books = Books()
    files: list[IO[bytes]] = []
    opened = OpenSegment("r", "s", io.BytesIO)
    over: set[int] = set()
    for kind, *args in [*changes, ("cut", [])]:
        page = args[0] if args else None
        if kind == "cut":
            files.append(opened.finish(args[0])[0])
            books.in_flight(args[0])
            opened = OpenSegment("r", "s", io.BytesIO)
        elif kind == "add" and page not in over:
            data = json.dumps({"n": len(files), "a": args}).encode()
            opened.add(*args, data, again=page in books.pending)
            books.add([(*args, data)])
        elif kind == "settle" and page in books.pending:
            over.add(page)
            opened.settle(page)
            books.remove([page])
        elif kind == "saw":
            opened.saw(page)
            books.saw(page)
        elif kind == "form":
            opened.form(page if len(files) % 2 else lambda hash=page: hash)
            books.form(page, 1)
        elif kind == "forget_forms":
            opened.forget_forms()
            books.forget_forms()
        elif kind == "deaths" and page in books.pending:
            opened.deaths(*args)
            books.deaths(*args)
        elif kind == "failed":
            opened.failed(page, "why")
            books.failed({"url": page, "reason": "why"})
        elif kind == "held" and page in books.pending:
            opened.held(*args)
            books.held(page, {"reason": args[1], "sent": args[2]})
        elif kind == "cookies":
            jar = {"jar": page, "cookies": [args[1]]}
            opened.cookies(jar)
            books.cookies(jar)
        elif kind == "name":
            opened.name(*args)
            books.name(*args)
    return files, vars(books)


def merged(files: list[IO[bytes]], is_oldest: bool) -> IO[bytes]:
    into = io.BytesIO()
    size, digest = merge(files, is_oldest, into)
    assert (size, digest) == (len(into.getvalue()), "sha256:" + hashlib.sha256(into.getvalue()).hexdigest())
    return into


@settings(max_examples=300, deadline=None)
@given(changes=CHANGES, small=st.booleans(), cut=st.data())
def test_segments_say_what_happened_merged_or_not(changes: list[Any], small: bool, cut: Any) -> None:
    """Whatever the changes, wherever cuts fall, and whichever segments are merged, in any order, readers get the same."""
    with pytest.MonkeyPatch.context() as patch:
        if small:  # so that even these few changes are compressed along the way
            patch.setattr("scrapy_state.frontier.segments.segment._WAITING_LINES", 3)
            patch.setattr("scrapy_state.frontier.segments.segment._SLICE_LINES", 2)
            patch.setattr("scrapy_state.frontier.segments.merging._MOST_FORMS", 2)
        files, expected = crawl(changes)
        assert read(*files) == expected
        while len(files) > 1:
            begin = cut.draw(st.integers(0, len(files) - 1))
            end = cut.draw(st.integers(begin + 1, len(files)))
            if end - begin == 1 and begin:
                begin -= 1
            files[begin:end] = [merged(files[begin:end], begin == 0)]
            assert read(*files) == expected


def test_a_merge_of_the_oldest_keeps_only_what_is_there() -> None:
    """It contains neither removed pages nor what removed them; marks of pages that are gone go with them."""
    older = written("+\t1\t0\t\t{}", "+\t2\t0\t\t{}", "d\t1\t3", "O", 'c\t{"jar":1,"cookies":[1]}', "i\t1")
    newer = written("-\t1", "o\t0123456789abcdef\t1", "o\t0123456789abcdef\t2", 'c\t{"jar":1,"cookies":[2]}', "i\t2")
    assert lines(merged([older, newer], True)) == [
        "+\t2\t0\t\t{}",
        'c\t{"jar":1,"cookies":[2]}',
        "i\t2",
        "o\t0123456789abcdef\t3",
    ]


def test_a_merge_of_newer_ones_keeps_what_removes() -> None:
    """It still removes pages of older segments, even one that it overrides, forgets their forms, and keeps a page put back."""
    oldest = written("+\t1\t0\t\t{}", "+\t2\t0\t\t{}", "+\t3\t0\t\t{}", "o\t0123456789abcdef\t1", "n\tclass\ta.B")
    newer = [written("+\t1\t5\t\t{}", "O", "-\t3", "n\tclass\tc.D"), written("-\t1 2", "+\t3\t7\t\t{}", "n\tclass\tc.D")]
    both = merged(newer, False)
    assert lines(both) == ["O", "n\tclass\tc.D", "+\t3\t7\t\t{}", "-\t1 2"]
    for books in (read(oldest, both), read(oldest, *newer), read(merged([oldest, both], True))):
        assert books["pending"] == {3: (7, False, b"{}")}
        assert not books["forms"]


def test_a_merge_fills_the_lines() -> None:
    """Short lines of fingerprints from many cuts become long ones."""
    short = [written(*(f"s\t{'A' * 14}{n:02d}" for n in range(40))) for _ in range(30)]
    assert [len(line) for line in lines(merged(short, True))] == [2 + 8000, 2 + 8000, 2 + 3200]


def test_a_merge_takes_little_memory() -> None:
    """Merging 100,000 pages, half of them removed, takes a few megabytes."""
    pages = segment(lambda opened: [opened.add(n, 0, False, f'"{n:0200d}"') for n in range(100_000)])
    gone = segment(lambda opened: [opened.settle(n) for n in range(0, 100_000, 2)])
    tracemalloc.start()
    try:
        into = merged([pages, gone], False)
        peak = tracemalloc.get_traced_memory()[1] - len(into.getvalue())
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


SIZES = {
    "equal": lambda rng: 1000,
    "log-normal": lambda rng: int(rng.lognormvariate(9, 2)) + 20,
    "Pareto": lambda rng: int(1000 * rng.paretovariate(0.8)),
    "uniform": lambda rng: rng.randrange(20, 100_000),
    "a large one first": None,
}


def simulate(sizes: list[int]) -> tuple[float, int]:
    """Return how many bytes merges write for each byte that cuts write, and the most segments there are."""
    segments: list[int] = []
    written = most = 0
    for size in sizes:
        segments.append(size)
        most = max(most, len(segments))
        found = to_merge(segments)
        if found is not None:
            begin, end = found
            assert 0 <= begin < end - 1 < end == len(segments)
            written += sum(segments[begin:end])
            segments[begin:end] = [sum(segments[begin:end])]
        assert to_merge(segments) is None
    return written / sum(sizes), most


@pytest.mark.parametrize("kind", SIZES)
def test_merges_are_few(kind: str) -> None:
    """After 3,000 cuts of any sizes, at most 8 segments were there at any time, and each byte was rewritten 8 times or less."""
    rng = random.Random(3)
    make = SIZES[kind]
    sizes = [10_000_000] + [200] * 2999 if make is None else [make(rng) for _ in range(3000)]
    amplification, most = simulate(sizes)
    assert most <= 8
    assert amplification <= 8


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=200))
def test_any_sizes_can_be_merged(sizes: list[int]) -> None:
    """Whatever the sizes are, few segments stay, and a merge never takes just one."""
    simulate([size + 1 for size in sizes])
    found = to_merge(sizes)
    assert (found is None) == (len(sizes) <= 7)
    if found is not None:
        assert found[1] == len(sizes)
        assert len(sizes) - (found[1] - found[0]) + 1 <= 7


def test_larger_crawls_merge_little_more() -> None:
    """The writes per byte grow with the logarithm of the number of cuts, not with the number."""
    written = [simulate([1000] * number)[0] for number in (300, 3000, 30_000)]
    assert all(more - less < 5 for less, more in pairwise(written)), written


class Full(io.BytesIO):
    """A file on a full disk."""

    full = True

    def write(self, data: Any) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_is_reported_when_the_segment_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """If changes can't be written to the temporary file, nobody who notes one is disturbed; but no checkpoint follows. What
    is left over says nothing more when it is collected."""
    monkeypatch.setattr("scrapy_state.frontier.segments.segment._WAITING_LINES", 3)
    changes = OpenSegment("20261121T015756-924cd5", "links", Full)
    for page in range(1, 20):
        changes.add(page, 0, False, REQUEST)
    assert not changes.empty
    with pytest.raises(StoreError, match="No space left on device; make room"):
        changes.finish([])
    del changes
    gc.collect()  # pytest fails the test if a finalizer raises


def test_a_disk_that_is_full_only_when_the_segment_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the changes is written when the segment is finished: if that fails, the error is the same."""
    monkeypatch.setattr("scrapy_state.frontier.segments.segment._WAITING_LINES", 3)
    monkeypatch.setattr(Full, "full", False)
    changes = OpenSegment("20261121T015756-924cd5", "links", Full)
    for page in range(1, 20):
        changes.add(page, 0, False, REQUEST)
    monkeypatch.setattr(Full, "full", True)
    with pytest.raises(StoreError, match="No space left on device; make room"):
        changes.finish([])
