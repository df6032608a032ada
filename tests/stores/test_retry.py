"""Retrying calls to a store: the pauses, how long it goes on, and what the log says meanwhile."""

import random
import threading
from itertools import islice
from types import SimpleNamespace

import pytest

from scrapy_state.exceptions import StoreRefused, StoreUnreachable
from scrapy_state.stores import retry
from scrapy_state.stores.retry import in_thread, patiently, pauses

DEADLINE_SECONDS = 30


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make sleeping take no time; return the list whose one number is the time, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: advance(seconds)))

    def advance(seconds: float) -> None:
        now[0] += seconds

    return now


def test_pauses() -> None:
    """Each pause is twice as long as the one before, up to the longest; chance removes at most half of it, differently each
    time."""
    random.seed(14)
    for _ in range(100):
        seconds = list(islice(pauses(0.5, 30), 9))
        for pause, most in zip(seconds, [0.5, 1, 2, 4, 8, 16, 30, 30, 30], strict=True):
            assert most / 2 <= pause <= most
    assert len(set(islice(pauses(1, 1), 100))) == 100
    assert all(0.5 <= pause <= 1 for pause in islice(pauses(5, 1), 3)), "the first one is not longer than the longest"


def test_patience_ends(clock: list[float]) -> None:
    """A store that never answers is asked several times, and for a few seconds only."""
    began, attempts = clock[0], []

    def unreachable() -> None:
        attempts.append(clock[0])
        raise StoreUnreachable("no answer")

    with pytest.raises(StoreUnreachable):
        patiently(unreachable)
    assert len(attempts) >= 4
    assert attempts[-1] - began <= retry._RETRY_SECONDS


def test_patience_pays(clock: list[float]) -> None:
    """If the store answers again meanwhile, its answer is the result."""
    answers = iter([StoreUnreachable("no answer"), StoreUnreachable("no answer"), "answer"])

    def answer() -> str:
        if isinstance(found := next(answers), StoreUnreachable):
            raise found
        return found

    assert patiently(answer) == "answer"


def test_says_that_it_waits(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """While a store is silent, a line says again and again that the caller waits; the result is the same."""
    caplog.set_level("INFO", "scrapy_state.state")
    monkeypatch.setattr(retry, "_LOG_SECONDS", 0.01)
    said = threading.Event()
    monkeypatch.setattr(retry.logger, "info", lambda *_: said.set())

    def answer() -> str:
        for _ in range(2):
            assert said.wait(DEADLINE_SECONDS)
            said.clear()
        return "answer"

    assert in_thread(answer) == "answer"


def test_an_error_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    """An error that the call raises is raised; if the answer comes at once, no line is logged."""

    def refuse() -> None:
        raise StoreRefused("no")

    caplog.set_level("INFO", "scrapy_state.state")
    with pytest.raises(StoreRefused, match="no"):
        in_thread(refuse)
    assert caplog.records == []
