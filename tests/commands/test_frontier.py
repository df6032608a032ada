"""The verb frontier, for requests in checkpoints. Those in Redis are in ``tests/redis/``."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import refused, run
from faulty import Proxy
from histories import History, state

from scrapy_state.frontier.segments import OpenSegment
from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.requests import Requests

pytestmark = pytest.mark.long

SECRET = "s3cr3t"


def request(url: str, **more: object) -> str:
    return json.dumps({"url": url, **more})


def first_segment() -> OpenSegment:
    """Pages 1 to 4: a start request, one with a callback, one of low priority, one that the second segment settles."""
    segment = OpenSegment("r1", "numbers")
    segment.add(1, 0, True, request("https://x/1"))
    segment.add(2, 0, False, request("https://x/2", method="POST", callback="parse_item", headers={"Cookie": [SECRET]}))
    segment.add(3, -5, False, request("https://x/3"))
    segment.add(4, 0, False, request("https://x/4"))
    segment.held(4, "HTTP 500", [])
    segment.failed("https://x/old", "HTTP 404")
    segment.cookies(jar(None, ("x", "old")))
    return segment


def second_segment() -> OpenSegment:
    segment = OpenSegment("r1", "numbers")
    segment.settle(4)
    segment.deaths(1, 2)
    segment.held(3, "ValueError: no price", ["0123456789abcdef"])
    segment.failed("https://x/gone", "HTTP 410")
    segment.cookies(jar(None, ("x", "session"), ("y", "id", 1800000000)))
    segment.cookies(jar("second", ("x", "session")))
    return segment


def jar(key: object, *cookies: tuple[object, ...]) -> dict[str, object]:
    stored = []
    for domain, name, *expires in cookies:
        stored.append(
            {"domain": domain, "name": name, "path": "/", "expires": expires[0] if expires else None, "value": SECRET}
        )
    return {"jar": key, "cookies": stored}


@pytest.fixture
def crawled(place: History) -> History:
    """A crawl with a checkpoint that names two segments."""
    crawl_of(place)
    return place


def crawl_of(place: History) -> None:
    segments = (place.segment(1, first_segment(), [4]), place.segment(2, second_segment(), [1]))
    start = {"state": {"page": 0}, "ended": False}
    requests = Requests(segments, start, pending=3, in_flight=1, seen=1040, failed=2, held=1)
    place.chain(Checkpoint({"page": 1}, crawl=1, reason="opened"), Checkpoint({"page": 2}, crawl=1, requests=requests))


def rows(history: History, *arguments: str) -> list[list[str]]:
    ran = state(history, "frontier", *arguments)
    assert ran.code == 0, ran.err
    assert SECRET not in ran.out
    return [line.split("\t") for line in ran.out.splitlines()]


def test_summary(crawled: History) -> None:
    """Without options the verb sums up what the newest checkpoint says about requests."""
    out = state(crawled, "frontier").out.splitlines()
    assert out[:3] == [
        f"3 pending requests (1 of them was in flight), 1,040 seen, in checkpoint 2 ({crawled.state_uri(2)}, crawl 1)",
        "2 pages failed, 1 held for the next run: see --failed",
        'start() had not ended; it began with STATE {"page": 0}',
    ]
    assert out[3].startswith("2 segments, ")
    found = state(crawled, "frontier", "--json").json
    assert (found["pending"], found["in_flight"], found["seen"], found["failed"], found["held"]) == (3, 1, 1040, 2, 1)
    assert (found["checkpoint"], found["start_state"], found["segments"]) == (2, {"page": 0}, 2)


def test_pending(crawled: History) -> None:
    """``--pending`` lists what is not settled, highest priority first, without headers and bodies."""
    assert rows(crawled, "--pending") == [
        ["GET", "https://x/1", "0", "", "in flight", "2"],
        ["POST", "https://x/2", "0", "parse_item", "", ""],
        ["GET", "https://x/3", "-5", "", "held", ""],
    ]
    first, *_ = state(crawled, "frontier", "--pending", "--json").json
    assert first == {
        "url": "https://x/1", "method": "GET", "priority": 0, "callback": None, "in_flight": True, "held": False, "deaths": 2,
    }  # fmt: skip


def test_failed(crawled: History) -> None:
    """``--failed`` lists the pages that are held, and those that were skipped, with the reasons."""
    assert rows(crawled, "--failed") == [
        ["ValueError: no price", "held", "https://x/3"],
        ["HTTP 404", "skipped", "https://x/old"],
        ["HTTP 410", "skipped", "https://x/gone"],
    ]
    assert state(crawled, "frontier", "--failed", "--json").json[0] == {
        "url": "https://x/3", "reason": "ValueError: no price", "held": True,
    }  # fmt: skip


def test_failed_of_a_crawl_that_is_over(crawled: History) -> None:
    """The failed pages of a crawl can still be listed when it is over, but not once the next one has begun."""
    crawled.chain(Checkpoint({"page": 3}, crawl=1, reason="finished", ended=True))
    assert len(rows(crawled, "--failed")) == 3
    refused(state(crawled, "frontier"), 1, "checkpoint 3 has no requests: crawl 1 is over (finished)")
    crawled.chain(Checkpoint({"page": 3}, crawl=2, reason="opened"))
    refused(state(crawled, "frontier", "--failed"), 1, "checkpoint 4 has no requests")


def test_cookies(crawled: History) -> None:
    """``--cookies`` lists the newest contents of each jar, never a value."""
    assert rows(crawled, "--cookies") == [
        ["", "x", "session", "/", "with the session"],
        ["", "y", "id", "/", "2027-01-15T08:00:00Z"],
        ['"second"', "x", "session", "/", "with the session"],
    ]
    assert SECRET not in state(crawled, "frontier", "--cookies", "--json").out


def test_older_checkpoint(crawled: History) -> None:
    """``--at`` shows the requests of an older checkpoint."""
    newest = crawled.chain(Checkpoint({"page": 3}, crawl=1, requests=Requests(start={"state": {}, "ended": True}, seen=7)))[-1]
    assert "0 pending requests, 7 seen, in checkpoint 3" in state(crawled, "frontier").out
    assert len(rows(crawled, "--pending", "--at", "2")) == 3
    assert newest.id == 3
    refused(state(crawled, "frontier", "--pending"), 1, "no pending request")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [(lambda data: None, "missing"), (lambda data: data[:-9], ""), (lambda data: data[:-1] + b"!", "")],
    ids=["missing", "torn", "altered"],
)
def test_damaged_segment(crawled: History, tmp_path: Path, spoil: Callable[[bytes], bytes | None], text: str) -> None:
    """If a segment is missing or damaged, one line names it; the report says so, and shows the rest."""
    key = f"{crawled.template.prefix}requests/r1-00001.tsv.gz"
    data = crawled.store.read(key)
    assert data is not None
    crawled.store.delete(key)
    spoilt = spoil(data)
    if spoilt is not None:
        crawled.store.create(key, io.BytesIO(spoilt))
    for option in ("--pending", "--failed", "--cookies"):
        refused(state(crawled, "frontier", option), 1, "r1-00001.tsv.gz", text)
    assert state(crawled, "frontier").code == 0
    page = state(crawled, "report", "-o", "-")
    assert page.code == 0
    assert "Which ones is not known" in page.out


def test_segments_elsewhere(crawled: History, tmp_path: Path) -> None:
    """The segments are read where STATE_REQUESTS_URI says they are."""
    for number in (1, 2):
        name = f"r1-{number:05d}.tsv.gz"
        data = crawled.store.read(f"{crawled.template.prefix}requests/{name}")
        assert data is not None
        (tmp_path / name).write_bytes(data)
        crawled.store.delete(f"{crawled.template.prefix}requests/{name}")
    refused(state(crawled, "frontier", "--failed"), 1, "the segment is missing", "STATE_REQUESTS")
    assert len(rows(crawled, "--failed", "-s", f"STATE_REQUESTS_URI={tmp_path}")) == 3


def test_report_lists_failed_pages(crawled: History) -> None:
    """The page of the report lists the pages that failed."""
    page = state(crawled, "report", "-o", "-").out
    for text in ("https://x/3", "ValueError: no price", "https://x/gone"):
        assert text in page


class TestClear:
    def test_clear(self, crawled: History) -> None:
        """``--clear`` stores a child of the newest checkpoint with its state and no requests, and says how many it leaves."""
        ran = state(crawled, "frontier", "--clear", "--yes")
        assert ran.code == 0, ran.err
        stored, left = ran.out.splitlines()
        assert stored.startswith('checkpoint 3 stored: STATE {"page": 2} (')
        assert left == "3 pending requests of checkpoint 2 are left behind"
        made = state(crawled, "log", "--checkpoints", "--json").json[0]
        assert (made["id"], made["parent"], made["reason"], made["state"]) == (3, 2, "set", {"page": 2})
        assert (made["overlap"], made["crawl"]) == (True, 1)
        assert "requests" not in made
        for option in ("--clear", "--pending", "--failed"):
            refused(state(crawled, "frontier", option, "--yes"), 1, "checkpoint 3 has no requests")

    def test_asks(self, crawled: History) -> None:
        """Without a terminal or ``--yes`` nothing is stored."""
        refused(state(crawled, "frontier", "--clear"), 2, "3 pending requests", "1,040 seen", "--yes")
        assert [each["id"] for each in state(crawled, "log", "--checkpoints", "--json").json] == [2, 1]

    def test_json(self, crawled: History) -> None:
        """``--json`` prints the new checkpoint, and how many requests it leaves behind."""
        made = state(crawled, "frontier", "--clear", "--yes", "--json").json
        assert (made["left_behind"], made["checkpoint"]["id"]) == (3, 3)

    def test_set(self, crawled: History) -> None:
        """``set`` leaves requests behind, too, and says so."""
        assert "3 pending requests of checkpoint 2 are left behind" in state(crawled, "set", '{"page": 9}', "--yes").out


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--unreadable"], ["--unreadable", "Redis", "--pending, --failed"]),
        (["--fatal"], ["--fatal", "Redis"]),
        (["--put-back"], ["--put-back", "Redis"]),
        (["--pending", "--failed"], ["--failed", "not allowed with"]),
        (["--clear", "--at", "1", "--yes"], ["--clear", "--at"]),
    ],
)
def test_options_that_do_not_fit(crawled: History, arguments: list[str], texts: list[str]) -> None:
    """An option for the frontier in Redis, or two that exclude each other: one line says what to give instead."""
    refused(state(crawled, "frontier", *arguments), 2, *texts)


SPIDER = """
import scrapy
from scrapy_state import StateItem

