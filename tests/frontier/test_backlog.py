"""The backlog of pending requests: one contract, in memory and on the disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrapy_state.exceptions import StateError
from scrapy_state.frontier.backlog import Backlog, DiskBacklog, Entry, MemoryBacklog

Make = Callable[..., Backlog]


@pytest.fixture(params=["memory", "disk"], scope="module")
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """How to make a backlog: first_out and start_first_out as keywords, LIFO without a queue for start requests by default."""
    folder, made = tmp_path_factory.mktemp("backlog"), list[Backlog]()

    def make(first_out: bool = False, start_first_out: bool | None = None) -> Backlog:
        if request.param == "memory":
            return MemoryBacklog(first_out, start_first_out)
        made.append(DiskBacklog(str(folder), first_out, start_first_out))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert list(folder.iterdir()) == []


def pages(entries: list[Entry]) -> list[int]:
    return [each.page for each in entries]


class Model:
    """A list that is sorted whenever it is asked."""

    def __init__(self, first_out: bool, start_first_out: bool | None) -> None:
        self.first_out, self.start_first_out = first_out, start_first_out
        self.entries: list[Entry] = []

    def key(self, entry: Entry) -> tuple[int, bool, int]:
        first_out = self.start_first_out if entry.is_start else self.first_out
        return -entry.priority, entry.is_start, entry.page if first_out else -entry.page

    def pop(self, count: int) -> list[Entry]:
        self.entries.sort(key=self.key)
        popped, self.entries = self.entries[:count], self.entries[count:]
        return popped


ENTRY = st.tuples(st.integers(0, 2000), st.integers(-2, 2) | st.integers(-(2**62), 2**62), st.booleans(), st.binary(max_size=5))
STEP = st.one_of(
    st.tuples(st.just("push"), st.lists(ENTRY, max_size=20)),
    st.tuples(st.just("pop"), st.integers(0, 12)),
    st.tuples(st.just("remove"), st.lists(st.integers(0, 2000) | st.integers(0, 8), max_size=12)),
    st.tuples(st.just("again"), st.integers(0, 30)),
)


@given(first_out=st.booleans(), start_first_out=st.sampled_from([None, False, True]), steps=st.lists(STEP, max_size=15))
def test_it_behaves_as_a_sorted_list(
    make: Make, first_out: bool, start_first_out: bool | None, steps: list[tuple[str, Any]]
) -> None:
    """Whatever is pushed, popped and removed, in any order of pages: what comes out, and in which order, is what a sorted list
    gives; so are the length and the highest priority after each step."""
    backlog, model = make(first_out=first_out, start_first_out=start_first_out), Model(first_out, start_first_out)
    for what, argument in steps:
        if what == "push":
            for entry in argument:
                if entry[0] not in pages(model.entries):
                    backlog.push([entry])
                    page, priority, is_start, data = entry
                    model.entries.append(Entry(page, priority, is_start and start_first_out is not None, data))
        elif what == "pop":
            assert backlog.pop(argument) == model.pop(argument)
        elif what == "again":  # a page that was removed comes back with another priority
            for entry in model.entries[:argument]:
                backlog.remove([entry.page])
                backlog.push([(entry.page, entry.priority // 2, entry.is_start, b"again")])
            again = [each._replace(priority=each.priority // 2, data=b"again") for each in model.entries[:argument]]
            model.entries[:argument] = again
        else:
            backlog.remove(argument)
            model.entries = [each for each in model.entries if each.page not in argument]
        assert len(backlog) == len(model.entries)
        assert backlog.top_priority == max((each.priority for each in model.entries), default=None)
    assert backlog.pop(10_000) == model.pop(10_000)
    backlog.close()


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ({}, [4, 3, 2, 1, 0]),
        ({"first_out": True}, [0, 1, 2, 3, 4]),
        ({"start_first_out": True}, [4, 2, 1, 0, 3]),
        ({"start_first_out": False}, [4, 2, 1, 3, 0]),
        ({"first_out": True, "start_first_out": False}, [1, 2, 4, 3, 0]),
        ({"first_out": True, "start_first_out": True}, [1, 2, 4, 0, 3]),
    ],
)
def test_order_within_a_priority(make: Make, order: dict[str, bool], expected: list[int]) -> None:
    """By page numbers, forwards or backwards; start requests (0 and 3) among the others, or after them in their own order."""
    backlog = make(**order)
    for page in (2, 0, 4, 3, 1):
        backlog.push([(page, 0, page in (0, 3), b"")])
    assert pages(backlog.pop(5)) == expected


def test_the_highest_priority_comes_first(make: Make) -> None:
    """The priority counts before the queue, and the queue before the page."""
    backlog = make(start_first_out=True)
    for page, (priority, is_start) in enumerate([(0, False), (5, True), (-5, False), (5, False), (0, True)]):
        backlog.push([(page, priority, is_start, bytes([page]))])
    assert backlog.top_priority == 5
    expected = [Entry(3, 5, False, b"\3"), Entry(1, 5, True, b"\1"), Entry(0, 0, False, b"\0"), Entry(4, 0, True, b"\4")]
    assert backlog.pop(4) == expected
    assert backlog.top_priority == -5
    assert backlog.pop(4) == [Entry(2, -5, False, b"\2")]
    assert backlog.top_priority is None


def test_entries_come_back_whole(make: Make) -> None:
    """Data of any bytes and length, and the kinds of the fields."""
    backlog = make(first_out=True, start_first_out=True)
    data = [b"", b"\0\xff\n", os.urandom(300_000)]
    for page, each in enumerate(data):
        backlog.push([(page, 0, page == 2, each)])
    popped = backlog.pop(3)
    assert [each.data for each in popped] == data
    assert [(type(each), type(each.is_start), type(each.data)) for each in popped] == [(Entry, bool, bytes)] * 3
    assert [each.is_start for each in popped] == [False, False, True]


def test_priorities_without_limit(make: Make) -> None:
    """A priority beyond 2**62 counts as that; nothing fails."""
    backlog = make()
    for page, priority in enumerate([10**30, -(10**30), 2**62 - 1]):
        backlog.push([(page, priority, False, b"")])
    assert [(each.page, each.priority) for each in backlog.pop(3)] == [(0, 2**62), (2, 2**62 - 1), (1, -(2**62))]


def test_removing_what_is_not_there(make: Make) -> None:
    """Pages that are unknown, popped, or named twice change nothing."""
    backlog = make(first_out=True)
    for page in range(3):
        backlog.push([(page, 0, False, b"")])
    assert pages(backlog.pop(1)) == [0]
    backlog.remove(iter([0, 2, 2, 7]))
    assert len(backlog) == 1
    backlog.remove([])
    assert backlog.pop(0) == []
    assert pages(backlog.pop(9)) == [1]
    assert backlog.pop(1) == []
    assert len(backlog) == 0


def test_many_entries(make: Make) -> None:
    """20,000 entries, pushed in a random order and partly removed, come out sorted."""
    backlog, draw = make(first_out=True), random.Random(3)
    numbers = list(range(20_000))
    draw.shuffle(numbers)
    for page in numbers:
        backlog.push([(page, page % 7, False, b"%d" % page)])
    removed = set(draw.sample(numbers, 15_000))
    backlog.remove(removed)
    expected = sorted(set(numbers) - removed, key=lambda page: (-(page % 7), page))
    popped = [entry for _ in range(200) for entry in backlog.pop(50)]
    assert pages(popped) == expected
    assert all(each.data == b"%d" % each.page for each in popped)


# The file on the disk

CHILD = """
import resource, sys, time
from scrapy_state.frontier.backlog import DiskBacklog
backlog = DiskBacklog(sys.argv[1], False, None)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count, before, data, worst = int(sys.argv[2]), peak(), bytes(range(208)), 0.0
for page in range(count):
    started = time.thread_time()
    backlog.push([(page, -(page % 5), False, data)])
    worst = max(worst, time.thread_time() - started)
