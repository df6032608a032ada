"""The values of settings: what each function accepts and returns, and its errors."""

from typing import Any

import pytest
from scrapy.settings import Settings

from scrapy_state.exceptions import StateSettingsError
from scrapy_state.model.values import get_bool, get_choice, get_number, size_in_bytes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        ("1", 1),
        (" 10 ", 10),
        ("10B", 10),
        ("2kB", 2000),
        ("2KB", 2000),
        ("2 KiB", 2048),
        ("1.5GB", 1_500_000_000),
        ("64MiB", 64 * 2**20),
        ("64mib", 64 * 2**20),
        ("1TiB", 2**40),
        (1e3, 1000),
    ],
)
def test_size_in_bytes(value: Any, expected: int) -> None:
    """A size is a number of bytes or text with a unit."""
    assert size_in_bytes("SIZE", value) == expected


@pytest.mark.parametrize(("value", "expected"), [(1, 1), ("2.5", 2.5), (None, 60), (1e9, 1e9)])
def test_number(value: Any, expected: float) -> None:
    """A number is a number, or text of one; None means that the setting was not given."""
    assert get_number(Settings({"N": value}), "N", 60, minimum=1) == expected


@pytest.mark.parametrize("value", [0, 0.9, "-1", "nan", "inf", "1 s", "", [], {}])
def test_not_a_number(value: Any) -> None:
    """Another value, or one below the minimum, is an error with the setting, its value and the minimum."""
    with pytest.raises(StateSettingsError) as caught:
        get_number(Settings({"N": value}), "N", 60, minimum=1)
    assert (caught.value.reason, caught.value.remedy) == (f"N is {value!r}", "it must be a number, 1 or more")


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("false", False), (0, False), (None, True)])
def test_bool(value: Any, expected: bool) -> None:
    """A bool is whatever Scrapy takes for one; None means that the setting was not given."""
    assert get_bool(Settings({"B": value}), "B", True) is expected


def test_neither_true_nor_false() -> None:
    """Another value is an error with the setting, its value and the remedy."""
    with pytest.raises(StateSettingsError, match="B is 'yes'; it must be True or False"):
        get_bool(Settings({"B": "yes"}), "B", True)


def test_choice() -> None:
    """A choice is one of the texts listed, the first if the setting was not given; the error lists them all."""
    assert get_choice(Settings(), "C", "keep", "delete") == "keep"
    assert get_choice(Settings({"C": "delete"}), "C", "keep", "delete") == "delete"
    with pytest.raises(StateSettingsError, match='C is True; it must be "keep" or "delete"'):
        get_choice(Settings({"C": True}), "C", "keep", "delete")
