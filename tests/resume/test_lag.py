"""STATE_LAG: a state that goes back a bit."""

from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrapy_state.exceptions import StateSettingsError
from scrapy_state.resume.lag import earlier


@pytest.mark.parametrize(
    ("value", "lag", "result"),
    [
        (100, 30, 70),
        (10**18 + 1, 3600, 10**18 - 3599),
        (1.5, 1, 0.5),
        (5, 0.5, 4.5),
        ("2013-01-01T06:42", 3600, "2013-01-01T05:42"),
        ("2013-01-01T06:42", 30, "2013-01-01T06:41:30"),
        ("2013-01-01 00:00:10", 11, "2012-12-31 23:59:59"),
        ("2013-01-01T06:42:00Z", 86400, "2012-12-31T06:42:00Z"),
        ("2013-01-01T06:42:00.120+02:00", 1, "2013-01-01T06:41:59.120+02:00"),
        ("2013-01-01T06:42:00,5-0330", 0.25, "2013-01-01T06:42:00,25-0330"),
        ("2013-01-01T06:42:00.000000", 60, "2013-01-01T06:41:00.000000"),
        ("2013-03-01", 86400, "2013-02-28"),
        ("0999-03-01", 86400, "0999-02-28"),
    ],
)
def test_numbers_and_date_times(value: Any, lag: float, result: Any) -> None:
    """The lag is subtracted from a number, or as seconds from an ISO date-time, which keeps its form."""
    assert earlier({"t": value, "other": [1]}, {"t": lag}) == {"t": result, "other": [1]}
    assert type(earlier({"t": value}, {"t": lag})["t"]) is type(result)


@given(st.datetimes(min_value=datetime(1000, 1, 1)), st.integers(0, 10**9), st.sampled_from(["", "Z", "+05:30"]))
def test_any_date_time(time: datetime, seconds: int, zone: str) -> None:
    """Any time goes back by exactly that much, in its own zone."""
    try:
        back = time - timedelta(seconds=seconds)
    except OverflowError:
        return
    text = earlier({"t": time.isoformat() + zone}, {"t": seconds})["t"]
    assert text.endswith(zone)
    assert datetime.fromisoformat(text.removesuffix(zone)) == back


def test_nested_fields() -> None:
    """A dot leads into an object; a key that contains a dot wins. The given state does not change."""
    state = {"cursor": {"t": 100, "by": {"page": 7}}, "cursor.t": 5}
    before = deepcopy(state)
    assert earlier(state, {"cursor.t": 1, "cursor.by.page": 2}) == {"cursor": {"t": 100, "by": {"page": 5}}, "cursor.t": 4}
    assert state == before


@pytest.mark.parametrize(
    ("value", "lag", "says"),
    [
        ({"t": 1}, {"u": 1}, "no such field"),
        ({"t": 1}, {"t.u": 1}, "no such field"),
        ({"t": True}, {"t": 1}, "number or an ISO date-time"),
        ({"t": None}, {"t": 1}, "number or an ISO date-time"),
        ({"t": "soon"}, {"t": 1}, "number or an ISO date-time"),
        ({"t": "2013-13-01"}, {"t": 1}, "STATE_LAG"),
        ({"t": "2013-01-01"}, {"t": 3600}, "whole days"),
        ({"t": "0001-01-01T00:00"}, {"t": 1}, "STATE_LAG"),
    ],
)
def test_what_can_not_be_made_smaller(value: dict[str, Any], lag: dict[str, float], says: str) -> None:
    """The error names STATE_LAG and the field. No run ever starts from a state that is not early enough."""
    with pytest.raises(StateSettingsError, match=f"STATE_LAG names .*{says}|{says}"):
        earlier(value, lag)
