"""The fault matrix: what becomes of a real crawl when the store fails, at which request, in which way, for how long.

Each of {item PUT, state PUT, LIST, GET} with each of {500, 503, 403, reset, time-out, lost reply, slow} and each of {once,
for a while, for good}, by faulty.py before moto. GET is met at two places: at the start (the newest checkpoint) and before
each commit (the last checkpoint is read again, where the store is not sure to be atomic). Which cells share a crawl:

- once, and for a while (two requests that follow one another): one crawl for each kind meets it at LIST, GET (both places),
  item PUT and state PUT. The opening's state PUT is met once, too, but for a lost reply, which has crawls of its own.
- for good: a bucket for three kinds at a time; the crawl that meets the next one is also the proof that the last one can be
  resumed from. At the start, where nothing is stored, each has a crawl of its own.
- 403: once, for a while and for good are one cell, since it is not tried again: the tests see that one request met it.
- slow: all of its cells are one crawl, in which every answer is late.

What waits in scrapy_state is made shorter by the spider's own module, before anything is read: see SPIDER.
"""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import pytest
from crawls import ITEMS, STATE_OPTIONS, STATES, Crawl, crawl, run_until, start
from faulty import Fault, Proxy
from loopback import Handler, Server
from oracle import Feed, Report, S3Files, check, digest_of, jsonlines_keys

PASSING = ("500", "503", "reset", "time-out", "lost reply")
A_WHILE = 2
#: Seconds, for STATE_RETRY_TIMEOUT and STATE_CLOSE_TIMEOUT where the store fails for good.
GIVE_UP_SECONDS = 1.5
ITEM_PUT = r"PUT .*/items/[^/]*-{batch}\.jsonl$"
STATE_PUT = r"PUT .*/state/0*{id}\.json$"
GET = r"GET .*/state/0*{id}\.json$"
LIST = r"GET .*list-type=2.*/state/"
#: What the faults of a crawl that goes on are met at, in the log.
NAMES = ("-00001.jsonl", "checkpoint 3", "checkpoint 4")

SPIDER = """
import scrapy
from scrapy_state import StateItem
from scrapy_state.stores import retry as patience
from scrapy_state.export import retry as uploads
from scrapy_state.stores import s3_client as s3client

waits = [
    (s3client, "READ_TIMEOUT_SECONDS", read_seconds),
    (patience, "_RETRY_SECONDS", start_seconds),
    (uploads, "_FIRST_PAUSE_SECONDS", 0.1),
]
for module, name, seconds in waits:
    assert hasattr(module, name), name
    setattr(module, name, seconds)

class TestSpider(scrapy.Spider):
    name = "numbers"

    async def start(self):
        self.logger.info("begins at %s", self.state["page"])
        if self.state["page"] < int(self.pages):
            yield self.request(self.state["page"])

    def request(self, page):
        return scrapy.Request(self.site + str(page), cb_kwargs={"page": page})

    def parse(self, response, page):
        for number in range(3):
            yield {"key": f"{page}-{number}"}
        yield StateItem({"page": page + 1})
        if page + 1 < int(self.pages):
            yield self.request(page + 1)
"""


