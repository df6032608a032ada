"""Numbers as people say them. Pure."""

from __future__ import annotations

import math


def about(number: float) -> str:
    """Return *number* with three digits that count, and never with an exponent: "1,410", "56", "0.02", "-1.5"."""
    if not math.isfinite(number) or abs(number) < 0.005:
        return "0" if abs(number) < 0.005 else str(number)
    digits = 2 - math.floor(math.log10(abs(number)))
    rounded = round(number, digits)
    if digits <= 0:
        return f"{rounded:,.0f}"
    return f"{rounded:,.{min(digits, 2)}f}".rstrip("0").rstrip(".")


def size(bytes: int) -> str:
    """Return a number of bytes for people to read: "1.2 MB"."""
    number = float(bytes)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            break
        number /= 1000
    return f"{bytes} bytes" if unit == "bytes" else f"{number:.3g} {unit}"


def count_of(number: int, what: str) -> str:
    """Return "1 run", "2 runs"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
