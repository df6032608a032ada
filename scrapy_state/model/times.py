"""Lengths of time as people write and read them. Pure."""

from __future__ import annotations

import math
import re
from typing import Any

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")


def in_seconds(value: Any) -> float:
    """Return *value*, a number of seconds or text like "90s", "15m", "1h" or "2d", in seconds, 0 or more.

    A whole number stays an int.

    :raises ValueError: if it is something else
    """
    match = _TEXT.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a length of time")
    number = float(match[1]) * _UNITS[match[2] or "s"]
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is too long")
    return int(number) if number.is_integer() else number


def in_words(seconds: float) -> str:
    """Return a length of time for a person to read, by its two largest units: "35 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    rest = max(0, round(seconds))
    for unit, size, smaller, size_of_smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if rest >= size:
            count, more = rest // size, rest % size // size_of_smaller
            return f"{count} {unit} {more} {smaller}" if more else f"{count} {unit}"
    return f"{rest} s"
