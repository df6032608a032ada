"""The state item: what a spider yields to say "all I yielded before this is done; resume from here"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(init=False)
class StateItem:
    """All that the spider yielded before this item is done; a later run resumes from *state*.

    It goes no further than :class:`~scrapy_state.barrier.StateMiddleware`: no pipeline, no ``item_scraped``, no item
    feed ever sees it.

    :param state: a JSON object (a dict with text keys, of dicts, lists, text, numbers, True, False, None), copied
        here, so that it can be changed afterwards. Left out: a deep copy of ``spider.state`` at the time it is yielded.
    :raises TypeError: at once, if *state* is not a JSON object; the message has the path to the offending value.
    """

    state: dict[str, Any] | None = None

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.state = None if state is None else json_object(state)


def json_object(state: Any, name: str = "state") -> dict[str, Any]:
    """Return a deep copy of *state* as plain JSON types (a tuple becomes a list, as JSON has it).

    :param name: what to call it in the message
    :raises TypeError: if it is not a JSON object; the message has the path to the offending value
    """
    if not isinstance(state, dict):
        raise TypeError(f"{name} must be a JSON object (a dict with text keys), not {type(state).__name__}")
    copy: dict[str, Any] = _json_copy(state, name, [])
    return copy


def _json_copy(value: Any, path: str, outer: list[int]) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{path} is {value}, which JSON can't hold; use None or text")
        return value
    if isinstance(value, str):
        return _utf8(value, path)
    if not isinstance(value, (dict, list, tuple)):
        raise TypeError(f"{path} is a {type(value).__name__}, which JSON can't hold; use text, a number, a list or a dict")
    if id(value) in outer:
        raise TypeError(f"{path} contains itself")
    outer = [*outer, id(value)]
    if not isinstance(value, dict):
        return [_json_copy(each, f"{path}[{index}]", outer) for index, each in enumerate(value)]
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{path} has the key {key!r}, a {type(key).__name__}; JSON keys are text")
    return {_utf8(key, path): _json_copy(each, f"{path}[{key!r}]", outer) for key, each in value.items()}


def _utf8(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TypeError(f"{path} has text with a lone surrogate, which UTF-8 can't hold: {text!r}") from None
    return text
