"""Units of work in the order they were begun, and the low watermark: up to where all of them are done. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import deque
from collections.abc import Iterable
from itertools import count, islice
from typing import Any, NamedTuple

from .checkpoint import Checkpoint
from .plain import shortened

_DIGEST_BYTES = 12
#: How many missing units a checkpoint tells of, and how many failed ones the log; their number it always tells.
TOLD = 100


class Failure(NamedTuple):
    """Why a unit failed: the address of the request, without credentials, and a few words."""

    url: str
    reason: str


class Units:
    """The units of one run that the watermark has not passed, by name; what it has passed takes no memory.

    A unit's name is its state as canonical JSON (:func:`name_of`). It is over when nothing of it is out any more.

    :param state: where the run starts
    :param ahead: digests of the units beyond that state that earlier runs finished
    :param pass_failed: whether the watermark passes failed units (STATE_ON_UNIT_ERROR = "skip"); else they hold it
    """

    def __init__(self, state: dict[str, Any], ahead: Iterable[str] = (), pass_failed: bool = False) -> None:
        #: the name of the last unit that was passed: the state to resume from
        self.watermark = name_of(state)
        #: how many units are begun and not over
        self.in_flight = 0
        #: how many have failed, those that were passed too
        self.failures = 0
        #: failed ones that were passed since the last :meth:`report`
        self.passed_failed: list[str] = []
        self._pass_failed = pass_failed
        # One dict entry and one place in the queue for each unit: a crawl may have very many in flight.
        self._out: dict[str, int] = {}
        self._order: deque[str] = deque()
        self._again: dict[str, str] = {}
        self._numbers = count(1)
        self._failed: dict[str, Failure] = {}
        self._first_failures: list[tuple[str, Failure]] = []
        self._ahead: dict[str, str] = {}
        self._parents: set[str] = set()
        self._before = frozenset(ahead)
        self._before_unseen = dict.fromkeys(ahead)

    def begin(self, name: str) -> str:
        """Begin the unit *name*, with one thing of it out; one that is in flight is joined. Return the unit's own name.

        The same state may come again after its unit was over. That is another unit, named by the same JSON and some blanks.
        """
        unit = self._again.get(name, name)
        if self._out.get(unit) == 0:
            # A number in blanks: short ones, though somebody gave every request the same state.
            unit = self._again[name] = name + f"{next(self._numbers):b}".translate({48: " ", 49: "\t"})
        if unit not in self._out:
            self._out[unit] = 0
            self._order.append(unit)
            self.in_flight += 1
        self._out[unit] += 1
        return unit

    def finished_before(self, name: str) -> bool:
        """Whether an earlier run finished the unit *name*; if so it takes its place in the order, as done."""
        if not self._before or (digest := digest_of_unit(name)) not in self._before:
            return False
        if digest in self._before_unseen:  # else it has had its place already
            del self._before_unseen[digest]
            self._out[name] = 0
            self._order.append(name)
            self._ahead[name] = digest
        return True

    def add(self, unit: str) -> None:
        """One more thing of *unit* is out. Only while it is in flight."""
        self._out[unit] += 1

    def remove(self, unit: str) -> bool:
        """One thing of *unit* is done; return whether that was the last, so that it is over. Then :meth:`advance`."""
        self._out[unit] -= 1
        if self._out[unit]:
            return False
        self.in_flight -= 1
        return True

    def fail(self, unit: str, failure: Failure) -> bool:
        """*unit* failed, though more of it may still be out; return whether that is news."""
        if self._failed.setdefault(unit, failure) is not failure:
            return False
        self.failures += 1
        if len(self._first_failures) < TOLD:
            self._first_failures.append((unit, failure))
        return True

    def failures_told(self) -> list[str]:
        """Return lines about the first failures, for the log."""
        lines = [f"  {shortened(unit)}: {failure.reason} {failure.url}" for unit, failure in self._first_failures]
        return lines if self.failures == len(lines) else [*lines, f"  and {self.failures - len(lines)} more"]

    def has_begun_another(self, unit: str) -> None:
        """A callback of *unit* began another unit. So it will not be ahead: if it were left out, who would begin that one?"""
        self._parents.add(unit)

    def is_in_flight(self, unit: str) -> bool:
        """Whether something of *unit* is out."""
        return self._out.get(unit, 0) > 0

    def has_failed(self, unit: str) -> bool:
        """Whether *unit* has failed, and the watermark has not passed it."""
        return unit in self._failed

    def all_in_flight(self) -> list[str]:
        """Return the units of which something is out, in their order."""
        return [unit for unit in self._order if self._out[unit]] if self.in_flight else []

    @property
    def holding(self) -> bool:
        """Whether the watermark is before the last unit that was begun."""
        return bool(self._order)

    def advance(self, over: str | None = None) -> list[str]:
        """Move the watermark as far as it goes, now that the unit *over* is over; return the units it has passed."""
        order = self._order
        passed = []
        while order and not self._out[order[0]] and (self._pass_failed or order[0] not in self._failed):
            unit = order.popleft()
            del self._out[unit]
            self._ahead.pop(unit, None)
            self._parents.discard(unit)
            if self._failed.pop(unit, None) is not None:
                self.passed_failed.append(unit)
            self.watermark = unit
            passed.append(unit)
        if over is not None and over in self._out and over not in self._failed and over not in self._parents:
            self._ahead[over] = digest_of_unit(over)
        return passed

    def is_ahead(self, unit: str) -> bool:
        """Whether *unit* is done, beyond the watermark."""
        return unit in self._ahead

    def ahead(self) -> tuple[str, ...]:
        """Return the digests of the units beyond the watermark that are done, those of earlier runs too."""
        return (*self._before_unseen, *self._ahead.values())

    def held_back(self) -> list[str]:
        """Return the units that have begun others and are over, but that the watermark can't reach any more in this run."""
        order = iter(self._order)
        if self._pass_failed or not any(unit in self._failed for unit in order):
            return []
        return [unit for unit in order if unit in self._parents and not self._out[unit]]

    def report(self) -> dict[str, Any]:
        """Return a checkpoint's fields about units; call it once for each."""
        number, missing = self.missing()
        skipped = tuple(json.loads(unit) for unit in self.passed_failed)
        self.passed_failed.clear()
        return {"ahead": self.ahead(), "missing": missing, "missing_units": number, "skipped_units": skipped}

    def missing(self) -> tuple[int, tuple[dict[str, Any], ...]]:
        """Return how many units before the newest one that is done are not, and what the first of them are.

        Each is ``{"state": …, "reason": …}``; the reason is None where it has not failed.
        """
        newest = next((n for n, unit in enumerate(reversed(self._order)) if unit in self._ahead), None)
        if newest is None:
            return 0, ()
        until = len(self._order) - newest
        missing = [unit for unit in islice(self._order, until) if unit not in self._ahead]
        told = missing[:TOLD]
        reasons = [self._failed[unit].reason if unit in self._failed else None for unit in told]
        return len(missing), tuple({"state": json.loads(unit), "reason": why} for unit, why in zip(told, reasons, strict=True))


def name_of(state: dict[str, Any]) -> str:
    """Return *state*, a JSON object, as canonical JSON: sorted keys, no white space."""
    return json.dumps(state, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def digest_of_unit(name: str) -> str:
    """Return how ``ahead`` names the unit *name*: the first 12 bytes of its SHA-256, as 16 characters (base64url)."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()[:_DIGEST_BYTES]).decode()


def what_is_missing(checkpoint: Checkpoint) -> str:
    """Return in words which units *checkpoint* misses below its newest one; empty if it misses none. For people."""
    if not checkpoint.missing_units:
        return ""
    told = [f"{name_of(each['state'])} ({each.get('reason') or 'not done yet'})" for each in checkpoint.missing]
    more = checkpoint.missing_units - len(told)
    if more:
        told.append(f"and {more} more")
    return f"{checkpoint.missing_units} missing, {len(checkpoint.ahead)} done beyond them: " + ", ".join(told)