print(len(backlog), flush=True)
if len(sys.argv) > 3:
    sys.stdin.read()
for _ in range(count // 50):
    started = time.thread_time()
    backlog.pop(50)
    worst = max(worst, time.thread_time() - started)
print((peak() - before) // 1024, worst, len(backlog))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has another unit")
@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_memory_is_flat(tmp_path: Path, count: int) -> None:
    """However many entries there are, the process grows by 20 MB at most, and no call takes 20 ms of its time."""
    done = subprocess.run([sys.executable, "-c", CHILD, tmp_path, str(count)], capture_output=True, check=True, text=True)
    pushed, taken_mb, worst_seconds, left = done.stdout.split()
    assert (int(pushed), int(left)) == (count, 0)
    assert int(taken_mb) <= 20
    assert float(worst_seconds) < 0.02


@pytest.mark.skipif(sys.platform == "win32", reason="an open file keeps its name there")
def test_nothing_is_left_after_a_kill(tmp_path: Path) -> None:
    """The file has no name, so that a killed process leaves nothing behind; yet it is in the folder's file system."""
    command = [sys.executable, "-c", CHILD, str(tmp_path), "30000", "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "30000\n"
        if sys.platform == "linux":
            links = [os.readlink(each) for each in Path(f"/proc/{child.pid}/fd").iterdir()]
            assert [each for each in links if each.startswith(str(tmp_path)) and each.endswith(" (deleted)")]
        assert list(tmp_path.iterdir()) == []
        child.send_signal(signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """One error that names the folder and the setting."""
    with pytest.raises(StateError, match=r"missing.*FEED_TEMPDIR"):
        DiskBacklog(str(tmp_path / "missing"), False, None)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_full_disk(tmp_path: Path) -> None:
    """What can't be written is a StateError that says so, not an error of SQLite, and never a silent loss."""
    import resource

    backlog = DiskBacklog(str(tmp_path), True, None)

    def fill() -> None:
        for page in range(20_000):
            backlog.push([(page, 0, False, bytes(1000))])

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        with pytest.raises(StateError, match=r"can't be kept in a temporary file.*FEED_TEMPDIR"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        backlog.close()
