"""OrderCheck and StateItemCheck: warnings if state items are missing, or come while requests are out, and only then."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crawls import SPIDER, checkpoints, crawl
from numbered_site import SITE_SPIDER
from scrapy import Request
from scrapy.http.request import NO_CALLBACK

from scrapy_state.barrier.order_check import MANY_INTERVALS, MANY_ITEMS, OrderCheck, Page, StateItemCheck

WITHOUT_REQUESTS = {"STATE_REQUESTS": False}
STATE = object()
Steps = Iterator[Any]
Callback = Callable[["Engine", Request], Steps]


class Engine:
    """Runs callbacks as Scrapy does, that of the lowest number first; what one yields comes to the scheduler when it is over.

    :param concurrent: how many requests are in flight at most
    """

    def __init__(self, start: Callable[[Engine], Steps], callback: Callback, concurrent: int = 16) -> None:
        self.in_flight: set[Request] = set()
        self.scheduled: deque[Request] = deque()
        self.check = StateItemCheck(
            OrderCheck(lambda: self.in_flight, lambda: len(self.scheduled)), 60, logging.getLogger("scrapy_state.state")
        )
        self.callback = callback
        self.concurrent = concurrent
        self._run(start(self), self.check.order.begin(None), lambda request: self.scheduled.append(request))
        self.order: list[Request] = []
        while self._fill() or self.in_flight:
            self.answer(min(self.order, key=lambda request: request.cb_kwargs["number"]))

    def _fill(self) -> bool:
        while self.scheduled and len(self.in_flight) < self.concurrent:
            request = self.scheduled.popleft()
            self.in_flight.add(request)
            self.order.append(request)
        return bool(self.in_flight)

    def answer(self, request: Request) -> None:
        """Let the response of *request* come: its callback runs to its end."""
        self.order.remove(request)
        yielded: list[Request] = []
        self._run(self.callback(self, request), self.check.order.begin(request), yielded.append)
        self.scheduled += yielded
        self.in_flight.remove(request)

    def _run(self, steps: Steps, page: Page, send: Callable[[Request], None]) -> None:
        for step in steps:
            if step is STATE:
                self.check.state(page)
            else:
                page.sent += 1
                send(step)
        self.check.order.end(page)


def page(number: int = 0, **more: Any) -> Request:
    return Request("http://127.0.0.1/", cb_kwargs={"number": number}, **more)


def one(engine: Engine) -> Steps:
    yield page()


def state_then_one(engine: Engine) -> Steps:
    yield STATE
    yield page()


def one_then_state(engine: Engine) -> Steps:
    yield page()
    yield STATE


def only_states(engine: Engine) -> Steps:
    yield from [STATE] * 20


def many(engine: Engine) -> Steps:
    yield from map(page, range(5))


def one_by_one(engine: Engine) -> Steps:
    """A start() whose states say that pages are done which it has only requested."""
    for number in range(5):
        yield page(number)
        yield STATE


def nothing(engine: Engine, request: Request) -> Steps:
    yield from ()


def request_before_state(engine: Engine, request: Request) -> Steps:
    number = request.cb_kwargs["number"]
    if number < 20:
        yield page(number + 1)
        yield STATE


def request_after_state(engine: Engine, request: Request) -> Steps:
    yield STATE
    yield from (step for step in request_before_state(engine, request) if step is not STATE)


def states_on_both_sides(engine: Engine, request: Request) -> Steps:
    yield STATE
    yield from request_before_state(engine, request)


def states_only_sometimes(engine: Engine, request: Request) -> Steps:
    number = request.cb_kwargs["number"]
    yield from (step for step in request_before_state(engine, request) if step is not STATE or number % 7 == 0)


def in_rounds(engine: Engine, request: Request) -> Steps:
    """The requests of a round together; when the last one is done, the state and the next round."""
    if len(engine.in_flight) == 1 and not engine.scheduled and request.cb_kwargs["number"] < 100:
        yield STATE
        yield from (page(request.cb_kwargs["number"] + more) for more in range(1, 10))


def state_each(engine: Engine, request: Request) -> Steps:
    yield STATE


def parallel_chains(engine: Engine, request: Request) -> Steps:
    yield from request_before_state(engine, request)


def details(engine: Engine, request: Request) -> Steps:
    """A listing page: its details, a state item, the next listing page. Details yield no state items."""
    number = request.cb_kwargs["number"]
    if number < 10:
        yield from (page(number + 100 + more) for more in range(10))
        yield STATE
        yield page(number + 1)


def slow_details(engine: Engine, request: Request) -> Steps:
    """A listing page with one detail, which is still out when the next listing page comes."""
    number = request.cb_kwargs["number"]
    if number < 10:
        yield page(number + 100)
        yield STATE
        yield page(number + 1)


SEQUENTIAL = [
    *[(start, callback) for start in (one, state_then_one, one_then_state) for callback in (request_before_state, nothing)],
    *[(one, callback) for callback in (request_after_state, states_on_both_sides, states_only_sometimes)],
    (only_states, nothing),
    (one, in_rounds),
    (many, in_rounds),
]
EARLY = [(many, state_each), (many, parallel_chains), (one, details), (one, slow_details), (one_by_one, nothing)]


@pytest.mark.parametrize("concurrent", [1, 16])
@pytest.mark.parametrize(("start", "callback"), SEQUENTIAL)
def test_nothing_out(start: Any, callback: Any, concurrent: int) -> None:
    """A spider whose state items come while nothing else is under way gets no warning."""
    check = Engine(start, callback, concurrent).check
    assert (check.early, check.most_out) == (0, 0)


@pytest.mark.parametrize("concurrent", [2, 16])
@pytest.mark.parametrize(("start", "callback"), EARLY)
def test_requests_out(start: Any, callback: Any, concurrent: int, caplog: pytest.LogCaptureFixture) -> None:
    """State items that come while requests are out are counted. There is one warning, and one with the numbers at the end."""
    check = Engine(start, callback, concurrent).check
    assert check.early > 1
    assert check.most_out >= 1
    [line] = [record.getMessage() for record in caplog.records]
    assert "a state item came while requests that were yielded before it are still out" in line
    check.closed("finished")
    assert f"{check.early} of {check.states} state items came" in caplog.records[-1].getMessage()
    assert f"(up to {check.most_out})" in caplog.records[-1].getMessage()


def test_parent_that_goes_on() -> None:
    """If a callback has sent its request and is still running, it is out when a state item of that request comes."""
    order = OrderCheck(lambda: {parent, child}, lambda: 0)
    parent, child = page(), page()
    outer = order.begin(parent)
    outer.sent = 1
    inner = order.begin(child)
    assert order.out(inner) == 1
    order.end(outer)  # its items may still be in the pipelines
    assert order.out(inner) == 0


def test_downloads_of_others() -> None:
    """Downloads of pipelines and middlewares are not requests of the spider."""
    own = page()
    order = OrderCheck(lambda: {own, page(callback=NO_CALLBACK)}, lambda: 0)
    assert order.out(order.begin(own)) == 0


def test_memory() -> None:
    """The check remembers nothing of a request that is no longer in flight."""
    in_flight: set[Request] = set()
    order = OrderCheck(lambda: in_flight, lambda: 0)
    for number in range(1000):
        in_flight = {page(number)}
        [request] = in_flight
        began = order.begin(request)
        order.end(began)
    assert len(order._over) == 1


@pytest.mark.parametrize("states", [0, 1])
def test_no_state_items(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, states: int) -> None:
    """Many items and no state item for long: one warning during the crawl, one at its end; a state item starts the count
    afresh."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    check = StateItemCheck(OrderCheck(set, lambda: 0), 60, logging.getLogger("scrapy_state.state"))
    for _ in range(states):
        now += 1000
        check.state(None)
    now += 60 * MANY_INTERVALS - 1
    for _ in range(MANY_ITEMS):
        check.item()
    now += 1
    assert not caplog.records
    check.item()
    check.item()
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("101 items in 300 s, and no state item " + ("since the last one:" if states else "yet:"))
    check.closed("shutdown")
    assert len(caplog.records) == (1 if states else 2)
    check.closed("finished")
    assert (
        caplog.records[-1]
        .getMessage()
        .startswith(
            f"the spider yielded 102 items {'after the last' if states else 'and no'} state item: no checkpoint names them"
        )
    )
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_enough_state_items(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spider with a state item now and then, and one at its end, gets no warning, however long it takes."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    check = StateItemCheck(OrderCheck(set, lambda: 0), 60, logging.getLogger("scrapy_state.state"))
    for _ in range(20):
        for _ in range(MANY_ITEMS - 1):
            now += 100
            check.item()
        check.state(None)
    check.closed("finished")
    assert not caplog.records


@pytest.mark.long
def test_state_items_while_requests_are_out(tmp_path: Path, numbered_site: Any) -> None:
    """Without requests in the checkpoints, state items that come while other requests are out get a warning, and one with the
    numbers at the end. Others get none, nor does a crawl whose checkpoints contain requests."""
    request_first = SITE_SPIDER.replace(
        "        yield StateItem({", "        yield from self.next(page)\n        yield StateItem({"
    )
    request_first = request_first.rpartition("        yield from self.next(page)")[0]
    for number, source in enumerate((SITE_SPIDER, request_first)):
        run = crawl(tmp_path / str(number), source, "-a", f"site={numbered_site.url}/", settings=WITHOUT_REQUESTS)
        assert checkpoints(tmp_path / str(number))[-1]["state"] == {"page": 6}, run.log
        assert not run.lines("] WARNING: "), run.log
    concurrent = SITE_SPIDER + "\n    def first(self):\n        return range(5)\n    def next(self, page):\n        return []\n"
    details = SITE_SPIDER.replace(
        "        yield StateItem({",
        """        if page < 5:
            for detail in range(10):
                yield scrapy.Request(f"{self.site}1{page}{detail}", callback=self.parse_detail)
        yield StateItem({""",
    )
    details += """
    def parse_detail(self, response):
        yield {"detail": response.url}
"""
    for name, source, count in (("concurrent", concurrent, 4), ("details", details, 5)):
        site = ("-a", f"site={numbered_site.url}/")
        run = crawl(tmp_path / name, source, *site, settings=WITHOUT_REQUESTS)
        first, last, *_ = run.lines("] WARNING: ")
        assert "a state item came while requests that were yielded before it are still out (" in first
        assert int(re.search(r"WARNING: (\d+) of \d state items came while requests", last)[1]) >= count  # type: ignore[index]
        run = crawl(tmp_path / f"{name} with requests", source, *site)
        assert not run.lines("] WARNING: "), run.log


def test_no_state_item(tmp_path: Path) -> None:
    """Without requests in the checkpoints, a spider that yields items but no state item gets a warning during the crawl, and
    one at its end with the numbers."""
    source = """
import scrapy

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        for number in range(150):
            yield {"number": number}
"""
    run = crawl(tmp_path, source, settings={"STATE_INTERVAL": 0, **WITHOUT_REQUESTS})
    first, last = run.lines("] WARNING: ")
    assert "100 items in 0 s, and no state item yet: if this run is killed now, the next one begins before them." in first
    assert "the spider yielded 150 items and no state item: no checkpoint names them, and the next run begins" in last
    assert run.lines("spider closed (finished)")
    after = crawl(tmp_path / "after", SPIDER + '        yield {"page": -1}\n', settings=WITHOUT_REQUESTS).lines("] WARNING: ")
    assert [line.partition("WARNING: ")[2][:56] for line in after] == [
        "the spider yielded 1 items after the last state item: no"
    ]
    for settings in ({"STATE_READONLY": True}, {"FEEDS": {"items.jsonl": {"format": "jsonlines"}}}):
        assert not crawl(tmp_path / "nothing stored", source, settings={"STATE_INTERVAL": 0, **settings}).lines("] WARNING: ")
