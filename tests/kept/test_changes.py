"""Lines of changes to kept objects, and merging them."""

import io
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scrapy_state.exceptions import CheckpointError
from scrapy_state.kept.changes import Changes, line, read, write

KEYS = st.sampled_from(["a", "b", 1, 2])
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("set:s"), st.sampled_from("+-"), KEYS),
        st.tuples(st.just("dict:d"), st.just("="), KEYS, st.one_of(st.none(), st.text(), st.lists(st.integers()))),
        st.tuples(st.just("dict:d"), st.just("-"), KEYS),
        st.tuples(st.just("count:c"), st.just("n"), KEYS, st.integers(-2, 2)),
        st.tuples(st.sampled_from(["set:s", "dict:d", "count:c"]), st.just("0")),
    ),
    max_size=30,
)


def stored(lines: list[str]) -> io.BytesIO:
    file = io.BytesIO()
    size, digest = write(lines, file)
    assert size == len(file.getvalue())
    assert digest.startswith("sha256:")
    return file


def contents(*files: io.BytesIO) -> dict[str, Any]:
    changes = Changes()
    for file in files:
        file.seek(0)
        for change in read(file):
            changes.apply(change)
    return {name: entries for name, entries in changes.contents().items() if entries}


def merged(files: list[io.BytesIO], is_oldest: bool) -> io.BytesIO:
    changes = Changes()
    for file in files:
        file.seek(0)
        for change in read(file):
            changes.apply(change)
    return stored([*changes.lines(is_oldest)])


@given(CHANGES, CHANGES, CHANGES)
@example([("set:s", "+", "a"), ("dict:d", "=", "b", 1)], [("set:s", "-", "a")], [("dict:d", "-", "b")])
def test_merged_files_say_the_same(first: list[Any], second: list[Any], third: list[Any]) -> None:
    """Whichever neighbours are merged, the objects have the same content."""
    one, two, three = (stored([line(*change) for change in each]) for each in (first, second, third))
    expected = contents(one, two, three)
    assert contents(one, merged([two, three], is_oldest=False)) == expected
    assert contents(merged([one, two], is_oldest=True), three) == expected
    assert contents(merged([one, two, three], is_oldest=True)) == expected


def test_an_emptied_object_leaves_nothing_behind() -> None:
    """Merged from the beginning, what was removed takes no line."""
    file = stored([line("set:s", "+", "a"), line("set:s", "-", "a"), line("count:c", "n", 1, 2), line("count:c", "0")])
    assert [*read(merged([file], is_oldest=True))] == []


@pytest.mark.parametrize("text", [b"", b'{"a": 1}', b'["set:s", "?", 1]', b'["set:s"]', b"[1, 2, 3]", b"\xff"])
def test_a_foreign_line_is_an_error(text: bytes) -> None:
    """Anything but a change is reported as a damaged file."""
    import gzip

    with pytest.raises(CheckpointError, match="kept objects can't be read"):
        list(read(io.BytesIO(gzip.compress(text + b"\n"))))
