"""P6, no silent failure: no checkpoint is stored past a failed item or upload, and one error says what to do.

That error says what failed, where checkpoints stopped and how to continue; the exit code is not 0. A store that is slow,
or down for a while, costs nothing. First the fault matrix, what becomes of a real crawl when the store fails, at which
request, in which way and for how long; then items that fail.

Each of {item PUT, state PUT, LIST, GET} with each of {500, 503, 403, reset, time-out, lost reply, slow} and each of {once,
for a while, for good}; faulty.py, in front of moto, makes the faults. A crawl sends GETs at two points: at the start (the
newest checkpoint) and before each commit (it reads the last checkpoint again if the store may not be atomic). Some cells
share a crawl:

- once, and for a while (two requests in a row): one crawl per kind meets it at LIST, at both GETs, item PUT and state PUT. It
  also meets it once at the opening's state PUT, except for a lost reply, which has crawls of its own.
- for good: one bucket for three kinds. The crawl that meets the next kind also proves that a crawl can resume after the last
  one. At the start, where nothing is stored, each kind has a crawl of its own.
- 403: once, for a while and for good are one cell, because nothing retries it: the tests check that one request met it (two
  GETs, because a store may answer 403 for a missing file).
- slow: one crawl for all cells, in which every answer is late.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from math import inf
from pathlib import Path
from typing import Any

import pytest
from crawls import SPIDER, Crawl, checkpoints, crawl, named_items, run_until
from faulty import Fault
from faulty_crawls import GET, ITEM_PUT, LIST, STATE_PUT, World

PASSING = ("500", "503", "reset", "time-out", "lost reply")


def more(*values: object) -> object:
    """Return a cell that `make test-long` tests: to the package 500, 503 and reset are one error."""
    return pytest.param(*values, marks=pytest.mark.long)


PASSING_CELLS = [more(kind) if kind in ("503", "reset") else kind for kind in PASSING]
A_WHILE = 2
#: How the log names what the faults hit, in a crawl that continues.
NAMES = ("-00001.jsonl", "checkpoint 3", "checkpoint 4")


def all_met(faults: list[Fault]) -> bool:
    """Return whether the crawl met each fault as often as it was there. If not, a test proves nothing."""
    return [fault.met for fault in faults] == [fault.count for fault in faults]


# Faults that pass. The crawl's checkpoints: 2 opens it, 3 names batch 1, 4 names batch 2, and so on.


@pytest.mark.parametrize("kind", PASSING_CELLS)
def test_once(world: World, kind: str) -> None:
    """A single fault at each sort of request, at the start and later, costs only a warning: every item is stored once."""
    faults = [
        Fault(kind, LIST),
        Fault(kind, GET.format(id=1)),
        Fault(kind, STATE_PUT.format(id=2)),
        Fault(kind, ITEM_PUT.format(batch="00001")),
        Fault(kind, GET.format(id=2)),
        Fault(kind, STATE_PUT.format(id=4)),
    ]
    if kind == "lost reply":
        del faults[2]  # test_opening_reply_is_lost
    run = world.run(*faults, start_seconds=15)
    assert all_met(faults), run.log
    world.is_complete(run)
    assert [len(run.lines(f"{what} is not stored yet")) for what in NAMES] == [1, 1, 1], run.log


@pytest.mark.parametrize("kind", PASSING_CELLS)
def test_for_a_while(world: World, kind: str) -> None:
    """If a store fails for a while, at the start and later, the crawl waits for it and stores every item once."""
    puts = 1 if kind == "lost reply" else A_WHILE  # before a second PUT the crawl looks, and finds the file
    faults = [
        Fault(kind, LIST, count=A_WHILE),
        Fault(kind, GET.format(id=1), count=A_WHILE),
        Fault(kind, ITEM_PUT.format(batch="00001"), count=puts),
        Fault(kind, GET.format(id=2), count=A_WHILE),
        Fault(kind, STATE_PUT.format(id=4), count=puts),
    ]
    run = world.run(*faults, start_seconds=15)
    assert all_met(faults), run.log
    world.is_complete(run)
    assert [len(run.lines(f"{what} is not stored yet")) for what in NAMES] == [puts, A_WHILE, puts], run.log


def test_every_reply_is_lost(world: World) -> None:
    """If a store obeys every PUT but never answers, the crawl looks what is there: every item is stored once, nothing stops."""
    lost = Fault("lost reply", r"PUT .*/(items|state)/", count=inf)
    run = world.run(lost)
    assert lost.met > 2, run.log
    world.is_complete(run)


@pytest.mark.parametrize("empty", [False, True], ids=["resuming", "first run"])
def test_opening_reply_is_lost(world: World, empty: bool) -> None:
    """If the reply to the opening checkpoint is lost, the run recognizes its own file: no conflict, no second opening."""
    id = 2
    if empty:
        world.client.delete_object(Bucket=world.bucket, Key="data/numbers/state/0000000001.json")
        world.settings |= {"STATE": {"page": 0}}
        id = 1
    lost = Fault("lost reply", STATE_PUT.format(id=id))
    run = world.run(lost)
    assert all_met([lost])
    world.is_complete(run)
    assert [each["id"] for each in world.report().checkpoints if each["reason"] == "opened"] == list(range(1, id + 1))


def test_slow(world: World) -> None:
    """With a store that answers every request slowly, a crawl only takes longer."""
    slow = Fault("slow", ".", count=inf)
    run = world.run(slow)
    assert slow.met == len(world.proxy.log) > 10
    world.is_complete(run)
    assert not run.lines("is not stored yet")


# Faults that don't pass


def at_later_commit(place: str, kind: str, newest: int) -> Fault:
    """Return a fault for good that a crawl meets at its second commit, if it starts from checkpoint *newest*.

    It opens with the next id and commits the one after that. 403 is at one file only, so that one request meets it.
    """
    before, id = newest + 2, newest + 3
    if place == "item PUT":
        return Fault(kind, ITEM_PUT.format(batch="00002" if kind == "403" else r"(?!00001)\d+"), count=inf)
    if place == "state PUT":
        return Fault(kind, STATE_PUT.format(id=id), count=inf)
    return Fault(kind, GET.format(id=before), count=inf)


def stopped(run: Crawl, kind: str = "500") -> tuple[int, dict[str, Any]]:
    """Check that *run* ended because its store failed, and whether to try again; return where checkpoints stopped."""
    assert run.code == (1 if kind == "403" else 75), run.log
    assert run.lines("'finish_reason': 'state_store_failed'"), run.log
    errors = [line for line in run.lines("ERROR") if "[scrapy_state" in line]
    assert len(errors) == 1, run.log
    found = re.search(r"checkpoints stopped at checkpoint (\d+), STATE (.*), because: ", errors[0])
    assert found, errors[0]
    assert "Traceback" not in run.log, run.log
    return int(found[1]), json.loads(found[2])


ANSWERS, SILENCE = ("500", "503", "403"), ("reset", "time-out", "lost reply")


@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        ("item PUT", ANSWERS),
        ("state PUT", SILENCE),
        ("GET before commit", ANSWERS),
        more("item PUT", SILENCE),
        more("state PUT", ANSWERS),
        more("GET before commit", SILENCE),
    ],
    ids=lambda each: each if isinstance(each, str) else " and ".join(each),
)
def test_for_good(world: World, place: str, kinds: tuple[str, ...]) -> None:
    """A store that fails for good stops the crawl with one error that says where; the next run completes without the fault."""
    world.gives_up_soon()
    world.pages = 60
    for kind in kinds:
        if kind == "lost reply" and "PUT" in place:
            continue  # test_every_reply_is_lost
        before = world.newest()
        fault = at_later_commit(place, kind, before)
        run = world.run(fault, page_seconds=0.2)
        id, state = stopped(run, kind)
        world.is_right()
        assert (id, world.newest()) == (before + 2, before + 2), run.log
        assert world.report().checkpoints[id - 1]["state"] == state
        tried_again = len(run.lines("is not stored yet"))
        if kind == "403":
            # It sends a GET again once a listing has shown that the file exists: 403 may also mean that it is missing.
            assert (fault.met, tried_again) == (2 if "GET" in place else 1, 0), run.log
        else:
            assert fault.met > 1, run.log
            assert tried_again >= 1, run.log
    world.settings = {"STATE_INTERVAL": 1}
    page = world.report().state["page"]
    run = world.run(page_seconds=0)
    assert run.lines(f"begins at {page}"), run.log
    world.is_complete(run)


@pytest.mark.parametrize("place", [more("item PUT"), "state PUT"])
def test_for_good_at_the_end(world: World, place: str) -> None:
    """A store that fails for good when the crawl has nothing left to do ends it as it would in the middle."""
    world.gives_up_soon()
    fault = Fault("500", STATE_PUT.format(id=r"[3-9]") if place == "state PUT" else ITEM_PUT.format(batch=r"\d+"), count=inf)
    run = world.run(fault, page_seconds=0)
    assert fault.met > 1
    assert (world.newest(), world.report().state) == (2, {"page": 0})
    world.settings = {}
    world.is_complete(world.run(page_seconds=0))
    assert stopped(run) == (2, {"page": 0})


REMEDIES = {"403": "check the credentials", "500": "try again later", "503": "try again later"}


#: A few cells are enough; STATE_ALL_FAULTS=1 tests them all.
AT_START = [
    *(("LIST", kind) for kind in ("500", "reset", "time-out", "403")),
    *(("GET", kind) for kind in ("503", "lost reply", "403")),
    *(("opening PUT", kind) for kind in ("500", "403")),  # test_every_reply_is_lost
]
if os.environ.get("STATE_ALL_FAULTS"):
    AT_START = [(place, kind) for place in ("LIST", "GET", "opening PUT") for kind in (*PASSING, "403")]
    AT_START.remove(("opening PUT", "lost reply"))


@pytest.mark.parametrize(("place", "kind"), AT_START)
def test_for_good_at_start(world: World, place: str, kind: str) -> None:
    """If a run can't find the newest checkpoint, or store its opening one, it does not start; one line says why."""
    world.gives_up_soon()
    patterns = {"LIST": LIST, "GET": GET.format(id=1), "opening PUT": STATE_PUT.format(id=2)}
    fault = Fault(kind, patterns[place], count=inf)
    run = world.run(fault, start_seconds=1)
    assert run.code == (1 if kind == "403" else 75), run.log
    assert world.site.asked == []
    assert not run.lines("begins at")
    assert fault.met == (2 if place == "GET" else 1) if kind == "403" else fault.met >= 1, run.log
    [line] = run.lines("[scrapy_state.state] ERROR: the crawl does not start: ")
    assert REMEDIES.get(kind, "check AWS_ENDPOINT_URL") in line
    assert "StateConflict" not in run.log
    world.is_right()
    assert world.newest() == 1


