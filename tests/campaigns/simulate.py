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
from typing import Any

from simulation.history import History
from simulation.mistakes import MISTAKES
from simulation.shapes import SCENES, Scene
from simulation.world import Crashes


def reports(scene: Scene, seed: int, crashes: Crashes) -> list[dict[str, Any]]:
    """Try all crash points of a crawl; return what each world reports, in a process of its own."""
    with tempfile.TemporaryFile() as file:
        child = os.fork()
        if not child:
            try:
                History(scene, seed, crashes, file.fileno()).live()
            except BaseException:
                logging.exception("the simulation itself has failed")
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        file.seek(0)
        found = [json.loads(line) for line in file]
    if status:
        found.append({"path": [], "points": 0, "commits": 0, "trace": 0, "wrong": [f"the process ended with status {status}"]})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default=",".join(SCENES), help=f"some of {', '.join(SCENES)}")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--seed", type=int, default=1, help="the first of them")
    parser.add_argument("--crash", default="", help="die only there: 123, or 123.45 to die again in the next run")
    parser.add_argument("--alike", action="store_true", help="try crash points that leave the same as the one before, too")
    parser.add_argument("--mistake", choices=MISTAKES, help="make this mistake in the package; the simulation must notice")
    parser.add_argument("--log", default="CRITICAL", help="the least level of log lines to show")
    arguments = parser.parse_args()
    logging.basicConfig(level=arguments.log, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if arguments.mistake:
        MISTAKES[arguments.mistake]()
    path = tuple(int(each) for each in arguments.crash.split(".") if each)
    totals = [0, 0, 0]
    for name in arguments.shapes.split(","):
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            scene = SCENES[name]
            crashes = Crashes(path, scene.one_of, arguments.alike)
            counts = one_seed(name, scene, seed, crashes, f" --mistake {arguments.mistake}" if arguments.mistake else "")
            totals = [sum(each) for each in zip(totals, counts, strict=True)]
    points, tried, bad = totals
    print(f"{points} crash points, {tried} of them different, {bad} bad")
    return 1 if bad else 0


def one_seed(name: str, scene: Scene, seed: int, crashes: Crashes, more: str) -> tuple[int, int, int]:
    """Try one seed; print and return how many crash points it has, how many of them were tried, and how many are bad."""
    began = clock.real_seconds()
    found = reports(scene, seed, crashes)
    found = list({tuple(each["path"]): each for each in found}.values())  # the last words of each world
    depth = len(crashes.path) or len(crashes.one_of)
    points = sum(each["points"] for each in found if len(each["path"]) < depth)
    tried = len(found) - 1
    least = 0 if crashes.path else scene.commits
    for each in found:
        if not each["path"] and not each["wrong"] and each["commits"] < least:
            each["wrong"] = [f"only {each['commits']} checkpoints, so this tests nothing"]
    bad = [each for each in found if each["wrong"]]
    for each in bad[:10]:
        crash = ".".join(map(str, each["path"]))
        again = f"--shapes {name} --seed {seed} --crash {crash or 0}{more} --log INFO"
        print(*each["wrong"][:5], f"again: make simulate ARGS='{again}'", sep="\n  ", flush=True)
    trace = next((each["trace"] for each in found if not each["path"]), 0)
    says = f"{points} crash points, {tried} different, {len(bad)} bad"
    print(f"{name}, seed {seed}: {says}, {clock.real_seconds() - began:.1f} s, trace {trace:08x}", flush=True)
    return points, tried, len(bad)


if __name__ == "__main__":
    sys.exit(main())
