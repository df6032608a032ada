"""Starting a bit earlier: a state minus STATE_LAG. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from datetime import timedelta
from typing import Any

from ..exceptions import StateSettingsError
from ..model.times import ISO_TIME, parse_time


def earlier(state: Mapping[str, Any], lag: Mapping[str, float]) -> dict[str, Any]:
    """Return a copy of *state* in which each field that *lag* names is smaller by that number.

    :param lag: field -> number. From an ISO date or date-time (``"2013-01-01T06:42"``) it subtracts seconds, and the text
        keeps its form. A dot leads into a nested object: ``"cursor.t"``
    :raises StateSettingsError: if a field is missing, or is neither a number nor such a text
    """
    copy = deepcopy(dict(state))
    for name, amount in lag.items():
        parent, key = _locate(copy, name)
        try:
            parent[key] = _less(parent[key], amount)
        except (TypeError, ValueError, OverflowError) as error:
            raise StateSettingsError(
                f"STATE_LAG names {name!r}, which is {parent[key]!r} in the state: {error}",
                remedy="remove it from STATE_LAG, or override StateResolver.change_state()",
            ) from error
    return copy


def _locate(state: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Return the object that has the field *name*, and its key there. A key that contains the dot wins."""
    if name in state:
        return state, name
    outer, _, rest = name.partition(".")
    if rest and isinstance(state.get(outer), dict):
        return _locate(state[outer], rest)
    raise StateSettingsError(
        f"STATE_LAG names {name!r}, but the state has no such field (it has {sorted(state)})",
        remedy="correct the name, or remove it",
    )


def _less(value: Any, amount: float) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value - amount
    match = ISO_TIME.fullmatch(value) if isinstance(value, str) else None
    time = parse_time(value)
    if match is None or time is None:
        raise TypeError("STATE_LAG can subtract only from a number or an ISO date-time")
    _, separator, _, second, point, fraction, zone = match.groups()
    moved = time - timedelta(seconds=amount)
    if separator is None:
        if moved.time() != time.time():
            raise ValueError("a date without a time can go back only by whole days")
        return moved.date().isoformat()
    text = f"{moved.date().isoformat()}{separator}{moved:%H:%M}"
    if second or moved.second or moved.microsecond:
        text += f":{moved:%S}"
    if fraction or moved.microsecond:
        digits = f"{moved:%f}"
        text += (point or ".") + digits[: max(len(fraction or ""), len(digits.rstrip("0")))]
    return text + (zone or "")
