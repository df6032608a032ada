"""Tickets by object, and the middleware that issues them, without a crawl."""

from __future__ import annotations

import logging

import pytest
from scrapy import Spider
from scrapy.utils.test import get_crawler

from scrapy_state import StateItem
from scrapy_state.barrier import StateMiddleware
from scrapy_state.barrier.tickets import BEFORE_ALL, Tickets


def test_same_object_several_times() -> None:
    """An object that is yielded several times has a ticket for each time, first in, first out; in the end none is left."""
    tickets, item = Tickets(), {"n": 1}
    for _ in range(3):
        tickets.issue(item)
        tickets.next_epoch()
    issued = [tickets.enter(item) for _ in range(3)]
    assert [each.epoch for each in issued] == [0, 1, 2]
    for each in issued:
        tickets.leave(each, item)
    assert [tickets.scraped(item) for _ in range(3)] == issued
    assert tickets.current.side.out == 3
    assert tickets.scraped(item).epoch == BEFORE_ALL, "nobody yields it again"
    assert tickets.current.side.out == 4


def test_equal_objects() -> None:
    """Items that are equal but not identical have tickets of their own."""
    tickets = Tickets()
    first, second = {"n": 1}, {"n": 1}
    tickets.issue(first)
    tickets.next_epoch()
    tickets.issue(second)
    assert tickets.enter(second).epoch == 1
    assert tickets.enter(first).epoch == 0


@pytest.mark.parametrize(("level", "lines"), [("DEBUG", 1), (logging.DEBUG, 1), ("INFO", 0)])
def test_state_item_in_the_log(caplog: pytest.LogCaptureFixture, level: str | int, lines: int) -> None:
    """The line for a state item is built only if LOG_LEVEL shows it: Scrapy's loggers let every level through."""
    caplog.set_level(logging.DEBUG)
    crawler = get_crawler(settings_dict={"LOG_LEVEL": level})
    crawler.spider = Spider("numbers")
    middleware = StateMiddleware.from_crawler(crawler)
    caplog.clear()
    assert middleware.get_processed_item(StateItem({"page": 3}), None) is None
    assert [each.getMessage() for each in caplog.records] == ['state item {"page": 3}'] * lines
