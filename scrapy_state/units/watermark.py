"""Units of work in the order they began, and the low watermark: the last unit up to which all are done. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import deque
from collections.abc import Iterable
from itertools import count, islice
from typing import Any, NamedTuple

from ..model.checkpoint import Checkpoint
from ..model.json_values import shortened

_DIGEST_BYTES = 12
_DECODER = json.JSONDecoder()
#: How many missing units a checkpoint lists, and how many failed ones the log. Both always give the total.
TOLD = 100


class Failure(NamedTuple):
    """Why a unit failed: the URL of the request, without credentials, and a few words."""

    url: str
    reason: str


class Units:
    """The units of one run that the watermark has not passed, by name. Those it has passed take no memory.

    A unit's name is its state as canonical JSON (:func:`name_of`); if the same state begins another unit later, the name
    of that one ends in ``#`` and a number. A unit is over when nothing of it is out any more.

    :param state: where the run starts
    :param ahead: digests of the units beyond that state that earlier runs finished
    :param pass_failed: whether failed units let the watermark pass (STATE_ON_UNIT_ERROR = "skip") or hold it
    """

    def __init__(self, state: dict[str, Any], ahead: Iterable[str] = (), pass_failed: bool = False) -> None:
        #: the name of the last unit that the watermark has passed; its state is the one to resume from
        self.watermark = name_of(state)
        #: how many units have begun and are not over
        self.in_flight = 0
        #: how many units have failed, whether the watermark has passed them or not
        self.failures = 0
        #: failed units that the watermark has passed since the last :meth:`report`
        self.passed_failed: list[str] = []
        self._pass_failed = pass_failed
        # Only one dict entry and one place in the queue per unit: a crawl may have very many in flight.
        self._out: dict[str, int] = {}
        self._order: deque[str] = deque()
        #: a state's name -> the unit it began last, if that was not its first
        self._again: dict[str, str] = {}
        self._numbers = count(1)
        self._failed: dict[str, Failure] = {}
        self._first_failures: list[tuple[str, Failure]] = []
        self._ahead: dict[str, str] = {}
        self._parents: set[str] = set()
        self._before = frozenset(ahead)
        self._before_unseen = dict.fromkeys(ahead)

    def begin(self, name: str) -> str:
        """Begin the unit *name*, or join it if it is in flight, with one more thing of it out. Return the unit's own name.

        If the state *name* comes again after its unit was over, that begins another unit, with a name of its own.
        """
        unit = self._again.get(name, name)
        if self._out.get(unit) == 0:
            unit = self._again[name] = f"{name}#{next(self._numbers)}"
        if unit not in self._out:
            self._out[unit] = 0
            self._order.append(unit)
            self.in_flight += 1
        self._out[unit] += 1
        return unit

    def finished_before(self, name: str) -> bool:
        """Whether an earlier run finished the unit *name*. If so, it takes its place in the order as done."""
        if not self._before or (digest := digest_of_unit(name)) not in self._before:
            return False
        if digest in self._before_unseen:  # otherwise it has its place already
            del self._before_unseen[digest]
            self._out[name] = 0
            self._order.append(name)
            self._ahead[name] = digest
        return True

    def add(self, unit: str) -> None:
        """One more thing of *unit* is out. Only while it is in flight."""
        self._out[unit] += 1

    def remove(self, unit: str) -> bool:
        """One thing of *unit* is done. Return whether that was the last, so that it is over; then call :meth:`advance`."""
        self._out[unit] -= 1
        if self._out[unit]:
            return False
        self.in_flight -= 1
        return True

    def fail(self, unit: str, failure: Failure) -> bool:
        """Note that *unit* failed; more of it may still be out. Return whether this is its first failure."""
        if self._failed.setdefault(unit, failure) is not failure:
            return False
        self.failures += 1
        if len(self._first_failures) < TOLD:
            self._first_failures.append((unit, failure))
        return True

    def failures_told(self) -> list[str]:
        """Return one line for each of the first failures, for the log."""
        lines = [f"  {shortened(unit)}: {failure.reason} {failure.url}" for unit, failure in self._first_failures]
        return lines if self.failures == len(lines) else [*lines, f"  and {self.failures - len(lines)} more"]

    def has_begun_another(self, unit: str) -> None:
        """A callback of *unit* began another unit, so *unit* can't be ahead: the next run needs it to begin the other."""
        self._parents.add(unit)

    def is_in_flight(self, unit: str) -> bool:
        """Whether something of *unit* is out."""
        return self._out.get(unit, 0) > 0

    def has_failed(self, unit: str) -> bool:
        """Whether *unit* has failed, and the watermark has not passed it."""
        return unit in self._failed

    def all_in_flight(self) -> list[str]:
        """Return the units in flight, in their order."""
        return [unit for unit in self._order if self._out[unit]] if self.in_flight else []

    @property
    def holding(self) -> bool:
        """Whether the watermark is before the last unit that was begun."""
        return bool(self._order)

    def advance(self, over: str | None = None) -> list[str]:
        """Move the watermark as far as it can go, now that the unit *over* is over. Return the units it passes."""
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
        """Return the digests of the finished units beyond the watermark, including those that earlier runs finished."""
        return (*self._before_unseen, *self._ahead.values())

    def held_back(self) -> list[str]:
        """Return the units that have begun others and are over, but lie behind a failed one: this run can't pass them."""
        order = iter(self._order)
        if self._pass_failed or not any(unit in self._failed for unit in order):
            return []
        return [unit for unit in order if unit in self._parents and not self._out[unit]]

    def report(self) -> dict[str, Any]:
        """Return the fields of a checkpoint that are about units. Call it once per checkpoint."""
        number, missing = self.missing()
        skipped = tuple(state_of(unit) for unit in self.passed_failed)
        self.passed_failed.clear()
        return {"ahead": self.ahead(), "missing": missing, "missing_units": number, "skipped_units": skipped}

    def missing(self) -> tuple[int, tuple[dict[str, Any], ...]]:
        """Return how many units before the newest finished one are not done, and the first of these.

        Each is ``{"state": …, "reason": …}``; the reason is None for one that has not failed.
        """
        newest = next((n for n, unit in enumerate(reversed(self._order)) if unit in self._ahead), None)
        if newest is None:
            return 0, ()
        until = len(self._order) - newest
        missing = [unit for unit in islice(self._order, until) if unit not in self._ahead]
        told = missing[:TOLD]
        reasons = [self._failed[unit].reason if unit in self._failed else None for unit in told]
        return len(missing), tuple({"state": state_of(unit), "reason": why} for unit, why in zip(told, reasons, strict=True))


def name_of(state: dict[str, Any]) -> str:
    """Return *state*, a JSON object, as canonical JSON: sorted keys, no white space."""
    return json.dumps(state, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def state_of(unit: str) -> dict[str, Any]:
    """Return the state that begins the name of a unit."""
    state: dict[str, Any] = _DECODER.raw_decode(unit)[0]
    return state


def digest_of_unit(name: str) -> str:
    """Return how ``ahead`` names the unit *name*: the first 12 bytes of its SHA-256, as 16 characters (base64url)."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()[:_DIGEST_BYTES]).decode()


def what_is_missing(checkpoint: Checkpoint) -> str:
    """Return, for people, which units *checkpoint* misses below its newest one; empty if it misses none."""
    if not checkpoint.missing_units:
        return ""
    told = [f"{name_of(each['state'])} ({each.get('reason') or 'not done yet'})" for each in checkpoint.missing]
    more = checkpoint.missing_units - len(told)
    if more:
        told.append(f"and {more} more")
    return f"{checkpoint.missing_units} missing, {len(checkpoint.ahead)} done beyond them: " + ", ".join(told)