@pytest.mark.parametrize("request_", [LIST, STATE_PUT.format(id=2)], ids=["LIST", "opening PUT"])
def test_refusal_is_one_line(world: World, request_: str) -> None:
    """A crawl that refuses to start says so in one ERROR line of scrapy_state's, with the remedy and without a traceback."""
    run = world.run(Fault("403", request_, count=inf))
    errors = [line for line in run.lines("ERROR") if "[scrapy_state" in line]
    assert len(errors) == 1, run.log
    assert "check the credentials" in errors[0]
    assert "Traceback" not in run.log, run.log


# A store that is down while the spider yields many items, and while the crawl is being stopped

MANY = 10_000
MANY_SPIDER = """
import scrapy
from scrapy_state import StateItem

class TestSpider(scrapy.Spider):
    name = "numbers"
    most = 0

    async def start(self):
        if self.origin == "callback":
            yield scrapy.Request(self.site)
        else:
            for each in self.items():
                yield each

    def parse(self, response):
        yield from self.items()

    def items(self):
        for number in range(many):
            yield {"key": f"0-{number}"}
            self.most = max(self.most, number + 1 - self.crawler.stats.get_value("item_scraped_count", 0))
        yield StateItem({"page": 1})

    def closed(self, reason):
        self.logger.info("at most %s items were yielded and not exported", self.most)
"""


