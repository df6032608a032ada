"""Units in the order in which they began, and the low watermark: the last unit up to which all units are done. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import deque
from collections.abc import Iterable
from itertools import count, islice
from typing import Any, NamedTuple

from ..model.checkpoint import Checkpoint

_DIGEST_BYTES = 12
_DECODER = json.JSONDecoder()
#: A checkpoint lists at most this many missing units, and the log at most this many failed ones. Both give the total, too.
MAX_LISTED = 100


class Failure(NamedTuple):
    """Why a unit failed: the URL of the request, without credentials, and a few words."""

    url: str
    reason: str


class Units:
    """The units of one run that the watermark has not passed yet, by name. Units behind it take no memory.

    A unit's name is its state as canonical JSON (:func:`name_of`). If the same state begins another unit later, the name of
    that unit also has a ``#`` and a number at its end. A unit is over when nothing of it is in flight any more, neither a
    request nor a callback.

    :param state: where the run starts
    :param ahead: digests of the units beyond that state that earlier runs finished
    :param skip_failed: whether the watermark passes failed units (STATE_ON_UNIT_ERROR = "skip") or stops before them
    """

    def __init__(self, state: dict[str, Any], ahead: Iterable[str] = (), skip_failed: bool = False) -> None:
        #: the name of the last unit that the watermark has passed; its state is the one to resume from
        self.watermark = name_of(state)
        #: how many units have begun and are not over
        self.in_flight = 0
        #: failed units that the watermark has passed since the last call of :meth:`checkpoint_fields`
        self.skipped: list[str] = []
        self._skip_failed = skip_failed
        # Just one dict entry and one place in the queue for each unit: a crawl may have very many of them.
        #: how many requests and callbacks of each unit are in flight
        self._counts: dict[str, int] = {}
        self._order: deque[str] = deque()
        #: the name of a state -> the unit it began last, if it has begun more than one
        self._again: dict[str, str] = {}
        self._numbers = count(1)
        self._failed: dict[str, Failure] = {}
        self._ahead: dict[str, str] = {}
        self._begun_others: set[str] = set()
        self._before = frozenset(ahead)
        self._before_unseen = dict.fromkeys(ahead)

    def begin(self, name: str) -> str:
        """Begin the unit *name*, or join it if it is in flight: one more thing of it is in flight. Return the unit's own name.

        If the unit *name* is over, the same state begins another unit, with a name of its own.
        """
        unit = self._again.get(name, name)
        if self._counts.get(unit) == 0:
            unit = self._again[name] = f"{name}#{next(self._numbers)}"
        if unit not in self._counts:
            self._counts[unit] = 0
            self._order.append(unit)
            self.in_flight += 1
        self._counts[unit] += 1
        return unit

    def finished_before(self, name: str) -> bool:
        """Return whether an earlier run finished the unit *name*. If so, it takes its place in the order as done."""
        if not self._before or (digest := digest_of_unit(name)) not in self._before:
            return False
        if digest in self._before_unseen:  # otherwise it has its place already
            del self._before_unseen[digest]
            self._counts[name] = 0
            self._order.append(name)
            self._ahead[name] = digest
        return True

    def add(self, unit: str) -> None:
        """One more request or callback of *unit*, which must be in flight, is in flight."""
        self._counts[unit] += 1

    def remove(self, unit: str) -> bool:
        """One request or callback of *unit* has ended. Return whether it was the last; if so, call :meth:`advance`."""
        self._counts[unit] -= 1
        if self._counts[unit]:
            return False
        self.in_flight -= 1
        return True

    def fail(self, unit: str, failure: Failure) -> bool:
        """Note that *unit* has failed; it may still be in flight. Return whether this is its first failure."""
        return self._failed.setdefault(unit, failure) is failure

    def note_begun_another(self, unit: str) -> None:
        """A callback of *unit* has begun another unit. So *unit* can't be ahead: the next run needs it to begin the other."""
        self._begun_others.add(unit)

    def is_in_flight(self, unit: str) -> bool:
        """Return whether a request or callback of *unit* is in flight."""
        return self._counts.get(unit, 0) > 0

    def has_failed(self, unit: str) -> bool:
        """Return whether *unit* has failed and the watermark has not passed it."""
        return unit in self._failed

    def all_in_flight(self) -> list[str]:
        """Return the units in flight, in their order."""
        return [unit for unit in self._order if self._counts[unit]] if self.in_flight else []

    @property
    def is_behind(self) -> bool:
        """Whether the watermark has not reached the last unit that has begun."""
        return bool(self._order)

    def advance(self, over: str | None = None) -> list[str]:
        """Move the watermark as far as it can go, now that the unit *over* is over. Return the units it passes."""
        order = self._order
        passed = []
        while order and not self._counts[order[0]] and (self._skip_failed or order[0] not in self._failed):
            unit = order.popleft()
            del self._counts[unit]
            self._ahead.pop(unit, None)
            self._begun_others.discard(unit)
            if self._failed.pop(unit, None) is not None:
                self.skipped.append(unit)
            self.watermark = unit
            passed.append(unit)
        if over is not None and over in self._counts and over not in self._failed and over not in self._begun_others:
            self._ahead[over] = digest_of_unit(over)
        return passed

    def is_ahead(self, unit: str) -> bool:
        """Return whether *unit* is done and lies beyond the watermark."""
        return unit in self._ahead

    def ahead(self) -> tuple[str, ...]:
        """Return the digests of the finished units beyond the watermark, including those that earlier runs finished."""
        return (*self._before_unseen, *self._ahead.values())

    def over_but_blocked(self) -> list[str]:
        """Return the units that are over and have begun others, but lie behind a failed unit: this run can't pass them."""
        order = iter(self._order)
        if self._skip_failed or not any(unit in self._failed for unit in order):
            return []
        return [unit for unit in order if unit in self._begun_others and not self._counts[unit]]

    def checkpoint_fields(self) -> dict[str, Any]:
        """Return the fields of the next checkpoint that are about units. Call it once for each checkpoint."""
        number, missing = self.missing()
        skipped = tuple(state_of(unit) for unit in self.skipped)
        self.skipped.clear()
        return {"ahead": self.ahead(), "missing": missing, "missing_units": number, "skipped_units": skipped}

    def missing(self) -> tuple[int, tuple[dict[str, Any], ...]]:
        """Return how many units before the newest finished unit are not done, and the first :data:`MAX_LISTED` of them.

        Each is ``{"state": …, "reason": …}``; the reason is None for a unit that has not failed.
        """
        newest = next((n for n, unit in enumerate(reversed(self._order)) if unit in self._ahead), None)
        if newest is None:
            return 0, ()
        until = len(self._order) - newest
        missing = [unit for unit in islice(self._order, until) if unit not in self._ahead]
        return len(missing), tuple({"state": state_of(unit), "reason": self._reason(unit)} for unit in missing[:MAX_LISTED])

    def _reason(self, unit: str) -> str | None:
        failure = self._failed.get(unit)
        return None if failure is None else failure.reason


def name_of(state: dict[str, Any]) -> str:
    """Return *state*, a JSON object, as canonical JSON: sorted keys, no white space."""
    return json.dumps(state, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def state_of(unit: str) -> dict[str, Any]:
    """Return the state at the beginning of a unit's name."""
    state: dict[str, Any] = _DECODER.raw_decode(unit)[0]
    return state


def digest_of_unit(name: str) -> str:
    """Return the digest by which ``ahead`` lists the unit *name*: the first 12 bytes of its SHA-256, in base64url."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()[:_DIGEST_BYTES]).decode()


def what_is_missing(checkpoint: Checkpoint) -> str:
    """Return, in words, which units *checkpoint* misses before its newest finished one; empty if it misses none."""
    if not checkpoint.missing_units:
        return ""
    listed = [f"{name_of(unit['state'])} ({unit.get('reason') or 'not done yet'})" for unit in checkpoint.missing]
    more = checkpoint.missing_units - len(listed)
    if more:
        listed.append(f"and {more} more")
    return f"{checkpoint.missing_units} missing, {len(checkpoint.ahead)} done beyond them: " + ", ".join(listed)
