"""A crawl of a virtual week, in minutes: memory, open files and tasks must stay as they are, and nothing may be lost."""

from __future__ import annotations

import asyncio
import gc
import os
from dataclasses import dataclass
from statistics import median

from any_shape import Shape, pages

from scrapy_state.scrapy_internals import engine

from . import oracle
from .crawl import arguments_of, crawl, settings_of, spider_of
from .loop import Loop
from .site import Handler, Site
from .store import Contents, SimStore
from .world import Crashes, World

HOUR = 3600.0
_EVERY_SECONDS = 100
_LOOK_SECONDS = 2 * HOUR
#: Two requests every 100 seconds, one of them with dont_filter
POLLS = Shape(
    "polls",
    f"""
class Polls(Any):
    async def start(self):
        for number in range(self.size):
            yield self.to(f"/p/{{number}}", cb_kwargs={{"number": number}})
            await asyncio.sleep({_EVERY_SECONDS})

    def parse(self, response, number):
        yield from items(path_of(response), 0, 1)
        yield self.to(f"/again/{{number}}", callback=self.parse_child, dont_filter=True)

    def parse_child(self, response):
        yield from items(path_of(response), 0)
""",
    lambda size: pages("p", size, 0, 1) + pages("again", size, 0),
    settings={"STATE_INTERVAL": 600},
)


@dataclass(frozen=True)
class Look:
    """What the process has at one moment. *objects*: those that Python's garbage collector knows; *bytes*: of memory."""

    tasks: int
    files: int
    objects: int
    bytes: int


def soak(seconds: float) -> tuple[list[str], str]:
    """Crawl for so many virtual *seconds*. Return what is wrong, and what there was at the beginning and at the end."""
    engine._CHECK_SECONDS = 60  # otherwise this poll would be most of the work
    wrong: list[str] = []
    size = int(seconds / _EVERY_SECONDS)
    world = World("soak", Crashes(one_of=()), lambda: True, wrong.append, longest_seconds=2 * seconds)
    contents = SimStore.contents = Contents(world, fault=0.05)
    Handler.site = Site(world, size, mean_seconds=2)
    looks: list[Look] = []
    begins = world.now

    def look() -> None:
        while world.now + _LOOK_SECONDS < begins + seconds:
            world.sleep(_LOOK_SECONDS)
            looks.append(_look(sum(map(len, contents.files.values()))))

    world.start_thread(look)
    run = crawl(world, spider_of(POLLS), settings_of(POLLS), arguments_of(POLLS, size))
    world.rest()
    if run.reason != "finished" or run.errors:
        wrong.append(f"it ended with {run.reason}, and logged {run.errors[:3]}")
    wrong += oracle.wrong(POLLS, size, contents.files)
    early, late = _typical(looks[2 : len(looks) // 3]), _typical(looks[-len(looks) // 3 :])
    # A little is remembered for good: each request seen, each form that start() has sent, and the store's own keys.
    for name, most in (("tasks", 3), ("files", 3), ("objects", early.objects // 20), ("bytes", 2**22 + 500 * size)):
        if getattr(late, name) > getattr(early, name) + most:
            wrong.append(f"{name} grow: {getattr(early, name)} at first, {getattr(late, name)} in the end")
    checkpoints = len(oracle.checkpoints(contents.files))
    return (
        wrong,
        f"{seconds / HOUR:g} virtual hours, {2 * size} pages, {checkpoints} checkpoints; at first {early}, in the end {late}",
    )


def _look(stored_bytes: int) -> Look:
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    tasks = len(asyncio.all_tasks(Loop.newest))
    return Look(tasks, len(os.listdir("/proc/self/fd")), len(gc.get_objects()), resident - stored_bytes)


def _typical(looks: list[Look]) -> Look:
    return Look(*(int(median(values)) for values in zip(*(vars(look).values() for look in looks), strict=True)))
