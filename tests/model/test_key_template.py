"""KeyTemplate: which keys a feed's URI template matches, and in which order."""

import random
import re
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrapy_state.exceptions import StateSettingsError
from scrapy_state.model.key_template import KeyTemplate, Placeholder, begins_with_run_id, placeholders

try:
    from scrapy.extensions.feedexport import apply_uri_params
except ImportError:  # before 2.18 Scrapy fails at a "%" that begins no placeholder

    def apply_uri_params(uri_template: str, uri_params: dict[str, Any]) -> str:
        return re.sub(r"%(?!\()", "%%", uri_template) % uri_params


ids = st.integers(1, 10**18)
widths = st.integers(1, 20)
#: anything but what would be a placeholder, as Scrapy sees them
literals = st.text(max_size=10).filter(lambda text: "(" not in text)
odd = st.sampled_from(
    ["%(batch_id)010d", "%(name)s", "%s", "%", "100%", ".*", "(?P<batch_id>1)", "[a-z]", "\\", "$", "a b", "é", "", "\n", "7"]
)
TEMPLATE = "s3://bucket/state/%(name)s/%(batch_id)010d.json"


@given(literals, odd | literals, literals, widths, ids)
def test_round_trip(before: str, name: str, after: str, width: int, id: int) -> None:
    """The key of an id is the one that Scrapy would write, and gives the id back, whatever else is in the template."""
    text = f"{before}/%(name)s/%(batch_id)0{width}d-{after}"
    template = KeyTemplate.parse(text, {"name": name})
    key = template.key(id)
    assert key == apply_uri_params(text, {"name": name, "batch_id": id})
    assert template.id_of(key) == id
    assert [*template.in_order([key])] == [key]
    assert key.startswith(template.prefix)
    assert template.writable


@given(widths, st.lists(ids, unique=True, max_size=20), st.randoms())
def test_order(width: int, some: list[int], shuffled: random.Random) -> None:
    """Keys are ordered by id, even if ids have outgrown the padding."""
    template = KeyTemplate.parse(f"state/%(batch_id)0{width}d.json", {})
    keys = [template.key(id) for id in some]
    shuffled.shuffle(keys)
    assert [template.id_of(key) for key in template.in_order(keys)] == sorted(some)


@given(st.lists(ids, unique=True, max_size=20))
def test_order_without_padding(some: list[int]) -> None:
    """Ids without padding, which can only be read, are ordered as numbers, not as text."""
    template = KeyTemplate.parse("state/%(batch_id)d.json", {})
    assert [*template.in_order(f"state/{id}.json" for id in some)] == [f"state/{id}.json" for id in sorted(some)]


@pytest.mark.parametrize(
    "key",
    [
        "state/.json",
        "state/1.json",
        "state/000000001.json",
        "state/0000000001.jsonl",
        "state/0000000001.json.gz",
        "state/0000000001json",
        "state/0000000001Xjson",
        "state/0000000001.json\n",
        "state/-000000001.json",
        "state/+000000001.json",
        "state/000000000a.json",
        "state/ 0000000001.json",
        "state/0000_00001_0.json",
        "state/old/0000000001.json",
        "state/\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661.json",
        "Xstate/0000000001.json",
        "0000000001.json",
        "",
    ],
)
def test_foreign_keys(key: str) -> None:
    """A key that this template would never write is not a checkpoint's."""
    template = KeyTemplate.parse("state/%(batch_id)010d.json", {})
    assert template.id_of(key) is None
    assert [*template.in_order([key, template.key(3)])] == [template.key(3)]


@given(st.text(alphabet=string.digits + "\u0660\u0661\u0e51/.json-", max_size=14))
def test_foreign_keys_any(rest: str) -> None:
    """Whatever key has an id is exactly the key of that id."""
    template = KeyTemplate.parse("s/%(batch_id)03d.json", {})
    id = template.id_of(f"s/{rest}")
    assert id is None or template.key(id) == f"s/{rest}"


@pytest.mark.parametrize("name", ["%(batch_id)010d", "%(time)s", "%(other)s", "a.c", "(x)", "[1]", "a\\d", "^$", "100%", "%%"])
def test_value_is_literal(name: str) -> None:
    """A spider's attribute is used as it is: never as a placeholder or a pattern."""
    template = KeyTemplate.parse(TEMPLATE, {"name": name})
    key = f"s3://bucket/state/{name}/0000000007.json"
    assert template.prefix == f"s3://bucket/state/{name}/"
    assert template.key(7) == key
    assert template.id_of(key) == 7
    assert template.id_of(key.replace(name, "abc")) is None
    assert template.writable