@pytest.mark.parametrize("origin", ["callback", more("start")])
def test_down_while_many_items_are_yielded(world: World, origin: str) -> None:
    """While the store is down, the crawl waits at STATE_SPOOL_SIZE; then it continues, and stores every item once."""
    world.pages = 1
    world.settings |= {"STATE_SPOOL_SIZE": "20kB"}
    down = Fault("503", "PUT .*/items/", first=3, count=inf, seconds=4)
    source = MANY_SPIDER.replace("many", str(MANY)).replace("self.origin", repr(origin))
    run = world.run(down, source=source, page_seconds=0)
    assert down.met > 1
    world.is_complete(run, keys_of_page=MANY)
    waits = [int(line.partition("the crawl waits: ")[2].split()[0]) for line in run.lines("the crawl waits: ")]
    assert waits
    assert max(waits) <= 21_000
    assert len(run.lines("the crawl goes on")) == len(waits)
    files_then = {each.request: each.size for each in world.proxy.log if each.fault}
    assert sum(files_then.values()) <= 21_000, files_then
    [line] = run.lines("items were yielded and not exported")
    # 100 (CONCURRENT_ITEMS) wait at the processor, and Scrapy queues up to 200 before it.
    assert int(line.partition("at most ")[2].split()[0]) <= 300, line


