"""Whether state items may come out of order: whether they come from requests in flight at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from scrapy import Request


@dataclass(frozen=True)
class _Origin:
    """Where a request came from. *count*: how many state items there had been by then."""

    number: int
    parent: int
    count: int


class OrderCheck:
    """Tells whether state items come from requests that are in flight at the same time.

    They do if, since a request was yielded, a state item came from elsewhere than that request's own callback or the
    callback that yielded it. A spider that goes on from one request to the next never does that.
    """

    def __init__(self) -> None:
        self._origins: WeakKeyDictionary[Request, _Origin] = WeakKeyDictionary()
        self._start = _Origin(0, 0, 0)
        self._numbers = 0
        self._count = 0
        #: the newest state item of each of the last three callbacks that yielded one: its number -> the origin's
        self._latest: dict[int, int] = {}
        self._found = False

    def request_yielded(self, request: Request, by: Request | None) -> None:
        """*request* was yielded by the callback of *by*, or by ``start()`` (None)."""
        if not self._found:
            self._origins[request] = self._new(self._origin(by).number)

    def state_yielded(self, by: Request | None) -> bool:
        """A state item came from the callback of *by*; return True once, at the first that shows it."""
        if self._found:
            return False
        origin = self._origin(by)
        family = (origin.number, origin.parent)
        self._found = any(count > origin.count and number not in family for count, number in self._latest.items())
        self._count += 1
        rest = [(count, number) for count, number in self._latest.items() if number != origin.number]
        self._latest = dict([*rest, (self._count, origin.number)][-3:])
        return self._found

    def _origin(self, request: Request | None) -> _Origin:
        if request is None:
            return self._start
        if request not in self._origins:
            # A redirected or retried request is an object that nobody yielded: it begins a history of its own.
            self._origins[request] = self._new(-1)
        return self._origins[request]

    def _new(self, parent: int) -> _Origin:
        self._numbers += 1
        return _Origin(self._numbers, parent, self._count)
