"""State items and requests in one crawl: clean ones, others, and both."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from page_crawls import Place

#: Page by page, each with a state item; the pages 2 and 3 have details that are under way when state items come.
MIXED = """
class Mixed(Any):
    async def start(self):
        self.logger.info("start sees %s", self.state)
        yield self.to(f"page/{self.state.get('page', 0)}", self.page, dont_filter={dont_filter})

    async def page(self, response):
        number = int(response.url.rpartition("/")[2])
        yield {"key": key(response)}
        if number in (2, 3):
            for detail in range(3):
                yield self.to(f"slow/{number}/{detail}", dont_filter={dont_filter})
        if self.kill == f"page/{number}":
            self.crawler.engine.pause()  # so that nothing else happens before the kill
        if number < 6:
            yield self.to(f"page/{number + 1}", self.page, dont_filter={dont_filter})
        yield StateItem({"page": number + 1})
        if self.kill == f"page/{number}":
            await self.cut_clean()
            die()

    async def cut_clean(self):
        listener = get_barrier(self.crawler).listener
        listener._cut_with_requests()
        await self.cut()
"""
KEYS = {f"page/{number}": 1 for number in range(7)} | {f"slow/{page}/{detail}": 1 for page in (2, 3) for detail in range(3)}


def crawl_to_the_end(pages: Place, source: str, *kills: str, **settings: Any) -> None:
    """Run *source*, killed at each of these pages, until its crawl is over."""
    for kill in kills:
        assert pages.crawl(source, "-a", f"kill={kill}", **settings).code == -9
    run = pages.crawl(source, **settings)
    assert run.code == 0, run.log


@pytest.mark.long
def test_clean_and_other_state_items(pages: Place) -> None:
    """Killed while only clean state items have come, while others have, and after: every page is there once."""
    crawl_to_the_end(pages, MIXED.replace("{dont_filter}", "False"), "page/1", "page/2", "page/5")
    assert pages.keys == KEYS


def test_with_dont_filter(pages: Place) -> None:
    """What a page has sent before its clean state item, or since, the next run's start() does not send again, also if these
    requests are not filtered."""
    crawl_to_the_end(pages, MIXED.replace("{dont_filter}", "True"), "page/1")
    assert pages.keys == KEYS


def test_each_switch_is_logged(pages: Place) -> None:
    """Each switch between the two kinds of checkpoints is logged once."""
    run = pages.crawl(MIXED.replace("{dont_filter}", "False"))
    assert run.code == 0, run.log
    switches = [line.partition("checkpoints contain ")[2][:22] for line in run.lines("checkpoints contain ")]
    assert switches[0].startswith("the state and"), run.log
    assert all(before != after for before, after in pairwise(switches))
    assert pages.keys == KEYS


def test_state_items_in_start(pages: Place) -> None:
    """Items before and after clean state items in start(): killed, the next run begins at the newest state that is stored, and
    each item is there once. What came after that, and does not come again from there, is not."""
    source = """
class States(Any):
    async def start(self):
        for number in range(self.state.get("number", 0), 6):
            yield {"key": f"before {number}"}
            yield StateItem({"number": number + 1})
            yield {"key": f"after {number}"}
            while get_barrier(self.crawler).stored.state != {"number": number + 1}:
                yield StateItem({"number": number + 1})
                await asyncio.sleep(0.05)
            if self.kill == str(number):
                die()
"""
    assert pages.crawl(source, "-a", "kill=3").code == -9
    assert pages.newest["state"] == {"number": 4}
    assert "requests" not in pages.newest
    run = pages.crawl(source)
    assert run.code == 0, run.log
    expected = {f"{when} {number}" for number in range(6) for when in ("before", "after")} - {"after 3"}
    assert pages.keys == dict.fromkeys(expected, 1)


def test_items_of_slow_pipelines(pages: Place) -> None:
    """Items that are in slow pipelines when a clean state item comes are in the checkpoint that has that state."""
    source = """
class Slow:
    async def process_item(self, item):
        await asyncio.sleep(0.2)
        return item

class States(Any):
    custom_settings = {"ITEM_PIPELINES": {Slow: 1}}
    async def start(self):
        yield self.to("page/0", self.page)

    async def page(self, response):
        number = int(response.url.rpartition("/")[2])
        yield {"key": key(response)}
        yield StateItem({"page": number + 1})
        if number < 4:
            yield self.to(f"page/{number + 1}", self.page)
"""
    run = pages.crawl(source)
    assert run.code == 0, run.log
    assert pages.keys == {f"page/{number}": 1 for number in range(5)}
    assert pages.newest["state"] == {"page": 5}
    for each in pages.checkpoints:
        if each["reason"] != "opened":
            assert each["items"] == each["state"]["page"], each


def test_one_state_item_and_then_pages(pages: Place) -> None:
    """If a crawl ends soon after a clean state item, items after that don't count, as without requests: a warning says so."""
    source = """
class First(Any):
    async def start(self):
        yield {"key": "first"}
        yield StateItem({"n": 1})
        for number in range(5):
            yield self.to(f"p/{number}")
"""
    run = pages.crawl(source, STATE_INTERVAL=60)
    assert run.code == 0, run.log
    assert pages.keys == {"first": 1}
    [line] = run.lines("] WARNING: ")
    assert "the spider yielded 5 items after the last state item: no checkpoint names them" in line
