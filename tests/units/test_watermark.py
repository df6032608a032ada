"""The pure part of units: their order, and the watermark."""

import json
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.units.watermark import MAX_LISTED, Failure, Units, digest_of_unit, name_of, state_of, what_is_missing

WHY = Failure("http://a.example/", "HTTP 500")


def name(n: int) -> str:
    return name_of({"n": n})


class WatermarkModel(RuleBasedStateMachine):
    """Units behaves like a list of all units, which is searched from its beginning each time."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[dict[str, Any]] = []  # unit, out, failed, before: brute force keeps everything
        self.stored_ahead: list[str] = []
        self.skip_failed = False
        self.start: dict[str, Any] = {"n": -1}
        self.units = Units(self.start)
        self.count = 0
        self.seen_passed: list[str] = []

    def in_flight(self) -> list[dict[str, Any]]:
        return [each for each in self.all if each["out"]]

    def passed(self) -> list[dict[str, Any]]:
        """The units from the first one on that are over and may be passed."""
        found = []
        for each in self.all:
            if each["out"] or (each["failed"] and not self.skip_failed):
                break
            found.append(each)
        return found

    @precondition(lambda self: not self.all)
    @rule(skip_failed=st.booleans(), before=st.sets(st.integers(0, 12)), unknown=st.booleans())
    def start_run(self, skip_failed: bool, before: set[int], unknown: bool) -> None:
        self.skip_failed = skip_failed
        self.stored_ahead = [digest_of_unit(name(n)) for n in sorted(before)] + ["x" * 16] * unknown
        self.units = Units(self.start, self.stored_ahead, skip_failed)

    @rule()
    def begin(self) -> None:
        text = name(self.count)
        self.count += 1
        if self.units.finished_before(text):
            assert digest_of_unit(text) in self.stored_ahead
            self.all.append({"unit": text, "out": 0, "failed": False, "parent": False, "before": True})
            self.units.advance()
        else:
            assert digest_of_unit(text) not in self.stored_ahead
            self.all.append({"unit": self.units.begin(text), "out": 1, "failed": False, "parent": False, "before": False})
            assert self.all[-1]["unit"] == text

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def begin_again(self, data: st.DataObject) -> None:
        """A state that has come before joins its unit if that is in flight, or begins another one."""
        old = data.draw(st.sampled_from(self.all))
        text = name_of(state_of(old["unit"]))
        if self.units.finished_before(text):
            assert digest_of_unit(text) in self.stored_ahead
            return
        held = {each["unit"] for each in self.all if each not in self.passed()}
        in_flight = self.in_flight()
        unit = self.units.begin(text)
        note(f"begun again: {unit!r}")
        assert state_of(unit) == json.loads(text)
        joined = [each for each in in_flight if each["unit"] == unit]
        if joined:
            joined[0]["out"] += 1
        else:
            assert unit not in held
            self.all.append({"unit": unit, "out": 1, "failed": False, "parent": False, "before": False})

    @precondition(lambda self: self.in_flight())
    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from(self.in_flight()))
        self.units.add(each["unit"])
        each["out"] += 1

    @precondition(lambda self: self.in_flight())
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from(self.in_flight()))
        before = len(self.passed())
        each["out"] -= 1
        over = self.units.remove(each["unit"])
        assert over == (each["out"] == 0)
        if over:
            assert self.units.advance(each["unit"]) == [each["unit"] for each in self.passed()[before:]]
            assert self.units.is_ahead(each["unit"]) == (each in self.done())

    @precondition(lambda self: self.in_flight())
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from(self.in_flight()))
        assert self.units.fail(each["unit"], Failure("", "why")) == (not each["failed"])
        each["failed"] = True

    @precondition(lambda self: self.in_flight())
    @rule(data=st.data())
    def begin_child(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from(self.in_flight()))
        self.units.note_begun_another(each["unit"])
        each["parent"] = True

    def done(self) -> list[dict[str, Any]]:
        """The units beyond the watermark that are done. A parent is not done before the watermark passes it."""
        beyond = self.all[len(self.passed()) :]
        return [each for each in beyond if not each["out"] and not each["failed"] and not each["parent"]]

    @invariant()
    def agrees(self) -> None:
        passed = self.passed()
        beyond = self.all[len(passed) :]
        assert state_of(self.units.watermark) == (state_of(passed[-1]["unit"]) if passed else self.start)
        assert self.units.in_flight == len(self.in_flight())
        done = self.done()
        unseen = set(self.stored_ahead) - {digest_of_unit(each["unit"]) for each in self.all if each["before"]}
        assert sorted(self.units.ahead()) == sorted(unseen | {digest_of_unit(each["unit"]) for each in done})
        newest = max((n for n, each in enumerate(beyond) if each in done), default=-1)
        missing = [each for each in beyond[: newest + 1] if each not in done]
        told = [{"state": state_of(each["unit"]), "reason": "why" if each["failed"] else None} for each in missing]
        assert self.units.missing() == (len(missing), tuple(told))
        assert self.units.is_behind == bool(beyond)
        assert self.units.all_in_flight() == [each["unit"] for each in self.in_flight()]
        held = {n for n, each in enumerate(beyond) if each["failed"]} if not self.skip_failed else set()
        back = [each["unit"] for n, each in enumerate(beyond) if held and n > min(held) and each["parent"] and not each["out"]]
        assert self.units.over_but_blocked() == back
        assert self.units.skipped == [each["unit"] for each in passed if each["failed"]]


TestWatermark = WatermarkModel.TestCase


def test_a_unit_in_flight_takes_tens_of_bytes() -> None:
    """30,000 units in flight take less than 100 bytes each beside the text of their state; units that were passed take none."""
    texts = [name(n) for n in range(30_000)]
    tracemalloc.start()
    units = Units({})

    def pass_more(first: int) -> int:
        for n in range(first, first + 30_000):
            each = units.begin(name(n))
            units.remove(each)
            units.advance(each)
        return tracemalloc.get_traced_memory()[0] - began

    began = tracemalloc.get_traced_memory()[0]
    for each in texts:
        units.begin(each)
    in_flight = tracemalloc.get_traced_memory()[0] - began
    for each in [*texts[1:], texts[0]]:
        units.remove(each)
        units.advance(each)
    passed, more = pass_more(30_000), pass_more(60_000)
    tracemalloc.stop()
    print(f"{in_flight / len(texts):.0f} bytes a unit in flight; {more - passed} bytes for 30,000 that were passed")
    assert in_flight < 100 * len(texts)
    assert more - passed < 1000
    assert units.watermark == name(89_999)
    assert units.ahead() == ()


def test_many_units_are_passed_in_time_that_grows_with_their_number() -> None:
    """The watermark passes 100,000 units one by one, in order or out of order, in time that grows with their number."""
    for order in ("in order", "in none"):
        units = Units({})
        texts = [units.begin(name(n)) for n in range(100_000)]
        if order == "in none":
            random.Random(1).shuffle(texts)
        moved = 0
        for each in texts:
            units.remove(each)
            moved += bool(units.advance(each))
        assert units.watermark == name(99_999)
        assert moved <= len(texts)


def test_one_state_for_many_units() -> None:
    """Behind a failed unit, the same state begins one unit after the other. Each takes no more time than a unit with a state of
    its own."""
    units = Units({})
    failed = units.begin(name(0))
    units.fail(failed, WHY)
    units.remove(failed)
    names = set()
    for _ in range(20_000):
        unit = units.begin(name(1))
        assert units.begin(name(1)) == unit, "it is in flight"
        assert state_of(unit) == {"n": 1}
        for _ in range(2):
            units.remove(unit)
        units.advance(unit)
        names.add(unit)
    assert len(names) == len(units.ahead()) == 20_000


def test_what_is_missing_in_words() -> None:
    """what_is_missing() lists a checkpoint's missing units, and their number if the checkpoint does not list all."""
    units = Units({})
    texts = [units.begin(name(n)) for n in range(MAX_LISTED + 5)]
    units.fail(texts[1], WHY)
    units.remove(texts[-1])
    units.advance(texts[-1])
    count, missing = units.missing()
    assert (count, len(missing)) == (MAX_LISTED + 4, MAX_LISTED)
    said = what_is_missing(Checkpoint({}, ahead=units.ahead(), missing=missing, missing_units=count))
    assert said.startswith('104 missing, 1 done beyond them: {"n":0} (not done yet), {"n":1} (HTTP 500), ')
    assert said.endswith(", and 4 more")
    assert what_is_missing(Checkpoint({"n": 1})) == ""


def test_checkpoint_fields_come_back() -> None:
    """The fields about units survive a round trip; a checkpoint without units has none of these keys."""
    checkpoint = Checkpoint(
        {"n": 1}, ahead=("a" * 16,), missing=({"state": {"n": 2}, "reason": None},), missing_units=1, skipped_units=({"n": 0},)
    )
    back = Checkpoint.from_bytes(checkpoint.to_bytes())
    for field in ("ahead", "missing", "missing_units", "skipped_units"):
        assert getattr(back, field) == getattr(checkpoint, field)
    assert back.extra == {}
    assert not {"ahead", "missing", "missing_units", "skipped_units"} & Checkpoint({}).to_json().keys()


@pytest.mark.parametrize("wrong", [{"ahead": [1]}, {"ahead": "abc"}, {"missing": ["a"]}, {"missing_units": "1"}])
def test_checkpoint_refuses_other_kinds(wrong: dict[str, Any]) -> None:
    """A file whose fields about units have the wrong type is not a checkpoint."""
    from scrapy_state.exceptions import CheckpointError

    with pytest.raises(CheckpointError, match=next(iter(wrong))):
        Checkpoint.from_bytes(json.dumps([{"state": {}, **wrong}]).encode())
