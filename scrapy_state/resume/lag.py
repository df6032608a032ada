"""Starting a bit earlier: a state minus STATE_LAG; the dates in states. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

from ..exceptions import StateSettingsError

#: An ISO 8601 date, or date and time, in parts that can be put together again in the same form
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)(?:([T ])(\d\d:\d\d)(?::(\d\d)(?:([.,])(\d{1,6}))?)?(Z|[+-]\d\d(?::?\d\d)?)?)?")


def earlier(state: Mapping[str, Any], lag: Mapping[str, float]) -> dict[str, Any]:
    """Return a copy of *state* in which each field that *lag* names is smaller by that number.

    :param lag: field -> number. From an ISO date or date-time (``"2013-01-01T06:42"``) it subtracts seconds, and the text
        keeps its form. A dot leads into a nested object: ``"cursor.t"``
    :raises StateSettingsError: if a field is missing, or is neither a number nor such a text
    """
    copy = deepcopy(dict(state))
    for name, amount in lag.items():
        place, key = _place(copy, name)
        try:
            place[key] = _less(place[key], amount)
        except (TypeError, ValueError, OverflowError) as error:
            raise StateSettingsError(
                f"STATE_LAG names {name!r}, which is {place[key]!r} in the state: {error}; remove it from STATE_LAG, or "
                "override StateResolver.change_state()"
            ) from error
    return copy


def _place(state: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Return the object that holds the field *name*, and its key there; a key that contains the dot wins."""
    if name in state:
        return state, name
    outer, _, rest = name.partition(".")
    if rest and isinstance(state.get(outer), dict):
        return _place(state[outer], rest)
    raise StateSettingsError(
        f"STATE_LAG names {name!r}, but the state has no such field (it has {sorted(state)}); correct the name, or remove it"
    )


def _less(value: Any, amount: float) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value - amount
    match = _ISO.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise TypeError("STATE_LAG can subtract only from a number or an ISO date-time")
    _, separator, _, second, point, fraction, zone = match.groups()
    parsed = _parsed(match)
    moved = parsed - timedelta(seconds=amount)
    if separator is None:
        if moved.time() != parsed.time():
            raise ValueError("a date without a time can go back only by whole days")
        return moved.date().isoformat()
    text = f"{moved.date().isoformat()}{separator}{moved:%H:%M}"
    if second or moved.second or moved.microsecond:
        text += f":{moved:%S}"
    if fraction or moved.microsecond:
        digits = f"{moved:%f}"
        text += (point or ".") + digits[: max(len(fraction or ""), len(digits.rstrip("0")))]
    return text + (zone or "")


def moment(text: Any) -> float | None:
    """Return an ISO 8601 date or date-time as seconds since 1970; None for anything else. Without a zone it is UTC."""
    match = _ISO.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    zone = (match[7] or "Z").replace("Z", "+00").replace(":", "")
    offset = int(zone[1:3]) * 3600 + int(zone[3:5] or 0) * 60
    try:
        return (_parsed(match) - datetime(1970, 1, 1)).total_seconds() - (-offset if zone[0] == "-" else offset)
    except ValueError:  # 2013-02-30, for example
        return None


def _parsed(match: re.Match[str]) -> datetime:
    day, _, minute, second, _, fraction, _ = match.groups()
    return datetime.fromisoformat(f"{day} {minute or '00:00'}:{second or '00'}.{(fraction or '').ljust(6, '0')}")
