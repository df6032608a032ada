"""What happens to a crawl in a world: runs, deaths and further runs, until it is over."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from . import clock, oracle
from .crawl import STATE_FEED, Run, arguments_of, crawl, settings_of, spider_of
from .shapes import Scene
from .site import Handler, Site
from .store import Contents, SimStore
from .world import Crashes, World

#: After so many runs it is clear that a crawl makes no progress.
MOST_RUNS = 30


@dataclass
class Report:
    """What one world and its descendants found. *path*: the crash points it has died at; *commits*: checkpoints stored."""

    path: tuple[int, ...]
    points: int = 0
    trace: int = 0
    commits: int = 0
    runs: int = 0
    wrong: list[str] = field(default_factory=list)


class History:
    """One seed's world with a crawl.

    :param reports: where the worlds write their reports, a line each
    :param redis_url: of a server, if the requests are in Redis
    """

    def __init__(self, scene: Scene, seed: int, crashes: Crashes, reports: int, redis_url: str = "") -> None:
        self._scene = scene
        self._shape = shape = scene.shape
        self._reports = reports
        self._world = World(f"{shape.name} {seed}", crashes, self._resume, self._wrong)
        if seed % 2:
            self._world.order = Random(seed)
        self._stops = Random(seed)
        self._contents = SimStore.contents = Contents(self._world, scene.fault)
        chance = self._world.chance
        self._site = Handler.site = Site(self._world, shape.size, mean_seconds=chance.choice((0.1, 0.3, 0.5)))
        self._settings = settings_of(shape, **scene.settings(chance))
        if redis_url:
            self._settings |= _in_redis(self._world, redis_url, scene.fault, self._settings["FEEDS"])
        #: whether a run whose requests are in Redis has ended because nothing was left to do
        self._has_finished = False
        self._report = Report(())
        self._world.at_death.append(self._died)

    def live(self) -> bool:
        """Run the crawl until it is over, and report. Return whether all is well."""
        while not self._is_over() and not self._report.wrong:
            self._site.run += 1
            self._report.runs += 1
            self._run()
            self._check()
            if self._report.runs == MOST_RUNS:
                self._wrong(f"it is not over after {MOST_RUNS} runs")
        if kept := clock.real_clocks():
            self._wrong(f"the real clock is still in {', '.join(kept)}")
        self._write()
        return not self._report.wrong

    def _run(self) -> None:
        world, shape, beside = self._world, self._shape, self._scene.beside
        spider, arguments = spider_of(shape), arguments_of(shape, shape.size)
        others: list[Run] = []
        if beside is not None:
            settings = {**self._settings, **beside}
            after_seconds = world.chance.uniform(0, 1.5)
            world.start_thread(lambda: others.append(crawl(world, spider, settings, arguments)), after_seconds)
        stop_after = self._stops.expovariate(1) if self._scene.stops and self._stops.random() < 0.7 else None
        run = crawl(world, spider, self._settings, arguments, stop_after)
        world.rest()
        for each in (run, *others):
            self._has_finished = self._has_finished or (self._scene.redis and each.reason == "finished")
            if each.failed != str(each.reason).startswith("state_"):
                self._wrong(f"run {self._report.runs} ended with {each.reason}, failed: {each.failed}")
        excused = self._scene.may_fail or self._contents.arrived_late
        ends = (*shape.over, *shape.failed, *(["shutdown"] if stop_after is not None else []))
        if run.reason not in ends and not excused:
            self._wrong(f"run {self._report.runs} ended with {run.reason}")
        if run.errors and not excused:
            self._wrong(f"run {self._report.runs} logged errors: {run.errors[:3]}")

    def _is_over(self) -> bool:
        return self._has_finished or (not self._scene.redis and oracle.is_over(self._shape, self._contents.files))

    def _check(self) -> None:
        shape, files = self._shape, self._contents.files
        found = []
        if not self._scene.redis:
            found = oracle.wrong(shape, shape.size, files)
        elif self._has_finished:
            found = oracle.missing(shape, shape.size, files)
        for each in found:
            self._wrong(each)

    def _resume(self) -> bool:
        self._check()
        return self.live()

    def _died(self) -> None:
        self._report = Report(self._world.path)

    def _wrong(self, what: str) -> None:
        self._report.wrong.append(what)
        self._write()

    def _write(self) -> None:
        self._report.commits = len(oracle.checkpoints(self._contents.files))
        self._report.points, self._report.trace = self._world.points, self._world.trace
        line = json.dumps(asdict(self._report))
        os.write(self._reports, f"{line}\n".encode())


def _in_redis(world: World, url: str, fault: float, feeds: dict[str, Any]) -> dict[str, Any]:
    """Return the settings for requests in the Redis at *url*, which gets the virtual time of *world*."""
    from .frontier import Frontier  # needs redis-py

    return {
        "SCHEDULER": "scrapy_state.redis.Scheduler",
        "STATE_REDIS_URL": Frontier(world, url, fault).url,
        "STATE_REDIS_FILTER_START": True,
        "FEEDS": {uri: options for uri, options in feeds.items() if uri not in STATE_FEED},
    }
