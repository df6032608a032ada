"""Numbers as people say them."""

from __future__ import annotations

import pytest

from scrapy_state.model.totals import Totals
from scrapy_state.model.words import about


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"), (1409.7, "1,410"), (1414213, "1,410,000"), (999.6, "1,000"), (56, "56"), (1.5, "1.5"), (0.0217, "0.02"),
        (0.0001, "0"), (-1409.7, "-1,410"), (123.4, "123"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_about(number: float, said: str) -> None:
    """Three digits count, and there is never an exponent."""
    assert about(number) == said


def test_totals() -> None:
    """Totals survive storing, and add up."""
    totals = Totals(1, 2.5, 3)
    assert Totals.from_json(totals.to_json()) == totals
    assert totals.plus(totals) == Totals(2, 5, 6)
