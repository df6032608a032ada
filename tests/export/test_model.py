"""Random histories of runs, checked against a model of what each checkpoint must name: a Hypothesis state machine.

STATE_MODEL_EXAMPLES sets the number of examples, for long campaigns; STATE_MODEL_SEED sets the seed.
"""

from __future__ import annotations

import csv
import gc
import gzip
import io
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import fake_store
import hypothesis
import pytest
from fake_run import Config, Run, open_in_memory
from fake_store import OUTCOMES, URI, Clock, FakeStore
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from oracle import digest_of

from scrapy_state import feedstorages

SEED = int(os.environ.get("STATE_MODEL_SEED", "20260101"))
EXAMPLES = int(os.environ.get("STATE_MODEL_EXAMPLES", "60"))
#: One test per part, so that pytest-xdist can spread them.
PARTS = 4
STEPS = 50
FEEDS = {"all": 1, "even": 2, "third": 3}
KINDS = st.sampled_from(["items", "items", "states", "states", "reads"])
ANSWERS = st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=4) | st.builds(
    lambda outcome, calls: [outcome] * calls, st.sampled_from(["late", "late reply", "unreachable"]), st.integers(2, 9)
)
WORK = st.sampled_from(["items", "enter", "enter", "same", "same", "dropped", "state"])
PICK = st.integers(0, 7)
CONFIGS = st.builds(
    Config,
    interval=st.sampled_from([0, 5]),
    on_item_error=st.sampled_from(["stop", "skip"]),
    orphans=st.sampled_from(["keep", "delete"]),
    spool=st.sampled_from([1 << 20, 40]),
    batch_items=st.sampled_from([0, 1, 2, 3]),
    batch_bytes=st.sampled_from([None, 12]),
)
world: World
# A run that dies leaves compressed files open. From Python 3.13 on their finalizers say that they can't be finished any more.
pytestmark = pytest.mark.filterwarnings("ignore:.*PostProcessingManager:pytest.PytestUnraisableExceptionWarning")


@dataclass
class Expected:
    """The items that a checkpoint and its lineage must name, and those that they do name, by feed."""

    items: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in FEEDS})
    named: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in FEEDS})
    uris: frozenset[str] = frozenset()
    errors: int = 0

    def copy(self) -> Expected:
        items, named = ({name: counter.copy() for name, counter in each.items()} for each in (self.items, self.named))
        return Expected(items, named, self.uris, self.errors)


