"""The spiders of the simulation: small, so that every crash point can be tried, and each with what is hard to get right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from any_shape import Shape, pages
from any_spiders import SHAPES

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


@dataclass(frozen=True)
class Scene:
    """A shape, and what happens to it.

    :param one_of: see :class:`~simulation.world.Crashes`
    :param fault: the chance that a call of a store gets no answer
    :param commits: how many checkpoints a crawl without a crash must store; fewer would test nothing
    """

    shape: Shape
    one_of: tuple[int, ...] = (1,)
    fault: float = 0.0
    commits: int = 3

    def settings(self, chance: Random) -> dict[str, Any]:
        """Return what else a project may set, at random."""
        at_once = chance.choice((1, 2, 2, 8))
        return {
            "STATE_INTERVAL": chance.choice((0, 0.1, 0.1, 1)),
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
_SIZES = {"listings": 20, "same": 12, "pagination": 6, "assembled": 3, "errbacks": 3, "redirects": 4, "item_limit": 45}
SCENES = {
    "state_items": Scene(STATE_ITEMS),
    "second_crash": Scene(STATE_ITEMS, one_of=(1, 1)),
    **{name: Scene(_any(name, _SIZES.get(name, 8))) for name in SHAPES},
}
