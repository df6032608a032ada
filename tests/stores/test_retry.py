"""Calls to a store that does not answer at once."""

import threading

import pytest

from scrapy_state.exceptions import StoreRefused
from scrapy_state.stores import retry as patience
from scrapy_state.stores.retry import in_thread

DEADLINE_SECONDS = 30


def test_says_that_it_waits(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """While a store is silent, whoever waits for it says so, again and again; the result is the same."""
    caplog.set_level("INFO", "scrapy_state.state")
    monkeypatch.setattr(patience, "_SAY_SECONDS", 0.01)
    said = threading.Event()
    monkeypatch.setattr(patience.logger, "info", lambda *_: said.set())

    def answer() -> str:
        for _ in range(2):
            assert said.wait(DEADLINE_SECONDS)
            said.clear()
        return "answer"

    assert in_thread(answer) == "answer"


def test_an_error_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    """What the call raises is raised, and where the answer comes at once nothing is said."""

    def refuse() -> None:
        raise StoreRefused("no")

    caplog.set_level("INFO", "scrapy_state.state")
    with pytest.raises(StoreRefused, match="no"):
        in_thread(refuse)
    assert caplog.records == []
