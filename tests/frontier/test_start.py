"""What ``start()`` means in a run that continues a crawl, in real crawls."""

from __future__ import annotations

import pytest
from page_crawls import Place

THREE = """
class Three(Any):
    extra = ""
    async def start(self):
        for path in ["a", "b", "a", "c", *self.extra.split()]:
            yield self.to(path, dont_filter={dont_filter})
"""


@pytest.mark.parametrize("dont_filter", [False, True])
def test_requests_of_start_are_sent_once(pages: Place, dont_filter: bool) -> None:
    """What start() sent before a kill is left out afterwards, as many times as it was sent; what is new is sent."""
    source = THREE.replace("{dont_filter}", str(dont_filter))
    assert pages.crawl(source, "-a", "kill=b").code == -9
    run = pages.crawl(source, "-a", "extra=d a")
    assert run.code == 0, run.log
    assert pages.keys == ({"a": 3, "b": 1, "c": 1, "d": 1} if dont_filter else {"a": 1, "b": 1, "c": 1, "d": 1})
    assert pages.asked["b"] == pages.asked["d"] == 1


def test_state_of_start(pages: Place) -> None:
    """Until start() has ended, it sees the state that it began with in each run; callbacks see the state of the cut."""
    source = """
class Slow(Any):
    async def start(self):
        self.logger.info("start sees %s", self.state)
        yield self.to("a")
        yield self.to("b")
        if self.kill:
            await asyncio.sleep(60)

    async def parse(self, response):
        self.logger.info("callback sees %s", self.state)
        self.state["n"] = self.state.get("n", 0) + 1
        yield {"key": key(response)}
        if self.kill and self.state["n"] == 7 + 2:
            asyncio.get_running_loop().create_task(self.end())

    async def end(self):
        await asyncio.sleep(0.1)
        await self.cut()
        die()
"""
    assert pages.crawl(source, "-a", "kill=yes", "-s", 'STATE={"n": 7}').code == -9
    newest = pages.newest
    assert newest["state"] == {"n": 9}
    assert newest["requests"]["start"] == {"state": {"n": 7}, "ended": False}
    late = (
        source
        + """
    async def start(self):
        self.logger.info("start sees %s", self.state)
        yield self.to("c")
        yield self.to("a")
"""
    )
    run = pages.crawl(late)
    assert run.lines("start sees {'n': 7}"), run.log
    assert run.lines("callback sees {'n': 9}"), run.log
    assert pages.keys == {"a": 1, "b": 1, "c": 1}
    assert pages.newest["state"] == {"n": 10}


def test_ended_start_sees_the_state_of_the_cut(pages: Place) -> None:
    """Once start() has ended, the next run's sees the state of the checkpoint, and what it sends is left out if it was seen."""
    source = """
class Counting(Any):
    async def start(self):
        self.logger.info("start sees %s", self.state)
        yield self.to("a", meta={"n": self.state.get("n", 0)})
        yield self.to("b", dont_filter=True, meta={"n": 0})

    async def parse(self, response):
        self.state["n"] = self.state.get("n", 0) + 1
        yield {"key": key(response)}
        if key(response) in ("a", "b"):
            yield self.to("last")
        elif self.kill:
            await self.cut()
            die()
"""
    assert pages.crawl(source, "-a", "kill=yes").code == -9
    run = pages.crawl(source)
    assert run.lines("start sees {'n': 3}") or run.lines("start sees {'n': 2}"), run.log
    assert pages.keys == {"a": 1, "b": 1, "last": 1}
    assert not {"a", "b"} & set(pages.asked)


def test_start_with_items_only(pages: Place) -> None:
    """A start() that yields only items: none counts before it has ended; then all do, however slow the pipelines are."""
    source = """
class Slow:
    async def process_item(self, item):
        await asyncio.sleep(0.2)
        return item

class Items(Any):
    custom_settings = {"ITEM_PIPELINES": {Slow: 1}}
    async def start(self):
        for number in range(30):
            yield {"key": str(number)}
            if self.kill and number == 20:
                await asyncio.sleep(0.5)
                die()
"""
    assert pages.crawl(source, "-a", "kill=yes").code == -9
    assert not pages.keys
    assert pages.crawl(source).code == 0
    assert pages.keys == dict.fromkeys(map(str, range(30)), 1)
    assert pages.newest["ended"]
    assert pages.newest["crawl"] == 1
    pages.crawl(source)
    assert pages.newest["crawl"] == 2
    assert pages.keys == dict.fromkeys(map(str, range(30)), 2)