class Site(Handler):
    """Every path is a page, which takes *page_seconds*."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        time.sleep(self.server.page_seconds)
        self.reply(200, "page")


@dataclass
class World:
    """A bucket with the opening checkpoint 1 in it, a proxy before it, and a site to crawl."""

    folder: Path
    bucket: str
    client: Any
    aws: dict[str, str]
    proxy: Proxy
    site: Any
    pages: int = 12
    settings: dict[str, Any] = field(default_factory=lambda: {"STATE_CLOSE_TIMEOUT": 60})

    def run(self, *faults: Fault, source: str = SPIDER, page_seconds: float = 0.05, start_seconds: float = 5) -> Crawl:
        """Crawl while the store has *faults*."""
        self.proxy.faults[:] = faults
        self.site.page_seconds = page_seconds
        read_seconds = 1 if any(fault.kind == "time-out" for fault in faults) else 12
        source = source.replace("read_seconds", str(read_seconds)).replace("start_seconds", str(start_seconds))
        return crawl(self.folder, source, *self.arguments(), settings=self.all_settings())

    def arguments(self) -> list[str]:
        return ["-a", f"site={self.site.url}/", "-a", f"pages={self.pages}"]

    def all_settings(self) -> dict[str, Any]:
        at = f"s3://{self.bucket}"
        feeds = {f"{at}/{ITEMS}": {"format": "jsonlines"}, f"{at}/{STATES}": STATE_OPTIONS}
        endpoint = {"AWS_ENDPOINT_URL": self.proxy.url}
        return {**self.aws, **endpoint, "FEEDS": feeds, "STATE_INTERVAL": 0, "LOG_LEVEL": "INFO", **self.settings}

    def gives_up_soon(self) -> None:
        self.settings |= {"STATE_RETRY_TIMEOUT": GIVE_UP_SECONDS, "STATE_CLOSE_TIMEOUT": GIVE_UP_SECONDS}

    def report(self, keys_of_page: int = 3) -> Report:
        """Check all that is stored: see oracle.py."""
        at = f"s3://{self.bucket}/data/numbers"

        def expected(state: dict[str, Any]) -> dict[str, list[str]]:
            return {"items": [f"{page}-{number}" for page in range(state["page"]) for number in range(keys_of_page)]}

        files = S3Files(self.client, self.bucket)()
        return check(files, f"{at}/state/", {"items": Feed(f"{at}/items/", jsonlines_keys)}, expected)

    def newest(self) -> int:
        """The id of the newest checkpoint stored."""
        keys = self.client.list_objects_v2(Bucket=self.bucket, Prefix="data/numbers/state/")["Contents"]
        return max(int(Path(each["Key"]).stem) for each in keys)

    def is_right(self, keys_of_page: int = 3) -> None:
        """No checkpoint is ahead of the items or behind, no item is named twice, nothing was overwritten."""
        assert self.report(keys_of_page).wrong == []
        assert self.proxy.overwritten() == []

    def is_complete(self, run: Crawl, keys_of_page: int = 3) -> None:
        """*run* ended well, and the lineage holds every item of every page exactly once."""
        assert run.code == 0, run.log
        assert run.lines("'finish_reason': 'finished'")
        assert not run.lines("ERROR"), run.log
        self.is_right(keys_of_page)
        assert self.report().state == {"page": self.pages}


@pytest.fixture
def world(
    tmp_path: Path, bucket: str, s3_client: Any, s3_settings: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[World]:
    first = {"version": 1, "id": 1, "parent": None, "parent_digest": None, "spider": "numbers", "run": "by-hand", "job": None}
    first |= {"time": "2026-11-20T10:00:00.000Z", "state": {"page": 0}, "items": 0, "errors": 0, "files": []}
    first |= {"reason": "opened", "overlap": False}
    body = json.dumps([{**first, "digest": digest_of(first)}]).encode()
    s3_client.put_object(Bucket=bucket, Key="data/numbers/state/0000000001.json", Body=body)
    with Server(Site, asked=[], page_seconds=0.0) as site, Proxy(s3_settings["AWS_ENDPOINT_URL"]) as proxy:
        yield World(tmp_path, bucket, s3_client, s3_settings, proxy, site)


def all_met(faults: list[Fault]) -> bool:
    """Whether the crawl came by all of them, as often as they were there: else a test shows nothing."""
    return [fault.met for fault in faults] == [fault.count for fault in faults]


# Faults that pass. The crawl's checkpoints: 2 opens it, 3 names batch 1, 4 names batch 2, and so on.


@pytest.mark.parametrize("kind", PASSING)
def test_once(world: World, kind: str) -> None:
    """A fault at one request of each sort, at the start and later, costs nothing but a warning: every item is stored once."""
    faults = [
        Fault(kind, LIST),
        Fault(kind, GET.format(id=1)),
        Fault(kind, STATE_PUT.format(id=2)),
        Fault(kind, ITEM_PUT.format(batch="00001")),
        Fault(kind, GET.format(id=2), first=1 + 2),  # at each try to start it is asked whether there is one
        Fault(kind, STATE_PUT.format(id=4)),
    ]
    if kind == "lost reply":
        del faults[2]  # test_opening_reply_is_lost
    run = world.run(*faults, start_seconds=15)
    assert all_met(faults), run.log
    world.is_complete(run)
    assert [len(run.lines(f"{what} is not stored yet")) for what in NAMES] == [1, 1, 1], run.log


@pytest.mark.parametrize("kind", PASSING)
def test_for_a_while(world: World, kind: str) -> None:
    """A store that fails for a while, at the start and later, is waited for: every item is stored once."""
    faults = [
        Fault(kind, LIST, count=A_WHILE),
        Fault(kind, GET.format(id=1), count=A_WHILE),
        Fault(kind, ITEM_PUT.format(batch="00001"), count=A_WHILE),
        Fault(kind, GET.format(id=2), first=1 + A_WHILE + 1, count=A_WHILE),
        Fault(kind, STATE_PUT.format(id=4), count=A_WHILE),
    ]
    run = world.run(*faults, start_seconds=15)
    assert all_met(faults), run.log
    world.is_complete(run)
    assert [len(run.lines(f"{what} is not stored yet")) for what in NAMES] == [A_WHILE] * 3, run.log


@pytest.mark.parametrize("empty", [False, True], ids=["resuming", "first run"])
def test_opening_reply_is_lost(world: World, empty: bool) -> None:
    """An opening checkpoint whose reply is lost is known for our own when it is found: no conflict, and no second opening."""
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
    """A store that is slow at every request, for good, only takes longer."""
    slow = Fault("slow", ".", count=inf)
    run = world.run(slow)
    assert slow.met == len(world.proxy.log) > 10
    world.is_complete(run)
    assert not run.lines("is not stored yet")


# Faults that don't pass


def at_later_commit(place: str, kind: str, newest: int) -> Fault:
    """A fault for good, which a crawl meets at its second commit, when *newest* was there before it.

    It opens with the next id and commits the one after that; 403 is at one file only, so that it is met once.
    """
    before, id = newest + 2, newest + 3
    if place == "item PUT":
        return Fault(kind, ITEM_PUT.format(batch="00002" if kind == "403" else r"(?!00001)\d+"), count=inf)
    if place == "state PUT":
        return Fault(kind, STATE_PUT.format(id=id), count=inf)
    return Fault(kind, GET.format(id=before), first=2, count=inf)


def stopped(run: Crawl) -> tuple[int, dict[str, Any]]:
    """Check that *run* ended as one does whose store failed; return where it says that checkpoints stopped."""
    assert run.code == 1, run.log
    assert run.lines("'finish_reason': 'state_store_failed'"), run.log
    errors = [line for line in run.lines("ERROR") if "[scrapy_state" in line]
    assert len(errors) == 1, run.log
    found = re.search(r"checkpoints stopped at checkpoint (\d+), STATE (.*), because: ", errors[0])
    assert found, errors[0]
    assert "Traceback" not in run.log, run.log
    return int(found[1]), json.loads(found[2])


@pytest.mark.parametrize("kinds", [("500", "503", "403"), ("reset", "time-out", "lost reply")], ids=" and ".join)
@pytest.mark.parametrize("place", ["item PUT", "state PUT", "GET before commit"])
def test_for_good(world: World, place: str, kinds: tuple[str, ...]) -> None:
    """A store that fails for good stops the crawl with one error that says where; without the fault the next run completes."""
    world.gives_up_soon()
    world.pages = 60
    for kind in kinds:
        before = world.newest()
        fault = at_later_commit(place, kind, before)
        run = world.run(fault, page_seconds=0.2)
        id, state = stopped(run)
        world.is_right()
        # A state PUT whose reply was lost did store one more, whole and true: the run can't know of it.
        unknown = 1 if (place, kind) == ("state PUT", "lost reply") else 0
        assert (id, world.newest()) == (before + 2, before + 2 + unknown), run.log
        assert world.report().checkpoints[id - 1]["state"] == state
        tried_again = len(run.lines("is not stored yet"))
        if kind == "403":
            assert (fault.met, tried_again) == (1, 0), run.log
        else:
            assert fault.met > 1, run.log
            assert tried_again >= 1, run.log
    world.settings = {"STATE_INTERVAL": 1}
    page = world.report().state["page"]
    run = world.run(page_seconds=0)
    assert run.lines(f"begins at {page}"), run.log
    world.is_complete(run)


@pytest.mark.parametrize("place", ["item PUT", "state PUT"])
def test_for_good_at_the_end(world: World, place: str) -> None:
    """A store that fails for good when the crawl has nothing left to do: the same end as in the middle of it."""
    world.gives_up_soon()
    fault = Fault("500", STATE_PUT.format(id=r"[3-9]") if place == "state PUT" else ITEM_PUT.format(batch=r"\d+"), count=inf)
    run = world.run(fault, page_seconds=0)
    assert fault.met > 1
    assert (world.newest(), world.report().state) == (2, {"page": 0})
    world.settings = {}
    world.is_complete(world.run(page_seconds=0))
    assert stopped(run) == (2, {"page": 0})


REMEDIES = {"403": "check the credentials", "500": "try again later", "503": "try again later"}


#: To the package 500, 503, reset and time-out are one error, so that a few cells do in every run; STATE_ALL_FAULTS=1: all.
AT_START = [
    *(("LIST", kind) for kind in ("500", "reset", "time-out", "403")),
    *(("GET", kind) for kind in ("503", "lost reply", "403")),
    *(("opening PUT", kind) for kind in ("500", "lost reply", "403")),
]
if os.environ.get("STATE_ALL_FAULTS"):
    AT_START = [(place, kind) for place in ("LIST", "GET", "opening PUT") for kind in (*PASSING, "403")]


@pytest.mark.parametrize(("place", "kind"), AT_START)
def test_for_good_at_start(world: World, place: str, kind: str) -> None:
    """If the newest checkpoint can't be found, or the opening one not be stored, there is no crawl; one line says why."""
    world.gives_up_soon()
    patterns = {"LIST": LIST, "GET": GET.format(id=1), "opening PUT": STATE_PUT.format(id=2)}
    fault = Fault(kind, patterns[place], count=inf)
    run = world.run(fault, start_seconds=1)
    assert run.code == 1, run.log
    assert world.site.asked == []
    assert not run.lines("begins at")
    assert fault.met == 1 if kind == "403" else fault.met >= 1, run.log
    [line] = run.lines("[scrapy_state.state] ERROR: the crawl does not start: ")
    assert REMEDIES.get(kind, "check AWS_ENDPOINT_URL") in line
    assert "StateConflict" not in run.log
    world.is_right()
    assert world.newest() == (2 if (place, kind) == ("opening PUT", "lost reply") else 1)