def test_params() -> None:
    """Placeholders that don't vary are filled in their format; those that vary are not, even if the spider has such an
    attribute."""
    template = KeyTemplate.parse("%(name)s-%(shard)03d/%(batch_id)04d-%(name)s", {"name": "x", "shard": 7, "batch_id": 9})
    assert template == KeyTemplate("x-007/", (Placeholder("batch_id", "04d"), "-x"))
    assert template.key(12) == "x-007/0012-x"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("s/%(batch_time)s.json", ["s/2025-12-31T23-59-59.9+00-00.json", "s/2026-01-01T00-00-00.1+00-00.json"]),
        ("s/%(time)s.json", ["s/2025-12-31T23-59-59+00-00.json", "s/2026-01-01T00-00-00+00-00.json"]),
        ("s/%(time)s/%(batch_id)d.json", ["s/2025/9.json", "s/2025/10.json", "s/2026/1.json"]),
        ("s/%(time)s-%(batch_id)05d.json", ["s/2025-00009.json", "s/2025-00010.json", "s/2026-00001.json"]),
        ("s/%(run_id)s-%(batch_id)d.json", ["s/20251231-ab-9.json", "s/20251231-ab-10.json", "s/20260101-aa-1.json"]),
        ("s/%(batch_id)d-%(time)s.json", ["s/9-2026.json", "s/10-2025.json", "s/10-2026.json"]),
        ("s/%(batch_id)03d/%(batch_id)03d.json", ["s/009/009.json", "s/010/010.json", "s/1000/1000.json"]),
        ("s/%(batch_id)d/%(batch_id)03d.json", ["s/9/009.json", "s/10/010.json", "s/1000/1000.json"]),
        ("s/", ["s/", "s/0000000009.json", "s/0000000010.json", "s/a/b/c"]),
        ("s/2026", ["s/2026-01-01", "s/2026-01-02/x"]),
        ("s/state.json", ["s/state.json"]),
    ],
)
def test_readable_order(text: str, keys: list[str]) -> None:
    """Templates that are only read from, and a bare prefix, give their keys oldest first, and no others."""
    template = KeyTemplate.parse(text, {})
    assert not template.writable
    assert template.prefix == text.partition("%")[0]
    assert [*template.in_order([*reversed(keys), "foreign", "other/s/1.json"])] == keys
    assert [*template.in_order([*keys, ""])] == keys


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("s/%(batch_id)010d.json", 0),
        ("s/%(batch_id)010d", 0),
        ("a/b/%(batch_id)010d/state.json", 1),
        ("s/%(time)s/%(run_id)s/%(batch_id)d.json", 2),
        ("s/", 0),
        ("s/state-00", 0),
    ],
)
def test_depth(text: str, depth: int) -> None:
    """The template tells how deep below the prefix its keys are; under a bare prefix they are directly there."""
    assert KeyTemplate.parse(text, {}).depth == depth


@pytest.mark.parametrize("text", ["s/%(batch_time)s.json", "s/%(time)s.json", "s/%(run_id)s-%(batch_id)03d.json"])
def test_time_is_no_folder(text: str) -> None:
    """Files in a folder below are not among these keys: no time and no run id has a slash."""
    assert [*KeyTemplate.parse(text, {}).in_order(["s/other-spider/2026-01-01-001.json"])] == []


@pytest.mark.parametrize("width", ["01", "03", "010", "020", "0010"])
@pytest.mark.parametrize("text", ["%(batch_id){}d", "s/%(batch_id){}d.json", "s/%(batch_id){}i", "s/100%/%(batch_id){}d/%20"])
def test_writable(text: str, width: str) -> None:
    """A template whose only varying placeholder is a zero-padded %(batch_id) can be written to."""
    template = KeyTemplate.parse(text.format(width), {})
    assert template.writable
    assert template.id_of(template.key(5)) == 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s/",
        "s/state.json",
        "s/%(name)s.json",
        "s/%(batch_id)d.json",
        "s/%(batch_id)i.json",
        "s/%(batch_id)s.json",
        "s/%(batch_id)5d.json",
        "s/%(batch_id)0d.json",
        "s/%(batch_id)00d.json",
        "s/%(batch_id)-05d.json",
        "s/%(batch_id)+05d.json",
        "s/%(batch_id) 05d.json",
        "s/%(batch_id)05x.json",
        "s/%(batch_id)05o.json",
        "s/%(batch_id)05.2f.json",
        "s/%(batch_time)s.json",
        "s/%(time)s.json",
        "s/%(run_id)s.json",
        "s/%(run_id)s-%(batch_id)05d.json",
        "s/%(time)s/%(batch_id)05d.json",
        "s/%(batch_time)s-%(batch_id)05d.json",
        "s/%(batch_id)05d/%(batch_id)05d.json",
    ],
)
def test_not_writable(text: str) -> None:
    """Any other template can't."""
    assert not KeyTemplate.parse(text, {"name": "x"}).writable


