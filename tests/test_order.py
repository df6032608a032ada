"""OrderCheck: a warning for state items out of requests in flight at the same time, and only for these."""

import gc
from collections.abc import Callable

import pytest
from scrapy import Request

from scrapy_state.order import OrderCheck


class Step:
    """In the place of a Request, which takes longer to make."""


class Spider:
    """Drives an OrderCheck as a spider's callbacks would; *warnings* counts what it said."""

    def __init__(self) -> None:
        self.order = OrderCheck()
        self.warnings = 0

    def request(self, by: Request | None = None) -> Request:
        request = Request("http://127.0.0.1/")
        self.order.request_yielded(request, by)
        return request

    def state(self, by: Request | None = None) -> None:
        self.warnings += self.order.state_yielded(by)


def request_before_state(spider: Spider) -> None:
    request = spider.request()
    for _ in range(20):
        following = spider.request(request)
        spider.state(request)
        request = following


def request_after_state(spider: Spider) -> None:
    request = spider.request()
    for _ in range(20):
        spider.state(request)
        request = spider.request(request)


def states_on_both_sides(spider: Spider) -> None:
    request = spider.request()
    for _ in range(20):
        spider.state(request)
        following = spider.request(request)
        spider.state(request)
        request = following


def states_only_sometimes(spider: Spider) -> None:
    request = spider.request()
    for step in range(50):
        if step % 7 == 0:
            spider.state(request)
        request = spider.request(request)


def start_first(spider: Spider) -> None:
    spider.state()
    request = spider.request()
    for _ in range(20):
        request, by = spider.request(request), request
        spider.state(by)


def start_request_then_state(spider: Spider) -> None:
    request = spider.request()
    spider.state()
    for _ in range(20):
        request, by = spider.request(request), request
        spider.state(by)


def only_start(spider: Spider) -> None:
    for _ in range(20):
        spider.state()


def details_without_states(spider: Spider) -> None:
    page = spider.request()
    for _ in range(10):
        details = [spider.request(page) for _ in range(16)]
        following = spider.request(page)
        spider.state(page)
        for detail in details:
            spider.request(detail)
        page = following


def redirected(spider: Spider) -> None:
    spider.request()
    for _ in range(20):
        answered = Request("http://127.0.0.1/redirected")  # nobody yielded it
        spider.request(answered)
        spider.state(answered)


def concurrent_start(spider: Spider) -> None:
    for request in [spider.request() for _ in range(16)]:
        spider.state(request)


def parallel_chains(spider: Spider) -> None:
    one, two = spider.request(), spider.request()
    for _ in range(4):
        one, by_one = spider.request(one), one
        spider.state(by_one)
        two, by_two = spider.request(two), two
        spider.state(by_two)


def siblings(spider: Spider) -> None:
    page = spider.request()
    for request in [spider.request(page) for _ in range(3)]:
        spider.state(request)


def child_before_parent(spider: Spider) -> None:
    page = spider.request()
    for _ in range(4):
        child = spider.request(page)
        grandchild = spider.request(child)
        spider.state(child)
        spider.state(page)
        page = grandchild


SEQUENTIAL = [
    request_before_state,
    request_after_state,
    states_on_both_sides,
    states_only_sometimes,
    start_first,
    start_request_then_state,
    only_start,
    details_without_states,
    redirected,
]
CONCURRENT = [concurrent_start, parallel_chains, siblings, child_before_parent]


@pytest.mark.parametrize("behaviour", SEQUENTIAL, ids=lambda each: each.__name__)
def test_sequential(behaviour: Callable[[Spider], None]) -> None:
    """A spider that goes on from one request to the next is never warned."""
    spider = Spider()
    behaviour(spider)
    assert spider.warnings == 0


@pytest.mark.parametrize("behaviour", CONCURRENT, ids=lambda each: each.__name__)
def test_concurrent(behaviour: Callable[[Spider], None]) -> None:
    """State items out of requests in flight at the same time are found, and said once."""
    spider = Spider()
    behaviour(spider)
    behaviour(spider)
    assert spider.warnings == 1


def test_memory() -> None:
    """A hundred thousand steps, one after the other, leave nothing behind but the last request."""
    order = OrderCheck()
    request = Step()
    for _ in range(100_000):
        following = Step()
        order.request_yielded(following, request)  # type: ignore[arg-type]
        assert not order.state_yielded(request)  # type: ignore[arg-type]
        request = following
    del following
    gc.collect()
    assert len(order._origins) == 1
    assert len(order._latest) <= 3


def test_memory_once_found() -> None:
    """Once the warning was given, no further request is remembered."""
    spider = Spider()
    concurrent_start(spider)
    gc.collect()
    kept = [spider.request() for _ in range(100)]
    assert len(spider.order._origins) < len(kept)
