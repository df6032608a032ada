"""What a run continues with, and when it refuses to, in real crawls."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import crawls
import pytest
from page_crawls import Place

#: Its page "first" sends six, and dies once they are stored; the next run logs in which order they come.
ORDER = """
class Order(Any):
    async def start(self):
        yield self.to("first")

    async def parse(self, response):
        self.logger.info("page %s", key(response))
        yield {"key": key(response)}
        if key(response) == "first":
            for number in range(6):
                yield self.to(f"p/{number}", priority=number // 2, dont_filter=False)
            if self.kill:
                self.crawler.engine.pause()
                await self.cut()
                die()
"""
ALL = {"first": 1, **{f"p/{number}": 1 for number in range(6)}}
LIFO, FIFO = [5, 4, 3, 2, 1, 0], [4, 5, 2, 3, 0, 1]


def order(pages: Place) -> list[int]:
    """Return the numbers of the pages in which the last run asked for them."""
    return [int(path.partition("/")[2]) for path in pages.server.asked if path.startswith("p/")]


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("queue", ["Lifo", "Fifo"])
def test_order(pages: Place, queue: str, on_disk: bool) -> None:
    """Pending requests come in the order in which they would have come; those that were in flight come last."""
    settings: dict[str, Any] = {
        "SCHEDULER_MEMORY_QUEUE": f"scrapy.squeues.{queue}MemoryQueue",
        "CONCURRENT_REQUESTS": 1,
        "STATE_REQUESTS_ON_DISK": on_disk,
    }
    assert pages.crawl(ORDER, "-a", "kill=yes", **settings).code == -9
    assert pages.newest["requests"]["pending"] == 7
    assert pages.crawl(ORDER, **settings).code == 0
    assert order(pages) == (LIFO if queue == "Lifo" else FIFO)
    assert pages.server.asked[-1] == "first"
    assert pages.keys == ALL


DEADLY = """
class Deadly(Any):
    async def start(self):
        for path in ("a", "deadly", "b"):
            yield self.to(path)

    async def parse(self, response):
        if key(response) == "deadly":
            await self.cut()
            die()
        yield {"key": key(response)}
"""


@pytest.mark.long
def test_page_that_kills(pages: Place) -> None:
    """A page that was in flight when five processes died has failed; the crawl goes on without it."""
    for _ in range(5):
        assert pages.crawl(DEADLY).code == -9
    run = pages.crawl(DEADLY)
    assert run.code == 0, run.log
    assert run.lines("/deadly is given up: it was in flight when 5 processes died"), run.log
    assert pages.keys == {"a": 1, "b": 1}
    assert pages.newest["ended"]


COOKIES = """
class Cookies(Any):
    async def start(self):
        for name in ("x", "y"):
            yield self.to(f"login?as={name}", self.entered, meta={"cookiejar": name})

    def entered(self, response):
        yield self.to("cookie/" + response.meta["cookiejar"], meta={"cookiejar": response.meta["cookiejar"]})

    async def parse(self, response):
        if self.kill:
            await self.cut()
            if key(response) == "cookie/x":
                die()
            await asyncio.sleep(60)
        yield {"key": response.text}
"""


def test_cookies(pages: Place) -> None:
    """Cookies survive a kill, each jar its own."""
    assert pages.crawl(COOKIES, "-a", "kill=yes").code == -9
    assert pages.crawl(COOKIES).code == 0
    assert not any("login" in path for path in pages.asked)
    assert pages.keys == {"session=x": 1, "session=y": 1}


@pytest.fixture
def killed(pages: Place) -> Place:
    """A crawl with seven pending requests."""
    assert pages.crawl(ORDER, "-a", "kill=yes").code == -9
    return pages


def segment(pages: Place) -> Path:
    """Return the newest segment."""
    return max((pages.folder / "data/numbers/state/requests").iterdir())


def refused(pages: Place, source: str = ORDER, **settings: Any) -> str:
    """Check that the crawl refuses to start, writes nothing, and says why in one line; return that."""
    before = pages.files()
    run = pages.crawl(source, **settings)
    assert run.code == 1, run.log
    [line] = run.lines("] ERROR: ")
    assert "the crawl does not start: " in line
    assert "STATE_REQUESTS=False" in line
    assert "Traceback" not in run.log
    assert not pages.asked
    assert pages.files() == before
    return line


@pytest.mark.long
def test_missing_segment(killed: Place) -> None:
    """A crawl whose segment is missing refuses to start; without requests it starts."""
    path = segment(killed)
    data = path.read_bytes()
    path.unlink()
    assert "segment is missing" in refused(killed)
    path.write_bytes(data[:-1])
    assert "damaged" in refused(killed)
    path.write_bytes(gzip.compress(b"segment\t{}\n"))
    assert "damaged" in refused(killed)
    run = killed.crawl(ORDER, "-s", "STATE_REQUESTS=False")
    assert run.code == 0, run.log
    assert run.lines("7 pending requests of the last run are left behind")
    assert killed.newest["overlap"] or any(each["overlap"] for each in killed.checkpoints)


@pytest.mark.long
def test_what_is_gone(pages: Place) -> None:
    """A callback, an errback or a class that is gone, or another fingerprinter: the crawl refuses to start."""
    source = """
import dataclasses

@dataclasses.dataclass
class Thing:
    value: int

class Gone(Any):
    async def start(self):
        yield self.to("first", self.one, errback=self.other, cb_kwargs={"thing": Thing(1)})

    async def one(self, response, thing):
        yield {"key": f"{key(response)} {thing.value}"}
        if self.kill:
            await self.cut()
            die()

    def other(self, failure):
        pass
"""
    assert pages.crawl(source, "-a", "kill=yes").code == -9
    assert "'one'" in refused(pages, source.replace("def one(", "def uno(").replace("self.one,", "self.uno,"))
    assert "'other'" in refused(pages, source.replace("other", "autre"))
    assert "Thing" in refused(pages, source.replace("Thing", "Ding"))
    fingerprinter = """
class Short:
    def fingerprint(self, request):
        return request.url.encode()[-20:]
"""
    refused(pages, fingerprinter + source + "    custom_settings = {'REQUEST_FINGERPRINTER_CLASS': Short}\n")
    assert pages.crawl(source).code == 0
    assert pages.keys == {"first 1": 1}


@pytest.mark.parametrize("how", ["STATE", "STATE_LAG", "change_state"])
def test_requests_that_are_left_behind(pages: Place, how: str) -> None:
    """An explicit STATE, STATE_LAG or a changed state: start() begins there.

    A WARNING says how many requests are left behind, and the checkpoint says that items may come twice.
    """
    source = ORDER.replace('yield self.to("first")', 'self.state["n"] = 8; yield self.to("first")')
    assert pages.crawl(source, "-a", "kill=yes").code == -9
    assert pages.newest["state"] == {"n": 8}
    arguments: list[str] = []
    settings: dict[str, Any] = {}
    if how == "STATE":
        arguments = ["-s", 'STATE={"n": 3}']
    elif how == "STATE_LAG":
        settings = {"STATE_LAG": {"n": 5}}
    else:
        (pages.folder / "changing.py").write_text(
            "from scrapy_state.extension import StateResolver\n"
            "class Changing(StateResolver):\n"
            "    def change_state(self, state):\n"
            "        return {'n': 3}\n"
        )
        settings = {"EXTENSIONS": {"changing.Changing": 1}}
    run = pages.crawl(source, *arguments, **settings)
    assert run.code == 0, run.log
    [line] = run.lines("pending requests of the last run are left behind")
    assert "WARNING: 7 pending requests" in line
    opening = next(each for each in pages.checkpoints[1:] if each["reason"] == "opened")
    assert opening["overlap"] is True
    assert opening["state"] == {"n": 3}
    assert pages.asked == ALL


def test_reading_only(killed: Place) -> None:
    """A read-only run takes the state alone. With STATE_REQUESTS on the command line it continues with the requests, too.
    Neither writes anything."""
    before = killed.files()
    settings = {"STATE_READONLY": True, "FEEDS": {crawls.STATES: crawls.STATE_OPTIONS}}
    run = killed.crawl(ORDER, **settings)
    assert run.code == 0, run.log
    assert run.lines("INFO: 7 pending requests of the last run are left behind"), run.log
    assert killed.server.asked[0] == "first"
    run = killed.crawl(ORDER, "-s", "STATE_REQUESTS=True", **settings)
    assert run.code == 0, run.log
    assert run.lines("with 7 pending requests"), run.log
    assert killed.asked == ALL
    assert killed.files() == before


@pytest.mark.parametrize("is_readonly", [False, True])
def test_state_from(killed: Place, is_readonly: bool, tmp_path: Path) -> None:
    """STATE_FROM takes the state alone; with STATE_REQUESTS on the command line the requests, too. It writes nothing there."""
    before = killed.files()
    states = str(tmp_path / "data/%(name)s/state/%(batch_id)010d.json")
    options = {"format": "json", "item_classes": ["scrapy_state.StateItem"]}
    feeds: dict[str, Any] = {"dev/items/%(run_id)s-%(batch_id)d.jsonl": {"format": "jsonlines"}}
    if not is_readonly:
        feeds["dev/state/%(batch_id)010d.json"] = options
    settings = {"STATE_FROM": states, "FEEDS": feeds}
    run = killed.crawl(ORDER, **settings)
    assert run.code == 0, run.log
    assert run.lines("7 pending requests of the last run are left behind"), run.log
    assert killed.server.asked[0] == "first"
    run = killed.crawl(ORDER, "-s", "STATE_REQUESTS=True", **settings)
    assert run.code == 0, run.log
    assert run.lines("with 7 pending requests"), run.log
    assert killed.asked == ALL
    assert killed.files() == before
    if not is_readonly:
        newest = json.loads(max((tmp_path / "dev/state").glob("*.json")).read_text())[0]
        assert newest["ended"]


def test_requests_elsewhere(pages: Place, tmp_path: Path) -> None:
    """STATE_REQUESTS_URI: the segments are there, and nowhere else."""
    settings = {"STATE_REQUESTS_URI": str(tmp_path / "secret/%(name)s")}
    assert pages.crawl(ORDER, "-a", "kill=yes", **settings).code == -9
    names = {path.name for path in (tmp_path / "secret/numbers").iterdir()}
    assert names == {each["name"] for each in pages.newest["requests"]["segments"]}
    assert not (tmp_path / "data/numbers/state/requests").exists()
    assert "segment is missing" in refused(pages)
    assert pages.crawl(ORDER, **settings).code == 0
    assert pages.keys == ALL