class Numbers(scrapy.Spider):
    name = "numbers"
    custom_settings = {
        "ADDONS": {"scrapy_state.Addon": 500}, "SCHEDULER": %r, "STATE_REDIS_URL": "redis://127.0.0.1:1/0",
        "FEEDS": {"./data/%%(batch_id)010d.json": {"format": "json", "item_classes": [StateItem]}},
    }

class Scheduler: ...
"""


class TestSpider:
    def test_redis(self, tmp_path: Path) -> None:
        """For a spider with its frontier in Redis, options for checkpoints are refused, and the others ask Redis."""
        (tmp_path / "spider.py").write_text(SPIDER % "scrapy_state.redis.Scheduler")
        for option in ("--pending", "--failed", "--cookies"):
            refused(run(tmp_path, "frontier", "spider.py", option), 2, option, "Redis", "--fatal")
        refused(run(tmp_path, "frontier", "spider.py"), 3, "STATE_REDIS_URL")

    @pytest.mark.parametrize("scheduler", ["scrapy.core.scheduler.Scheduler", "spider.Scheduler"])
    def test_any_other_scheduler(self, tmp_path: Path, scheduler: str) -> None:
        """For any other spider the checkpoints count, and Redis is never asked."""
        (tmp_path / "spider.py").write_text(SPIDER % scheduler)
        refused(run(tmp_path, "frontier", "spider.py"), 1, "no checkpoint at")

    def test_subclass_of_the_scheduler_in_redis(self, tmp_path: Path) -> None:
        """A spider with a subclass of that scheduler has its frontier in Redis, too."""
        source = SPIDER % "spider.Scheduler"
        (tmp_path / "spider.py").write_text(
            source.replace("class Scheduler: ...", "from scrapy_state.redis import Scheduler as S\nclass Scheduler(S): ...")
        )
        refused(run(tmp_path, "frontier", "spider.py", "--pending"), 2, "--pending", "Redis")


def test_reading_changes_nothing(bucket: str, s3_settings: dict[str, str]) -> None:
    """Without ``--clear`` the verb sends no request that could change anything."""
    history = History(f"s3://{bucket}/data", s3_settings)
    crawl_of(history)
    with Proxy(s3_settings["AWS_ENDPOINT_URL"]) as proxy:
        history.settings["AWS_ENDPOINT_URL"] = proxy.url
        for arguments in ([], ["--pending"], ["--failed"], ["--cookies"]):
            assert state(history, "frontier", *arguments).code == 0
        assert len(proxy.log) > 10
        assert [each.request for each in proxy.log if not each.request.startswith(("GET ", "HEAD "))] == []