@pytest.mark.parametrize("kind", ["500", "time-out"])
def test_sigterm_while_down(world: World, kind: str) -> None:
    """SIGTERM while the store fails ends the run within STATE_CLOSE_TIMEOUT, with exit code 75 and one error.

    If the store is silent, the error comes in this time, too; then the process waits until the current call times out.
    """
    world.settings = {"STATE_CLOSE_TIMEOUT": 3}
    world.pages = 1000
    down = Fault(kind, ITEM_PUT.format(batch="00002"), count=inf)
    process = world.start(down, page_seconds=0.05, read_seconds=4)
    try:
        log = run_until(process, "checkpoint 3 stored")
        while not down.met:
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        log += process.communicate(timeout=40)[1]
        took = time.monotonic() - began
    finally:
        process.kill()
        process.wait()
    errors = [line for line in log.splitlines() if "[scrapy_state.state] ERROR: " in line]
    assert process.returncode == 75, log
    assert [line.partition("ERROR: ")[2].partition(",")[0] for line in errors] == ["checkpoints stopped at checkpoint 3"], log
    assert world.newest() == 3
    world.is_right()
    world.settings, world.pages = {}, 12
    world.is_complete(world.run(page_seconds=0))
    assert took < 3 + 3 + (4 if kind == "time-out" else 0), log


# Items that fail


def test_pipeline_error_stops_checkpoints(tmp_path: Path) -> None:
    """No checkpoint is stored past an item whose pipeline raised: the crawl stops, the exit code and one error line say so."""
    source = (
        SPIDER
        + """
        for page in range(1000):
            yield {"page": 1000 + page, "n": 0}

class Pipeline:
    def process_item(self, item):
        if item == {"page": 1, "n": 1}:
            raise ValueError("what the item holds: top secret")
        return item
"""
    )
    run = crawl(tmp_path, source, settings={"ITEM_PIPELINES": {"spider.Pipeline": 1}, "STATE_INTERVAL": 0})
    assert run.code == 1
    errors = run.lines("[scrapy_state.state] ERROR")
    assert len(errors) == 1
    last = checkpoints(tmp_path)[-1]
    assert f"checkpoints stopped at checkpoint {last['id']}, STATE {json.dumps(last['state'])}, because" in errors[0]
    assert "an item raised ValueError in a pipeline" in errors[0]
    assert "secret" not in errors[0]
    assert checkpoints(tmp_path)[-1]["state"] in ({}, {"page": 1})
    assert run.lines("'finish_reason': 'state_item_failed'")
    fixed = crawl(tmp_path, SPIDER)
    assert fixed.code == 0
    assert named_items(tmp_path)[:4] == [{"page": page, "n": n} for page in range(2) for n in range(2)]


def test_pipeline_error_skipped(tmp_path: Path) -> None:
    """With STATE_ON_ITEM_ERROR="skip" the crawl continues, and the checkpoint counts the items that failed."""
    source = (
        SPIDER
        + """
class Pipeline:
    def process_item(self, item):
        if item["n"]:
            raise ValueError
        return item
"""
    )
    settings = {"ITEM_PIPELINES": {"spider.Pipeline": 1}, "STATE_ON_ITEM_ERROR": "skip"}
    run = crawl(tmp_path, source, settings=settings)
    assert run.code == 0
    last = checkpoints(tmp_path)[-1]
    assert (last["state"], last["errors"], last["items"]) == ({"page": 3}, 3, 3)


def test_exporter_error_stops_checkpoints(tmp_path: Path) -> None:
    """If a feed can't serialize an item, no checkpoint is stored past it, and the crawl stops with an error."""
    source = SPIDER.replace('yield {"page": page, "n": 1}', 'yield {"page": page, "n": 1 if page else object()}')
    run = crawl(tmp_path, source, settings={"STATE_INTERVAL": 0})
    assert run.code == 1
    assert run.lines("an item could not be exported (TypeError)")
    assert checkpoints(tmp_path)[-1]["state"] == {}
    assert run.lines("'finish_reason': 'state_store_failed'")
