"""The numbers and dates in a state. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..model.times import moment

#: How many levels of nested objects are searched for fields
_DEPTH = 4


@dataclass
class Field:
    """A number or a date in the state.

    :param is_time: whether it is a date, as seconds since 1970
    :param value: its value in the newest checkpoint
    """

    name: str
    is_time: bool
    value: float
    _moved: float = 0
    _older: float | None = None

    def note(self, value: float) -> None:
        """Add the next older value: checkpoints are read newest first."""
        if self._older is not None:
            self._moved += abs(self._older - value)
        self._older = value

    @property
    def progress(self) -> float:
        """How steadily it moves in one direction: 1 if it never turns back, close to 0 if it goes back and forth."""
        return abs(self.value - (self._older or 0)) / self._moved if self.changes else 0

    @property
    def changes(self) -> bool:
        """Whether its value has ever changed."""
        return self._moved > 0


def leaves(state: Any, path: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each field in *state*; fields of nested objects have dotted names."""
    if isinstance(state, dict) and depth:
        for name, value in state.items():
            yield from leaves(value, f"{path}.{name}" if path else name, depth - 1)
    elif path:
        yield path, state


def value_of(state: Any, name: str) -> Any:
    """Return the value of the field *name*, dotted as by :func:`leaves`. Keys may contain dots themselves."""
    if not isinstance(state, dict):
        return None
    if name in state:
        return state[name]
    places = [at for at, sign in enumerate(name) if sign == "."]
    return next((value_of(state[name[:at]], name[at + 1 :]) for at in places if name[:at] in state), None)


def number_of(value: Any) -> float | None:
    """Return a number as it is and a date as seconds since 1970; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    return moment(value)