class World:
    """The store, the runs, and the model, which checks every checkpoint as soon as it can be read."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = FakeStore(self.stored, self.wrong)
        self.runs: list[Run] = []
        #: run id -> what the lineage held where the run began
        self.expected: dict[int, Expected] = {}
        self.seen: dict[str, bytes] = {}
        self.problems: list[str] = []

    def wrong(self, what: str) -> None:
        self.problems.append(what)

    @property
    def alive(self) -> list[Run]:
        return [run for run in self.runs if not run.dead]

    def start(self, config: Config, branch_at: int | None = None) -> None:
        run = Run(self.store, self.clock, config, branch_at, self.wrong)
        others = self.alive
        self.runs.append(run)
        for each in others:
            each.troubled = run.troubled = True
        if run.resolve():
            run.open()

    def stored(self, key: str, content: bytes) -> None:
        if not key.startswith("states/"):
            return
        try:
            [checkpoint] = json.loads(content)
            problems = list(self._check(key, checkpoint))
        except Exception as error:
            problems = [repr(error)]
        self.problems += [f"{each}, in {content.decode()}" for each in problems]

    def _check(self, key: str, checkpoint: dict[str, Any]) -> Iterator[str]:
        id, parent_id, n = checkpoint["id"], checkpoint["parent"], checkpoint["state"].get("n", 0)
        if key != f"states/{id:010d}.json" or checkpoint["digest"] != digest_of(checkpoint):
            yield f"{key} has an id or a digest that does not fit"
        [run] = [each for each in self.runs if each.run_id == checkpoint["run"]]
        if parent_id is None:
            expected, parent = Expected(), {"run": None, "state": {}}
        else:
            expected = self.expected[parent_id].copy()
            [parent] = json.loads(self.store.objects[f"states/{parent_id:010d}.json"])
            if checkpoint["parent_digest"] != parent["digest"] or not parent_id < id:
                yield f"{parent_id} is not its parent"
        if checkpoint["reason"] == "opened":
            if (n, checkpoint["files"]) != (parent["state"].get("n", 0), []) or n != run.start or checkpoint["overlap"]:
                yield "an opening checkpoint that does not go on from its parent"
        elif parent["run"] != checkpoint["run"] or parent["state"].get("n", 0) > n:
            yield "a checkpoint whose parent is another run's, or goes back"
        else:
            yield from self._advance(expected, run, parent["state"].get("n", 0), n)
        yield from self._name(expected, checkpoint["files"])
        if expected.named != expected.items:
            lost = {name: sorted(expected.items[name] - expected.named[name]) for name in FEEDS}
            more = {name: sorted(expected.named[name] - expected.items[name]) for name in FEEDS}
            yield f"P1, P4: the lineage lost {lost}, has too many {more}"
        total = sum(counter.total() for counter in expected.named.values())
        if (checkpoint["items"], checkpoint["errors"]) != (total, expected.errors):
            yield f"it counts {checkpoint['items']}, {checkpoint['errors']}; there are {total}, {expected.errors}"
        self.expected[id] = expected

    def _advance(self, expected: Expected, run: Run, start: int, end: int) -> Iterator[str]:
        for n in range(start, end):
            fate = run.fates.get(n)
            if fate in (None, "failed"):
                yield f"P1, P6: item {n} is {fate or 'not settled'}"
            expected.errors += fate == "skipped"
            if fate == "exported":
                for name in FEEDS:
                    expected.items[name][n] += is_accepted(name, n)
        expected.items = {name: +counter for name, counter in expected.items.items()}

    def _name(self, expected: Expected, files: list[dict[str, Any]]) -> Iterator[str]:
        for file in files:
            uri = file["uri"]
            content = self.store.objects.get(uri.removeprefix(URI))
            if content is None or uri in expected.uris:
                yield f"P1: {uri} is not there, or named before"
                continue
            expected.uris |= {uri}
            items = read(uri, content)
            if (file["items"], file["bytes"]) != (len(items), len(content)):
                yield f"{uri} has {len(items)} items, {len(content)} bytes"
            skipped = {place for begin, end in file.get("skip", ()) for place in range(begin, end)}
            if any(place >= len(items) for place in skipped):
                yield f"{uri} skips more than there is"
            name = next(each for each in FEEDS if f"/{each}-" in uri)
            expected.named[name].update(n for place, n in enumerate(items) if place not in skipped)

    def check(self) -> None:
        """Check that no stored file has changed, and that each file named on any branch exists. Unnamed ones may be deleted."""
        for key, content in self.store.objects.items():
            if self.seen.setdefault(key, content) != content:
                self.wrong(f"P2: {key} was changed")
        named = {uri.removeprefix(URI) for each in self.expected.values() for uri in each.uris}
        states = {key for key in self.seen if key.startswith("states/")}
        self.problems += [f"P2: {key} was deleted" for key in (named | states) - self.store.objects.keys()]
        assert not self.problems, "\n".join(self.problems)


def is_accepted(feed: str, n: int) -> bool:
    return n % FEEDS[feed] == 0


def read(uri: str, content: bytes) -> list[int]:
    """Return the items of an item file."""
    if uri.endswith(".jsonl"):
        return [json.loads(line)["n"] for line in content.splitlines()]
    if uri.endswith(".csv"):
        return [int(row["n"]) for row in csv.DictReader(io.StringIO(content.decode(), newline=""))]
    return [each["n"] for each in json.loads(gzip.decompress(content))]


class Machine(RuleBasedStateMachine):
    """Any history of runs. Checks P1, P2 and P4, and parts of P3 and P6, at every checkpoint and after every step."""

    def __init__(self) -> None:
        super().__init__()
        global world
        self.world = world = World()
        self.store = self.world.store

    def live(self, pick: int) -> Run:
        live = [run for run in self.world.alive if run.live]
        return live[pick % len(live)]

    def any_live(self) -> bool:
        return any(run.live for run in self.world.alive)

    @initialize(atomic=st.booleans(), config=CONFIGS)
    def first_run(self, atomic: bool, config: Config) -> None:
        self.store.atomic = atomic
        self.world.start(config)

    # Runs

    @precondition(lambda self: not self.world.alive)
    @rule(config=CONFIGS)
    def resume(self, config: Config) -> None:
        self.world.start(config)

    @precondition(lambda self: len(self.world.alive) == 1)
    @rule(config=CONFIGS)
    def second_writer(self, config: Config) -> None:
        self.world.start(config)

    @precondition(lambda self: len(self.world.alive) < 2 and self.store.checkpoints())
    @rule(config=CONFIGS, back=st.integers(1, 6))
    def branch(self, config: Config, back: int) -> None:
        ids = [each["id"] for each in self.store.checkpoints()]
        self.world.start(config, ids[-1 - back % len(ids)])

    @precondition(lambda self: any(run.busy for run in self.world.alive))
    @rule(pick=PICK, config=CONFIGS, resumed=st.booleans())
    def kill(self, pick: int, config: Config, resumed: bool) -> None:
        busy = [run for run in self.world.alive if run.busy]
        busy[pick % len(busy)].end()
        if resumed:
            self.world.start(config)

    @precondition(any_live)
    @rule(pick=PICK, reason=st.sampled_from(["finished", "shutdown"]))
    def begin_close(self, pick: int, reason: str) -> None:
        run = self.live(pick)
        if run.closing is None:
            run.begin_close(reason)

    @precondition(lambda self: any(run.live and run.busy for run in self.world.alive))
    @rule(
        pick=PICK,
        outcomes=st.lists(st.sampled_from(["same", "same", "dropped", "raised", "cancelled"]), min_size=1, max_size=3),
        answer=st.sampled_from(["ok", "unreachable", None]),
        config=CONFIGS,
        resumed=st.booleans(),
    )
    def close(self, pick: int, outcomes: list[str], answer: str | None, config: Config, resumed: bool) -> None:
        busy = [run for run in self.world.alive if run.live and run.busy]
        run = busy[pick % len(busy)]
        if run.closing is None:
            run.begin_close("finished")
        run.close(outcomes, answer)
        if resumed:
            self.world.start(config)

    # Items

    @precondition(any_live)
    @rule(pick=PICK, steps=st.lists(st.tuples(WORK, PICK), min_size=1, max_size=8))
    def work(self, pick: int, steps: list[tuple[str, int]]) -> None:
        """Yield items and state items; let them enter and leave the pipelines in any order."""
        run = self.live(pick)
        for step, index in steps:
            if step == "items":
                run.yield_items(index % 4 + 1)
            elif step == "state":
                run.yield_state()
            elif step == "enter" and run.queue:
                run.enter(index)
            elif step in ("same", "dropped") and run.inside:
                run.finish(index, step)

    @precondition(any_live)
    @rule(pick=PICK, before=st.integers(1, 3), after=st.integers(1, 3), order=st.lists(PICK, min_size=2, max_size=6))
    def overtake(self, pick: int, before: int, after: int, order: list[int]) -> None:
        """Have items from both sides of a state item in the pipelines at once."""
        run = self.live(pick)
        run.yield_items(before)
        run.yield_state()
        run.yield_items(after)
        while run.queue:
            run.enter(0)
        for index in order:
            if run.inside:
                run.finish(index, "same")

    @rule(pick=PICK, counts=st.lists(st.integers(0, 5), min_size=1, max_size=4), config=CONFIGS)
    def flow(self, pick: int, counts: list[int], config: Config) -> None:
        """Let items and their state item pass straight through, in a new run if the last one has ended or has to end."""
        for run in self.world.alive:
            if run.closing is not None and run.live:
                run.close(["same"], "ok")
        if not self.world.alive:
            self.world.start(config)
        if not self.any_live():
            return
        run = self.live(pick)
        for count in counts:
            run.yield_items(count)
            while run.queue:
                run.enter(0)
            while run.inside:
                run.finish(0, "same")
            run.yield_state()

    @precondition(lambda self: any(run.live and run.inside for run in self.world.alive))
    @rule(pick=PICK, index=PICK, outcome=st.sampled_from(["raised", "cancelled", "unexportable"]))
    def item_fails(self, pick: int, index: int, outcome: str) -> None:
        runs = [run for run in self.world.alive if run.live and run.inside]
        runs[pick % len(runs)].finish(index, outcome)

    # The store

    @rule(kind=KINDS, outcomes=ANSWERS)
    def store_answers(self, kind: str, outcomes: list[str]) -> None:
        """Set the outcomes of the next few calls; after them the store is well again."""
        self.store.next[kind] = deque(each for each in outcomes if kind != "reads" or each in ("unreachable", "refused"))

    @precondition(lambda self: any(run.held for run in self.world.alive))
    @rule(pick=PICK, index=PICK, answer=st.sampled_from(["ok", "ok", "unreachable", "lost", "refused"]))
    def answer_comes(self, pick: int, index: int, answer: str) -> None:
        runs = [run for run in self.world.alive if run.held]
        run = runs[pick % len(runs)]
        run.held[index % len(run.held)].release(answer)
        run.settle()

    @precondition(lambda self: self.store.in_flight)
    @rule(index=PICK)
    def late_write_lands(self, index: int) -> None:
        """A write of a dead run arrives."""
        for run in self.world.alive:
            run.troubled = True
        key, content = self.store.in_flight.pop(index % len(self.store.in_flight))
        self.store.land(key, content)

    @rule(seconds=st.sampled_from([0.5, 2, 6, 25]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.now += seconds
        for run in self.world.alive:
            run.settle()

    # Invariants

    @invariant()
    def promises(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        for run in self.world.alive:
            run.end()


@pytest.fixture(autouse=True)
def _faked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_store.install(monkeypatch, lambda: world)
    monkeypatch.setattr(feedstorages, "nameless_file", open_in_memory)
    logging.disable(logging.CRITICAL)
    yield
    gc.collect()
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, PARTS))])
def test_model(part: int) -> None:
    """Whatever happens, every checkpoint names exactly what its spider had yielded, and no stored file changes."""
    print(f"STATE_MODEL_SEED={SEED} STATE_MODEL_EXAMPLES={EXAMPLES}, part {part}")
    settings = hypothesis.settings(
        max_examples=-(-EXAMPLES // PARTS), stateful_step_count=STEPS, deadline=None, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    run_state_machine_as_test(hypothesis.seed(SEED + part)(Machine), settings=settings)


def test_orphans_named_in_the_meantime() -> None:
    """A branch that deletes orphans keeps files that the other run has named between its search and its opening."""
    machine = Machine()
    try:
        machine.first_run(atomic=True, config=Config())
        machine.flow(pick=0, counts=[1, 1, 1], config=Config())
        machine.store_answers(kind="states", outcomes=["late"])
        machine.flow(pick=0, counts=[1], config=Config())  # its files are stored, its checkpoint 5 is on its way
        machine.store_answers(kind="states", outcomes=["late"])
        machine.branch(config=Config(orphans="delete"), back=1)  # has looked; its opening is on its way, as 5 too
        machine.answer_comes(pick=0, index=0, answer="ok")
        machine.promises()
        machine.answer_comes(pick=0, index=0, answer="ok")
        machine.promises()
    finally:
        machine.teardown()


def test_orphans_beside_a_slow_item() -> None:
    """A file that is opened late, for an item that was slow in the pipelines, but named before others, is not an orphan."""
    machine = Machine()
    try:
        machine.first_run(atomic=True, config=Config())
        machine.overtake(pick=0, before=1, after=1, order=[1, 0])  # 3 names the second file, 4 the first
        machine.flow(pick=0, counts=[0, 1], config=Config())
        machine.kill(pick=0, config=Config(orphans="delete"), resumed=True)
        machine.promises()
    finally:
        machine.teardown()
