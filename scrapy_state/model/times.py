"""Times and lengths of time, as files and people write them. Pure."""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone
from typing import Any

#: An ISO 8601 date, or date and time, in the parts from which the same form can be put together again
ISO_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:([T ])(\d\d:\d\d)(?::(\d\d)(?:([.,])(\d{1,6}))?)?([Zz]|[+-]\d\d(?::?\d\d)?)?)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")


def parse_time(text: Any) -> datetime | None:
    """Return an ISO 8601 date or date-time with its zone, or with UTC if it has none; None for anything else."""
    match = ISO_TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    day, _, minute, second, _, fraction, zone = match.groups()
    offset = (zone or "Z").upper().replace("Z", "+00").replace(":", "").ljust(5, "0")
    clock = f"{minute or '00:00'}:{second or '00'}.{(fraction or '').ljust(6, '0')}"
    try:
        return datetime.fromisoformat(f"{day} {clock}{offset[:3]}:{offset[3:]}")
    except ValueError:  # 2013-02-30, for example
        return None


def moment(text: Any) -> float | None:
    """Return :func:`parse_time` of *text* as seconds since 1970."""
    time = parse_time(text)
    return None if time is None else (time - _EPOCH).total_seconds()


def format_time(time: datetime) -> str:
    """Return *time*, which has a zone, as checkpoints have it: in UTC, as in ``2026-11-20T10:00:00.000Z``."""
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def in_seconds(value: Any) -> float:
    """Return *value* in seconds, 0 or more: a number of seconds, or text like "90s", "15m", "1h" or "2d".

    A whole number is an int.

    :raises ValueError: if *value* is anything else
    """
    match = _TEXT.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a length of time")
    number = float(match[1]) * _UNITS[match[2] or "s"]
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is too long")
    return int(number) if number.is_integer() else number


def in_words(seconds: float) -> str:
    """Return a length of time as people read it, in its two largest units: "35 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    rest = max(0, round(seconds))
    for unit, size, smaller, size_of_smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if rest >= size:
            count, more = rest // size, rest % size // size_of_smaller
            return f"{count} {unit} {more} {smaller}" if more else f"{count} {unit}"
    return f"{rest} s"
