"""Requests that can't be stored, in real crawls."""

from __future__ import annotations

import pytest
from page_crawls import Place

UNSTORABLE = """
class Unstorable(Any):
    async def start(self):
        yield self.to("first")
        if "start" in self.who:
            yield self.to("slow/start", lambda response: self.child(response))
            yield self.to("slow/start/2", self.child, meta={"file": open(os.devnull)}, dont_filter=True)
        yield self.to("slow/last")

    @classmethod
    def from_crawler(cls, crawler, *arguments, **more):
        spider = super().from_crawler(crawler, *arguments, **more)
        if "extension" in spider.who:
            crawler.signals.connect(spider.opened, signals.spider_opened)
        return spider

    def opened(self):
        def later():
            self.crawler.engine.crawl(self.to("slow/extension", lambda response: self.child(response)))
        asyncio.get_running_loop().call_later(0.1, later)

    async def parse(self, response):
        yield {"key": key(response)}
        if key(response) == "first" and "page" in self.who:
            yield self.to("slow/page", lambda response: self.child(response))
            yield self.to("slow/page/2", self.child, meta={"file": open(os.devnull)}, dont_filter=True)
        if key(response) == "slow/last" and self.kill:
            await asyncio.sleep(0.6)
            await self.cut()
            die()

    def child(self, response):
        yield {"key": key(response)}
        if self.kill:
            return
        yield self.to("of/" + key(response))
"""


@pytest.mark.parametrize("who", ["page", "start", "extension"])
def test_what_cannot_be_stored(pages: Place, who: str) -> None:
    """A lambda, an open file: such a request is a part of the page that sends it, and of start() too. A warning says why."""
    run = pages.crawl(UNSTORABLE, "-a", f"who={who}", "-a", "kill=yes")
    assert run.code == -9, run.log
    [line] = run.lines("can't be stored (")
    assert "WARNING" in line
    assert ("if this run is killed now, it is lost" if who == "extension" else "is fetched again") in line
    run = pages.crawl(UNSTORABLE, "-a", f"who={who}")
    assert run.code == 0, run.log
    both = [f"slow/{who}", f"slow/{who}/2"] if who != "extension" else ["slow/extension"]
    keys = pages.keys
    assert all(keys[path] == 1 for path in ["first", "slow/last", *both] if path != "slow/extension"), keys
    assert set(keys.values()) == {1}, keys


def test_most_requests_cannot_be_stored(pages: Place) -> None:
    """If more than half of the requests can't be stored, a second warning says so."""
    source = """
class Lambdas(Any):
    async def start(self):
        for number in range(130):
            yield self.to(f"p/{number}", lambda response: None)
"""
    run = pages.crawl(source)
    assert len(run.lines("] WARNING: ")) == 2, run.log
    assert run.lines("more than half of the requests can't be stored (101 of 101)")
