"""Times and lengths of time, as files and people write them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrapy_state.model.times import format_time, in_seconds, in_words, moment, parse_time

ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2013-01-01", (2013, 1, 1)),
        ("2013-01-01T06:42", (2013, 1, 1, 6, 42)),
        ("2013-01-01 06:42:07.5Z", (2013, 1, 1, 6, 42, 7, 500_000)),
        ("2013-01-01T06:42:07,123456z", (2013, 1, 1, 6, 42, 7, 123_456)),
        ("2013-01-01T06:42+02", (2013, 1, 1, 4, 42)),
        ("2013-01-01T06:42-0330", (2013, 1, 1, 10, 12)),
        ("2013-01-01T06:42-00:30", (2013, 1, 1, 7, 12)),
    ],
)
def test_times(text: str, utc: tuple[int, ...]) -> None:
    """A date or a date-time in any of the usual forms; without a zone it is UTC."""
    time = parse_time(text)
    assert time == datetime(*utc, tzinfo=timezone.utc)  # type: ignore[arg-type, misc]
    assert time is not None
    assert time.tzinfo is not None


@pytest.mark.parametrize(
    "text",
    [
        *("2026-02-30", "2026-01-01T25:00", "2026-01-01T00:00+99:00", "2026-01-01T", "yesterday"),
        *("20260101", "", 5, None, b"x"),
    ],
)
def test_no_times(text: Any) -> None:
    """Anything else is None, even a number of eight digits."""
    assert parse_time(text) is moment(text) is None


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=ZONES))
def test_format(time: datetime) -> None:
    """A time is written as UTC with milliseconds, sorts as text, and is read back as it was."""
    text = format_time(time)
    assert len(text) == len("2026-11-20T10:00:00.000Z")
    read = parse_time(text)
    assert read is not None
    assert timedelta(0) <= time - read < timedelta(milliseconds=1)


def test_moments() -> None:
    """Seconds since 1970."""
    assert moment("1970-01-02") == 86400
    assert moment("1970-01-01T01:00+01:00") == moment("1970-01-01T00:00:00Z") == moment("1969-12-31T14:30-0930") == 0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0), (90, 90), (1.5, 1.5), ("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("2d", 172800), (" 1.5 h ", 5400)],
)
def test_lengths_of_time(value: Any, seconds: float) -> None:
    """Numbers are seconds, text has a unit. A whole number stays an int, and so a whole number in a state stays one."""
    assert in_seconds(value) == seconds
    assert isinstance(in_seconds(value), int) == float(seconds).is_integer()


@pytest.mark.parametrize("value", [True, None, -1, "-1h", "", "h", "1w", "1h30m", "1e3", float("inf"), float("nan"), [], {}])
def test_no_lengths_of_time(value: Any) -> None:
    """Anything else is an error, and so is a negative length."""
    with pytest.raises(ValueError, match="not a length of time"):
        in_seconds(value)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (0.4, "0 s"), (35, "35 s"), (60, "1 min"), (90, "1 min 30 s"), (3600, "1 h"), (12_010, "3 h 20 min"),
     (86_400, "1 d"), (187_200, "2 d 4 h"), (86_400 * 400 + 59, "400 d")],
)  # fmt: skip
def test_for_a_person_to_read(seconds: float, words: str) -> None:
    """At most two units."""
    assert in_words(seconds) == words
