"""The numbers and dates in a state. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..lag import moment

#: So deep a state is looked into
_DEPTH = 4


@dataclass
class Field:
    """A number or a date in the state.

    :param is_time: whether it is a date, in seconds since 1970
    :param value: in the newest checkpoint
    """

    name: str
    is_time: bool
    value: float
    _moved: float = 0
    _older: float | None = None

    def note(self, value: float) -> None:
        """Count the value before the one that was noted last."""
        if self._older is not None:
            self._moved += abs(self._older - value)
        self._older = value

    @property
    def progress(self) -> float:
        """How straight it goes one way: 1, or to and fro: towards 0."""
        return abs(self.value - (self._older or 0)) / self._moved if self.changes else 0

    @property
    def changes(self) -> bool:
        """Whether it has had different values."""
        return self._moved > 0


def leaves(state: Any, path: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """Yield what is in *state*, by names that are dotted for what is in objects in it."""
    if isinstance(state, dict) and depth:
        for name, value in state.items():
            yield from leaves(value, f"{path}.{name}" if path else name, depth - 1)
    elif path:
        yield path, state


def value_of(state: Any, name: str) -> Any:
    """Return the field *name*, dotted as by :func:`leaves`; a key may have a dot in it, too."""
    if not isinstance(state, dict):
        return None
    if name in state:
        return state[name]
    places = [at for at, sign in enumerate(name) if sign == "."]
    return next((value_of(state[name[:at]], name[at + 1 :]) for at in places if name[:at] in state), None)


def number_of(value: Any) -> float | None:
    """Return a number, or a date as seconds since 1970; None: it is something else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    return moment(value)