@pytest.mark.parametrize("request_", [LIST, STATE_PUT.format(id=2)], ids=["LIST", "opening PUT"])
def test_refusal_is_one_line(world: World, request_: str) -> None:
    """A crawl that refuses to start says so in one ERROR line of scrapy_state's, with the remedy: no traces to read through."""
    run = world.run(Fault("403", request_, count=inf))
    errors = [line for line in run.lines("ERROR") if "[scrapy_state" in line]
    assert len(errors) == 1, run.log
    assert "check the credentials" in errors[0]
    assert "Traceback" not in run.log, run.log


# A store that knows no conditional writes


def test_no_conditional_writes(world: World) -> None:
    """A store that answers 501 to create-only writes is written to all the same; one line of the log says what that means."""
    run = world.run(Fault("501", ".", count=inf))
    world.is_complete(run)
    assert {each.status for each in world.proxy.seen("^PUT ") if each.fault is None} == {200}
    refused = [each.request for each in world.proxy.seen("^PUT ") if each.fault == "501"]
    assert len(refused) >= 2, refused  # the opening; then the first batch
    assert len(run.lines("a second writer there is detected, not prevented")) == 1, run.log


@pytest.mark.parametrize("id", [3, 4], ids=["last checkpoint overwritten", "next id taken"])
def test_second_writer_without_conditional_writes(world: World, id: int) -> None:
    """There, a run finds at its next commit that another one was there, stops, and overwrites nothing of it."""
    world.proxy.faults[:] = [Fault("501", ".", count=inf)]
    world.site.page_seconds = 1  # so that the other one comes between two commits
    source = SPIDER.replace("read_seconds", "12").replace("start_seconds", "5")
    key, other = f"data/numbers/state/{id:010d}.json", b'[{"state": {"page": 7}}]'
    with start(world.folder, source, *world.arguments(), settings=world.all_settings()) as process:
        try:
            log = run_until(process, "checkpoint 3 stored")
            world.client.put_object(Bucket=world.bucket, Key=key, Body=other)
            log += process.communicate(timeout=40)[1]
        finally:
            process.kill()
    assert process.returncode == 1, log
    assert "'finish_reason': 'state_conflict'" in log
    assert world.client.get_object(Bucket=world.bucket, Key=key)["Body"].read() == other
    assert world.newest() == id