def test_start_that_raises(pages: Place) -> None:
    """If start() raises, what it has sent is crawled; the crawl is not over, and the next run reads start() again."""
    source = """
class Raising(Any):
    async def start(self):
        yield self.to("a")
        yield {"key": "from start"}
        if self.kill:
            raise ValueError("no")
        yield self.to("b")
"""
    run = pages.crawl(source, "-a", "kill=yes")
    assert run.lines("Spider closed (start_error)"), run.log
    assert not pages.newest.get("ended")
    assert pages.keys == {"a": 1}
    assert pages.crawl(source).code == 0
    assert pages.keys == {"a": 1, "b": 1, "from start": 1}
    assert pages.newest["ended"]


def test_start_that_raises_at_once(pages: Place) -> None:
    """Pending requests don't wait for a start() that has raised."""
    source = """
class Raising(Any):
    async def start(self):
        if not self.kill:
            raise ValueError("no")
        for path in ("a", "slow/b"):
            yield self.to(path)

    async def parse(self, response):
        if self.kill:
            await self.cut()
            die()
        yield {"key": key(response)}
"""
    assert pages.crawl(source, "-a", "kill=yes").code == -9
    run = pages.crawl(source)
    assert pages.keys == {"a": 1, "slow/b": 1}
    seconds = float(run.lines("'elapsed_time_seconds'")[0].partition(": ")[2].rstrip(","))
    assert seconds < 8


LOG_IN = """
class LogIn(Any):
    async def start(self):
        yield Request(self.site + "/{login}", self.logged_in, method="POST", meta={"state_every_run": True})

    def logged_in(self, response):
        self.logger.info("logged in %s", response.url)
        yield self.to("{form}", self.entered, meta={"state_every_run": True})

    def entered(self, response):
        self.entered_at = True
        for path in ("cookie/1", "cookie/2", "slow/cookie", "cookie/3"):
            yield self.to(path, dont_filter={dont_filter})

    async def parse(self, response):
        if self.kill:
            if key(response) == "cookie/2":
                await self.cut()
                die()
            await asyncio.sleep(1)
        else:
            assert self.entered_at
        yield {"key": key(response)}
"""


@pytest.mark.parametrize("dont_filter", [False, True])
@pytest.mark.parametrize("login", ["login", "to/login/home"])
def test_log_in_in_every_run(pages: Place, dont_filter: bool, login: str) -> None:
    """A log-in in two steps is sent in every run, also if it redirects to a page that was seen; pending requests wait for it;
    what it sends is not sent again."""
    source = LOG_IN.replace("{dont_filter}", str(dont_filter)).replace("{login}", login).replace("{form}", "form")
    assert pages.crawl(source, "-a", "kill=yes").code == -9
    run = pages.crawl(source)
    assert run.code == 0, run.log
    assert run.lines("logged in"), run.log
    assert pages.asked["form"] == 1
    asked = pages.server.asked
    assert not any("cookie" in path for path in asked[: asked.index("form")])
    assert pages.keys == {"cookie/1": 1, "cookie/2": 1, "slow/cookie": 1, "cookie/3": 1}
    assert pages.newest["ended"]


def test_log_in_that_fails_is_not_kept(pages: Place) -> None:
    """A log-in whose callback raises is no page to try again: the next run sends it anyway, and can finish."""
    source = """
class LogIn(Any):
    async def start(self):
        yield self.to("login", self.logged_in, meta={"state_every_run": True})
        yield self.to("a")

    def logged_in(self, response):
        if self.kill:
            raise ValueError("no")
"""
    run = pages.crawl(source, "-a", "kill=yes", STATE_ON_PAGE_ERROR="hold")
    assert run.code == 1, run.log
    run = pages.crawl(source, STATE_ON_PAGE_ERROR="hold")
    assert run.code == 0, run.log
    assert pages.keys == {"a": 1}
    assert pages.newest["ended"]
