"""Tickets by object, and the middleware that gives them, without a crawl."""

from __future__ import annotations

import logging

import pytest
from scrapy import Spider
from scrapy.utils.test import get_crawler

from scrapy_state import StateItem
from scrapy_state.barrier import StateMiddleware
from scrapy_state.barrier.barrier import BEFORE_ALL, Barrier


def test_same_object_several_times() -> None:
    """An object that is yielded several times keeps a ticket for each time, first in, first out; nothing is left of it."""
    barrier, item = Barrier(), {"n": 1}
    for _ in range(3):
        barrier.issue(item)
        barrier.next_epoch()
    tickets = [barrier.enter(item) for _ in range(3)]
    assert [each.epoch for each in tickets] == [0, 1, 2]
    for each in tickets:
        barrier.leave(each, item)
    assert [barrier.scraped(item) for _ in range(3)] == tickets
    assert barrier.side.out == 3
    assert barrier.scraped(item).epoch == BEFORE_ALL, "nobody yields it again"
    assert barrier.side.out == 4


def test_equal_objects() -> None:
    """Items that are equal but not the same have tickets of their own."""
    barrier = Barrier()
    first, second = {"n": 1}, {"n": 1}
    barrier.issue(first)
    barrier.next_epoch()
    barrier.issue(second)
    assert barrier.enter(second).epoch == 1
    assert barrier.enter(first).epoch == 0


@pytest.mark.parametrize(("level", "lines"), [("DEBUG", 1), (logging.DEBUG, 1), ("INFO", 0)])
def test_state_item_in_the_log(caplog: pytest.LogCaptureFixture, level: str | int, lines: int) -> None:
    """The line for a state item is made only if LOG_LEVEL shows it: Scrapy's loggers let every level by."""
    caplog.set_level(logging.DEBUG)
    crawler = get_crawler(settings_dict={"LOG_LEVEL": level})
    crawler.spider = Spider("numbers")
    middleware = StateMiddleware.from_crawler(crawler)
    caplog.clear()
    assert middleware.get_processed_item(StateItem({"page": 3}), None) is None
    assert [each.getMessage() for each in caplog.records] == ['state item {"page": 3}'] * lines
