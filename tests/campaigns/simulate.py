"""Whole crawls in a virtual world, killed at every crash point: ``make simulate ARGS='--seeds 1000'``.

A crash point is every call of a store and every step of an event loop; tests/simulation/world.py explains the rest. Where
nothing is different from the crash point before, the next run would do the same, so it is not tried again, except with
``--alike``.
"""

# ruff: noqa: E402

from __future__ import annotations

from simulation import clock

clock.install()  # before anything else is imported

import argparse
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext
from typing import Any

from redis_server import redis_server
from simulation.history import History
from simulation.mistakes import MISTAKES
from simulation.shapes import SCENES
from simulation.soak import HOUR, soak
from simulation.world import BAD, Crashes


def reports(name: str, seed: int, crashes: Crashes, mistake: str | None = None) -> dict[tuple[int, ...], dict[str, Any]]:
    """Try the crash points of a crawl, in a process of its own; return what each world reports, by where it has died."""
    with tempfile.TemporaryFile() as file, redis_server() if SCENES[name].redis else nullcontext() as server:
        child = os.fork()
        if not child:
            if mistake:
                MISTAKES[mistake].plant()
            try:
                is_well = History(SCENES[name], seed, crashes, file.fileno(), server.url if server else "").live()
            except BaseException:
                logging.exception("the simulation itself has failed")
                os._exit(1)
            os._exit(0 if is_well else BAD)
        _, status = os.waitpid(child, 0)
        file.seek(0)
        found = {tuple(world["path"]): world for world in map(json.loads, file)}  # the last words of each world
    crash_free = found.setdefault((), {"points": 0, "commits": 0, "trace": 0, "wrong": []})
    if os.waitstatus_to_exitcode(status) not in (0, BAD):
        crash_free["wrong"].append(f"the process ended with status {status}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default=",".join(SCENES), help=f"some of {', '.join(SCENES)}")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--seed", type=int, default=1, help="the first of them")
    parser.add_argument("--crash", default="", help="die only there: 123, or 123.45 to die again in the next run")
    parser.add_argument("--alike", action="store_true", help="try crash points that leave the same as the one before, too")
    parser.add_argument("--mistake", choices=MISTAKES, help="make this mistake in the package")
    parser.add_argument("--mistakes", help=f"make each of these, and say which are noticed: all, or {','.join(MISTAKES)}")
    parser.add_argument("--soak", type=float, metavar="HOURS", help="one crawl of so many virtual hours; a week has 168")
    parser.add_argument("--log", default="CRITICAL", help="the least level of log lines to show")
    arguments = parser.parse_args()
    logging.basicConfig(level=arguments.log, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if arguments.soak:
        wrong, found = soak(arguments.soak * HOUR)
        print(*wrong, found, f"{len(wrong)} bad", sep="\n")
        return 1 if wrong else 0
    if arguments.mistakes:
        return noticed(list(MISTAKES) if arguments.mistakes == "all" else arguments.mistakes.split(","))
    path = tuple(int(each) for each in arguments.crash.split(".") if each)
    totals = Counter[str]()
    for name in arguments.shapes.split(","):
        crashes = Crashes(path, SCENES[name].one_of, arguments.alike)
        commits = 0
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            counts = one_seed(name, seed, crashes, arguments.mistake)
            commits = max(commits, counts.pop("commits"))
            totals += counts
        if commits < SCENES[name].commits:
            print(f"{name}: {commits} checkpoints without a crash, so this tests nothing")
            totals["bad"] += 1
    print(f"{totals['points']} crash points, {totals['tried']} of them different, {totals['bad']} bad")
    return 1 if totals["bad"] else 0


def one_seed(name: str, seed: int, crashes: Crashes, mistake: str | None) -> Counter[str]:
    """Try one seed, and print what is bad. Return how many crash points there are, and how many of them were tried and bad.

    "commits": how many checkpoints the world without a crash has stored.
    """
    began = clock.real_seconds()
    worlds = reports(name, seed, crashes, mistake)
    more = f" --mistake {mistake}" if mistake else ""
    bad = {path: world for path, world in worlds.items() if world["wrong"]}
    for path, world in list(bad.items())[:10]:
        crash = ".".join(map(str, path)) or 0
        again = f"--shapes {name} --seed {seed} --crash {crash}{more} --log INFO"
        print(*world["wrong"][:5], f"again: make simulate ARGS='{again}'", sep="\n  ", flush=True)
    counts = Counter(
        points=sum(world["points"] for path, world in worlds.items() if len(path) < crashes.depth),
        tried=len(worlds) - 1,
        bad=len(bad),
        commits=worlds[()]["commits"],
    )
    seconds, trace = clock.real_seconds() - began, worlds[()]["trace"]
    print(f"{name}, seed {seed}: {counts['points']} crash points, {counts['tried']} different, {counts['bad']} bad, "
          f"{seconds:.1f} s, trace {trace:08x}", flush=True)  # fmt: skip
    return counts


def noticed(names: list[str]) -> int:
    """Make each mistake, and say at which crash point the simulation notices it."""
    missed = 0
    for name in names:
        mistake, began = MISTAKES[name], clock.real_seconds()
        for seed in range(mistake.seed, mistake.seed + mistake.seeds):
            crashes = Crashes((), SCENES[mistake.shape].one_of, until_bad=True)
            worlds = reports(mistake.shape, seed, crashes, name)
            bad = [world for world in worlds.values() if world["wrong"]]
            if bad:
                break
        says = f"seed {seed}, crash point {bad[0]['path']}: {bad[0]['wrong'][0]}" if bad else "NOT NOTICED"
        print(f"{name}: {says} ({clock.real_seconds() - began:.1f} s)", flush=True)
        missed += not bad
    print(f"{len(names)} mistakes, {missed} not noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
