"""The spiders of the simulation: small, so that every crash point can be tried, and each with what is hard to get right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from any_shape import Shape, pages
from any_spiders import SHAPES

from .crawl import STATE_FEED

_WAITS = """
class Waits:
    async def process_item(self, item):
        await asyncio.sleep(zlib.crc32(item["key"].encode()) % 20 / 100)
        if item["key"].endswith("#3"):
            raise DropItem("it is a third one", log_level="DEBUG")
        return item
"""
#: Its items leave the pipelines in another order than they came, and some are dropped.
STATE_ITEMS = Shape(
    "state_items",
    f"""
from scrapy_state import StateItem
{_WAITS}
class Follows(Any):
    async def start(self):
        if self.state.get("page", 0) < self.size:
            yield self.page(self.state.get("page", 0))

    def page(self, number):
        return self.to(f"/page/{{number}}", cb_kwargs={{"number": number}}, dont_filter=True)

    def parse(self, response, number):
        yield from items(path_of(response), 0, 1, 2, 3)
        yield StateItem({{"page": number + 1}})
        if number + 1 < self.size:
            yield self.page(number + 1)
""",
    lambda size: pages("page", size, 0, 1, 2),
    size=6,
    settings={"ITEM_PIPELINES": {"spider.Waits": 1}},
    clean=True,
)
#: Checkpoints are stored while parents are at work whose children are done, some of them with dont_filter.
SLOW_PARENTS = Shape(
    "slow_parents",
    """
class SlowParents(Any):
    async def start(self):
        for number in range(self.size):
            yield self.to(f"/p/{number}", cb_kwargs={"number": number})
            await asyncio.sleep(0.3)

    async def parse(self, response, number):
        for item in items(path_of(response), 0):
            yield item
        yield self.to(f"/again/{number}", callback=self.parse_child, dont_filter=True)
        yield self.to(f"/new/{number}", callback=self.parse_child)
        await asyncio.sleep(1)
        for item in items(path_of(response), 1):
            yield item

    def parse_child(self, response):
        yield from items(path_of(response), 0)
""",
    lambda size: pages("p", size, 0, 1) + pages("again", size, 0) + pages("new", size, 0),
    size=3,
)
#: Each unit is a page and its two children. Unit 1 fails in the first run; unit 2 is slow, so others overtake it.
UNITS = Shape(
    "units",
    f"""
{_WAITS}
class Units(Any):
    async def start(self):
        for number in range(self.state.get("unit", 0), self.size):
            page, state = f"/unit/{{number}}", {{"unit": number + 1}}
            yield self.to(page, meta={{"state": state}}, cb_kwargs={{"page": page}})

    async def parse(self, response, page):
        for item in items(page, 0, 3):
            yield item
        if page.endswith("2"):
            await asyncio.sleep(1)
        for child in (1, 2):
            yield self.to(f"{{page}}/{{child}}", callback=self.parse_child, cb_kwargs={{"page": page, "child": child}})

    def parse_child(self, response, page, child):
        yield from items(page, child)
        failed = Path("failed")
        if page.endswith("1") and child == 2 and not failed.exists():
            failed.touch()
            raise RuntimeError("this unit fails the first time")
""",
    lambda size: pages("unit", size, 0, 1, 2),
    size=5,
    settings={"ITEM_PIPELINES": {"spider.Waits": 1}},
    errors=True,
    failed=("state_units_failed",),
)


@dataclass(frozen=True)
class Scene:
    """A shape, and what happens to it.

    :param one_of: see :class:`~simulation.world.Crashes`
    :param fault: the chance that a call of a store gets no answer
    :param beside: more settings of a run that is at work at the same time, as if in a process of its own; None: there is none
    :param redis: whether the requests are in Redis, where each page is crawled at least once, and there are no checkpoints
    :param stops: whether somebody stops most of the runs, as Ctrl-C does
    :param commits: how many checkpoints a crawl without a crash must store; fewer would test nothing
    """

    shape: Shape
    one_of: tuple[int, ...] = (1,)
    fault: float = 0.0
    beside: Mapping[str, Any] | None = None
    commits: int = 3
    redis: bool = False
    stops: bool = False

    @property
    def may_fail(self) -> bool:
        """Whether a run may end with an error, although nothing is wrong with the package."""
        return self.fault > 0 or self.shape.errors or self.beside == {}

    def settings(self, chance: Random) -> dict[str, Any]:
        """Return what else a project may set, at random."""
        at_once = chance.choice((1, 2, 2, 8))
        return {
            "STATE_INTERVAL": chance.choice((0, 0.1, 0.1, 0.5)),
            "CONCURRENT_REQUESTS": at_once,
            "CONCURRENT_REQUESTS_PER_DOMAIN": at_once,
        }


def _any(name: str, size: int) -> Shape:
    """Return a shape of any_spiders.py, made small."""
    shape = SHAPES[name]
    if name == "closes":  # killed while it is closing, it has nothing left to do
        shape = replace(shape, over=("enough", "finished"))
    feeds = tuple("batches" if feed == "packed" else feed for feed in shape.feeds)
    return replace(shape, size=size, feeds=feeds)


#: How small the shapes of any_spiders.py can be.
_SIZES = {
    "listings": 20, "crawl": 20, "posts": 16, "same": 12, "pagination": 6, "assembled": 3, "errbacks": 6, "redirects": 7,
    "item_limit": 45, "idle": 25, "fingerprinter": 20,
}  # fmt: skip
#: What a developer sets, to look at production's checkpoints: the store must get nothing that changes anything there.
READ_ONLY = {"STATE_READONLY": True, "FEEDS": {**STATE_FEED, "sim://mine/%(time)s.jsonl": {"format": "jsonlines"}}}
SCENES = {
    "state_items": Scene(STATE_ITEMS),
    "batches": Scene(replace(STATE_ITEMS, feeds=("csv", "batches"))),
    "orphans": Scene(replace(STATE_ITEMS, settings={**STATE_ITEMS.settings, "STATE_ORPHANS": "delete"}), one_of=(1, 3)),
    "slow_parents": Scene(SLOW_PARENTS),
    "units": Scene(UNITS),
    "second_crash": Scene(STATE_ITEMS, one_of=(1, 1)),
    "second_crash_requests": Scene(_any("listings", 20), one_of=(2, 3)),
    "second_crash_units": Scene(UNITS, one_of=(4, 4)),
    "unreachable": Scene(STATE_ITEMS, fault=0.15),
    "unreachable_requests": Scene(_any("same", 12), fault=0.15),
    "unreachable_units": Scene(UNITS, fault=0.15),
    "two_runs": Scene(STATE_ITEMS, beside={}),
    "two_runs_requests": Scene(_any("crawl", 8), beside={}),
    "stopped": Scene(STATE_ITEMS, stops=True),
    "stopped_requests": Scene(SLOW_PARENTS, stops=True),
    "stopped_units": Scene(UNITS, stops=True),
    "redis": Scene(_any("crawl", 5), redis=True, commits=0),
    "redis_unreachable": Scene(_any("redirects", 4), redis=True, fault=0.15, commits=0),
    "redis_two_workers": Scene(_any("crawl", 5), redis=True, beside={}, commits=0),
    "read_only": Scene(STATE_ITEMS, beside=READ_ONLY),
    **{name: Scene(_any(name, _SIZES.get(name, 8))) for name in SHAPES},
}
