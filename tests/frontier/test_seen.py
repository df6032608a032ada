"""The packed set of fingerprints."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrapy_state.frontier.seen import KEY_BYTES, SeenSet

#: Few different bytes, so that a key is also found across two neighbours in a bucket
KEYS = st.one_of(
    st.lists(st.sampled_from([0, 0, 1]), min_size=12, max_size=20).map(bytes),
    st.binary(min_size=12, max_size=20),
    st.integers(0, 500).map(lambda number: number.to_bytes(20, "little")),
)


@given(
    steps=st.lists(st.tuples(st.sampled_from(["add", "ask", "update"]), st.lists(KEYS, max_size=60)), max_size=12),
    expected=st.integers(0, 400),
)
def test_it_behaves_as_a_set(steps: list[tuple[str, list[bytes]]], expected: int) -> None:
    """Whatever is added or asked for, in any order: the answers are those of Python's set of the first 12 bytes."""
    seen, model = SeenSet(expected), set[bytes]()
    for what, keys in steps:
        if what == "update":
            seen.update(b"".join(key[:KEY_BYTES] for key in keys))
            model.update(key[:KEY_BYTES] for key in keys)
        for key in keys:
            if what == "add":
                assert seen.add(key) is (key[:KEY_BYTES] not in model)
                model.add(key[:KEY_BYTES])
            assert (key in seen) is (key[:KEY_BYTES] in model)
        assert len(seen) == len(model)
    assert all(key in seen for key in model)


@pytest.mark.parametrize("expected", [-1, 0, 1_000, 40_000, 1_000_000, 10**15])
def test_many_keys(expected: int) -> None:
    """Through thousands of splits no key is lost, and none appears, whether they were added one by one or 500 at a time, and
    however many were expected."""
    draw = random.Random(5)
    keys = [draw.randbytes(20) for _ in range(50_000)]
    seen = SeenSet(expected)
    assert all(seen.add(key) for key in keys[:20_000])
    for begin in range(20_000, 50_000, 500):
        seen.update(b"".join(key[:KEY_BYTES] for key in keys[begin : begin + 500]))
    assert not any(seen.add(key) for key in keys)
    assert all(key in seen for key in keys)
    assert not any(draw.randbytes(20) in seen for _ in range(10_000))
    assert len(seen) == 50_000


def test_the_key_of_zeros() -> None:
    """Twelve zero bytes are a key as any other."""
    seen = SeenSet()
    assert bytes(20) not in seen
    assert seen.add(bytes(20))
    assert not seen.add(bytes(12))
    assert bytes(12) in seen
    assert len(seen) == 1


def test_a_key_across_two_neighbours() -> None:
    """The end of one key and the beginning of the next are not a key, and don't hide one."""
    seen = SeenSet()
    seen.update(b"aaaaaabbbbbb" + b"ccccccdddddd")
    assert b"bbbbbbcccccc" not in seen
    assert seen.add(b"bbbbbbcccccc")
    assert b"bbbbbbcccccc" in seen
    seen.update(b"ddddddbbbbbb" * 2)
    assert b"ddddddbbbbbb" in seen
    assert len(seen) == 4


def test_what_is_too_short_is_refused() -> None:
    """A fingerprint of fewer than 12 bytes, or packed ones that are cut off, are errors, and change nothing."""
    seen = SeenSet()
    with pytest.raises(ValueError, match="11 bytes"):
        seen.add(b"x" * 11)
    with pytest.raises(ValueError, match="25 bytes"):
        seen.update(b"x" * 25)
    assert b"x" * 11 not in seen
    assert len(seen) == 0


def test_growing_does_not_block() -> None:
    """While 300,000 keys are added, no single call takes 20 ms of this thread's time."""
    draw, seen, worst = random.Random(6), SeenSet(), 0.0
    for _ in range(300_000):
        key = draw.randbytes(12)
        started = time.thread_time()
        seen.add(key)
        worst = max(worst, time.thread_time() - started)
    assert worst < 0.02


MEMORY = """
import random, resource, sys
from scrapy_state.frontier.seen import SeenSet
draw, seen = random.Random(7), SeenSet()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for _ in range(int(sys.argv[1]) // 1000):
    seen.update(draw.randbytes(12_000))
print((peak() - before) // 1024, len(seen))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has another unit")
@pytest.mark.parametrize(("keys", "most_mb"), [(1_000_000, 30), pytest.param(10_000_000, 240, marks=pytest.mark.long)])
def test_memory(keys: int, most_mb: int) -> None:
    """The peak of the process, growth included, rises by 25 bytes a key at most."""
    done = subprocess.run([sys.executable, "-c", MEMORY, str(keys)], capture_output=True, check=True, text=True)
    taken_mb, count = map(int, done.stdout.split())
    assert count == keys
    assert taken_mb <= most_mb