# A store that is down while much is yielded, and while the crawl is told to stop

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


@pytest.mark.parametrize("origin", ["callback", "start"])
def test_down_while_many_items_come(world: World, origin: str) -> None:
    """While the store is down the crawl is held back, at STATE_SPOOL_SIZE; then it goes on, and every item is stored once."""
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
    # CONCURRENT_ITEMS, 100, that wait at the processor, and the 200 that Scrapy queues before it
    assert int(line.partition("at most ")[2].split()[0]) <= 300, line


@pytest.mark.parametrize("kind", ["500", "time-out"])
def test_sigterm_while_down(world: World, kind: str) -> None:
    """SIGTERM while the store fails ends the run within STATE_CLOSE_TIMEOUT, with exit code 1 and one error.

    If the store is silent that is told in this time too, but the process waits for the call under way to time out.
    """
    world.settings = {"STATE_CLOSE_TIMEOUT": 3}
    world.pages = 1000
    world.site.page_seconds = 0.05
    down = Fault(kind, ITEM_PUT.format(batch="00002"), count=inf)
    world.proxy.faults[:] = [down]
    source = SPIDER.replace("read_seconds", "4").replace("start_seconds", "5")
    process = start(world.folder, source, *world.arguments(), settings=world.all_settings())
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
    assert process.returncode == 1, log
    assert [line.partition("ERROR: ")[2].partition(",")[0] for line in errors] == ["checkpoints stopped at checkpoint 3"], log
    assert world.newest() == 3
    world.is_right()
    world.settings, world.pages = {}, 12
    world.is_complete(world.run(page_seconds=0))
    assert took < 3 + 3 + (4 if kind == "time-out" else 0), log