@pytest.mark.parametrize("text", ["s/%(shard)s/%(batch_id)010d.json", "s/%(shard)03d/"])
def test_missing_attribute(text: str) -> None:
    """A placeholder that the spider has no attribute for is an error that names it and how to give it."""
    with pytest.raises(StateSettingsError, match=r"no attribute 'shard'.*-a shard=") as caught:
        KeyTemplate.parse(text, {"name": "x"})
    assert text in str(caught.value)


def test_missing_attribute_hides_credentials() -> None:
    """No error contains the password of a URI."""
    with pytest.raises(StateSettingsError) as caught:
        KeyTemplate.parse("s3://me:s3cr3t@bucket/%(shard)s/%(batch_id)010d.json", {})
    assert "s3cr3t" not in str(caught.value)


def test_attribute_of_another_kind() -> None:
    """If the placeholder's format can't take the attribute, the error names it: -a gives text, for example."""
    with pytest.raises(StateSettingsError, match="shard"):
        KeyTemplate.parse("s/%(shard)03d/%(batch_id)010d.json", {"shard": "7"})


def test_under() -> None:
    """A store's own prefix replaces that of the URI, and the rest stays."""
    template = KeyTemplate.parse(TEMPLATE, {"name": "x"}).under("state/x/")
    assert template.prefix == "state/x/"
    assert template.key(3) == "state/x/0000000003.json"
    assert template.id_of("state/x/0000000003.json") == 3
    assert template.id_of("s3://bucket/state/x/0000000003.json") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s/%(name)s/%(batch_id)010d", {"name", "batch_id"}),
        ("100%/%20/%d/%s/%(x", set()),
        ("%%(time)s", {"time"}),
        ("%(a b)s", {"a b"}),
        ("%(x)q", set()),
    ],
)
def test_placeholders(text: str, expected: Any) -> None:
    """A placeholder is what Scrapy takes for one; any other percent sign stands for itself."""
    assert placeholders(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s/%(run_id)s-%(batch_id)05d.json", True),
        ("s/%(name)s/%(run_id)s/%(batch_id)05d.json", True),
        ("s/%(run_id)s", True),
        ("s/%(run_id).8s-%(batch_time)s.json", False),  # all runs of a day share this beginning
        ("s/%(batch_id)05d-%(run_id)s.json", False),
        ("s/%(time)s-%(run_id)s-%(batch_id)05d.json", False),
        ("s/%(batch_time)s.json", False),
        ("s/items.json", False),
    ],
)
def test_begins_with_run_id(text: str, expected: bool) -> None:
    """A run's files can be recognized by their keys if the run id is the first thing that varies."""
    assert begins_with_run_id(text) is expected


@pytest.mark.parametrize(
    ("text", "spider", "fit", "foreign"),
    [
        ("i/%(name)s-%(x)s-%(batch_id)02d.json", "a", ["i/a-b-01.json", "i/a-7-123.json"], ["i/b-b-01.json", "i/a-b-1.json"]),
        ("i/%(name)s-%(time)s.json", "a", ["i/a-2026-11-01T00-00-01+00-00.json"], ["i/a-b.json"]),
        ("i/%(name)s-%(time).4s.json", "a", ["i/a-2026.json"], ["i/b-2026.json"]),
        ("i/%(name)s-%(time)s-%(batch_id)02d.json", None, ["i/b-noon-1.json"], ["i/a/b-noon-1.json", "j/b-noon-1.json"]),
        ("i/debug.json", "a", ["i/debug.json"], ["i/a.json"]),
    ],
)
def test_of_any_run(text: str, spider: str | None, fit: list[str], foreign: list[str]) -> None:
    """Keys that a run with other arguments may have stored match; with a ``uri_params`` function, anything that it may have
    returned."""
    template = KeyTemplate.of_any_run(text, spider)
    assert [template.fits(each) for each in (*fit, *foreign)] == [True] * len(fit) + [False] * len(foreign)


def test_other_varying() -> None:
    """With a run id, the template matches the files of that run only."""
    text = "items/%(name)s/%(run_id)s-%(batch_id)05d.json"
    template = KeyTemplate.parse(text, {"name": "x", "run_id": "one"}, frozenset({"batch_id"}))
    assert template.prefix == "items/x/one-"
    assert [*template.in_order(["items/x/two-00001.json", "items/x/one-00002.json", "items/x/one-00001.json"])] == [
        "items/x/one-00001.json",
        "items/x/one-00002.json",
    ]
