"""StateItem and json_object: what a state may be, and how an error says what is wrong where."""

import enum
import math
from collections import OrderedDict, defaultdict
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itemadapter import ItemAdapter

from scrapy_state import StateItem
from scrapy_state.items import json_object

text = st.text(max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)


class Colour(enum.IntEnum):
    RED = 1


class Word(str):
    pass


class Metres(float):
    pass


class Table(dict[str, Any]):
    pass


def itself_in_dict() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["a"] = {"b": state}
    return state


def itself_in_list() -> dict[str, Any]:
    loop: list[Any] = []
    loop.append([loop])
    return {"a": loop}


@given(st.dictionaries(text, json_values, max_size=4))
def test_json_object_is_kept(state: Any) -> None:
    """Every JSON object stays as it is."""
    assert StateItem(state).state == state


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ({"a": {1, 2}}, "state['a']"),
        ({"a": datetime(2026, 1, 1, tzinfo=timezone.utc)}, "state['a']"),
        ({"a": b"bytes"}, "state['a']"),
        ({"a": 1j}, "state['a']"),
        ({"a": object()}, "state['a']"),
        ({"a": math.nan}, "state['a']"),
        ({"a": math.inf}, "state['a']"),
        ({"a": [0, {"b": -math.inf}]}, "state['a'][1]['b']"),
        ({"a": ({"b": {3}},)}, "state['a'][0]['b']"),
        ({"it's": {"": set()}}, """state["it's"]['']"""),
        ({1: "one"}, "state"),
        ({None: "none"}, "state"),
        ({"a": [{"b": {True: 1}}]}, "state['a'][0]['b']"),
        ({"a": {("x", "y"): 1}}, "state['a']"),
        ({"a": ["\ud800"]}, "state['a'][0]"),
        ({"a": {"\udfff": 1}}, "state['a']"),
        (itself_in_dict(), "state['a']['b']"),
        (itself_in_list(), "state['a'][0][0]"),
    ],
)
def test_type_error_has_path(state: Any, path: str) -> None:
    """A state that JSON can't hold is a TypeError that begins with the path to the offending value."""
    with pytest.raises(TypeError) as caught:
        StateItem(state)
    assert str(caught.value).startswith(f"{path} ")


@pytest.mark.parametrize("key", [1, None, True, 1.5, ("x", "y"), b"a"])
def test_type_error_has_key(key: Any) -> None:
    """The error names a key that is not text; json.dumps() would turn it into text."""
    with pytest.raises(TypeError, match="JSON keys are text") as caught:
        StateItem({"a": {key: 1}})
    assert repr(key) in str(caught.value)


@pytest.mark.parametrize("state", [[], [("a", 1)], (), "{}", 1, 0, True, False, {"a"}, math.nan])
def test_not_a_dict(state: Any) -> None:
    """A state that is not a dict, even an empty or false one, is a TypeError that says what it is."""
    with pytest.raises(TypeError, match=f"state must be a JSON object .* not {type(state).__name__}"):
        StateItem(state)


def test_name_in_message() -> None:
    """The message uses the caller's name for the state."""
    with pytest.raises(TypeError, match=r"^spider\.state\['a'\] is a set"):
        json_object({"a": set()}, "spider.state")


def test_left_out() -> None:
    """Without an argument the item has no state; the middleware takes spider.state."""
    assert StateItem().state is None
    assert StateItem({}).state == {}


def test_deep_copy() -> None:
    """When the spider changes its dict later, the item does not change."""
    state = {"a": {"b": [1]}, "c": [{"d": 1}]}
    item = StateItem(state)
    state["a"]["b"].append(2)
    state["c"][0]["d"] = 2
    state["e"] = 1
    assert item.state == {"a": {"b": [1]}, "c": [{"d": 1}]}


def test_same_object_twice() -> None:
    """An object that occurs twice is not a loop: each occurrence gets its own copy."""
    shared = [1]
    state = StateItem({"a": shared, "b": {"c": shared}}).state
    assert state == {"a": [1], "b": {"c": [1]}}
    assert state["a"] is not state["b"]["c"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2,)), [1, [2]]),
        (Colour.RED, 1),
        (Word("x"), "x"),
        (Metres(1.5), 1.5),
        (Table(a=1), {"a": 1}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(int, a=1), {"a": 1}),
    ],
)
def test_plain_json_types(value: Any, expected: Any) -> None:
    """A tuple becomes a list, and a subclass the plain type it derives from, as JSON would turn them."""
    state = StateItem({"a": value}).state
    assert state == {"a": expected}
    assert type(state["a"]) is type(expected)


def test_booleans_are_not_numbers() -> None:
    """True and False stay booleans."""
    assert StateItem({"a": True, "b": False}).state == {"a": True, "b": False}
    assert StateItem({"a": True}).state["a"] is True


def test_is_an_item() -> None:
    """Scrapy treats it as an item with one field."""
    assert dict(ItemAdapter(StateItem({"t": 1}))) == {"state": {"t": 1}}
