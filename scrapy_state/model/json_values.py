"""States as plain JSON values: checking, copying and printing them. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

#: How many characters of a shortened text are shown
SHOWN_CHARACTERS = 200
_AS_IT_IS = frozenset({int, bool, type(None)})


def json_object(state: Any, name: str = "state") -> dict[str, Any]:
    """Return a deep copy of *state* as plain JSON types (a tuple becomes a list).

    :param name: what the error calls it
    :raises TypeError: if it is not a JSON object; the message names the path to the offending value
    """
    if not isinstance(state, dict):
        raise TypeError(f"{name} must be a JSON object (a dict with text keys), not {type(state).__name__}")
    copy: dict[str, Any] = _container_copy(state, (name,), ())
    return copy


def as_text(state: Any) -> str:
    """Return *state* as JSON on one line."""
    return json.dumps(state, ensure_ascii=False)


def in_log(state: Any) -> str:
    """Return *state* as the log shows it: :func:`as_text`, :func:`shortened`."""
    return shortened(as_text(state))


def shortened(text: str, limit: int = 1000) -> str:
    """Return *text*; if it has more than *limit* characters, its beginning, its length and a digest."""
    if len(text) <= limit:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[:SHOWN_CHARACTERS]}... ({len(text):,} characters, sha256 {digest[:16]})"


def _container_copy(value: Any, path: tuple[Any, ...], outer: tuple[int, ...]) -> Any:
    if id(value) in outer:
        raise TypeError(f"{_text(path)} contains itself")
    outer = (*outer, id(value))
    if not isinstance(value, dict):
        return [_json_copy(element, (*path, index), outer) for index, element in enumerate(value)]
    copy = {}
    for key, element in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{_text(path)} has the key {key!r}, a {type(key).__name__}; JSON keys are text")
        copy[_utf8(key, path)] = element if type(element) in _AS_IT_IS else _json_copy(element, (*path, key), outer)
    return copy


def _json_copy(value: Any, path: tuple[Any, ...], outer: tuple[int, ...]) -> Any:
    if type(value) in _AS_IT_IS:
        return value
    if isinstance(value, str):
        return _utf8(value, path)
    if isinstance(value, int):
        return int(value)  # of a subclass: an IntEnum
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{_text(path)} is {value}, which JSON can't hold; use None or text")
        return float(value)
    if isinstance(value, (dict, list, tuple)):
        return _container_copy(value, path, outer)
    kind = type(value).__name__
    raise TypeError(f"{_text(path)} is a {kind}, which JSON can't hold; use text, a number, a list or a dict")


def _utf8(text: str, path: tuple[Any, ...]) -> str:
    if type(text) is str and text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TypeError(f"{_text(path)} has text with a lone surrogate, which UTF-8 can't hold: {text!r}") from None
    return str.__str__(text)


def _text(path: tuple[Any, ...]) -> str:
    """Return *path*, a name and the keys that lead on from there, as Python would write it."""
    return "".join([path[0], *(f"[{key!r}]" for key in path[1:])])
