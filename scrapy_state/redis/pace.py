"""How many requests of a download slot a worker can use soon. More of them would only wait here, while others have none."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from scrapy import Request
from scrapy.core.downloader import Downloader

from ..gaps import slot_limits
from .frontier import NO_LIMIT, slot_name

#: A worker has no more of a download slot than this can use in so many seconds.
_AHEAD_SECONDS = 4.0


class Pace:
    """What this worker has of each download slot, and how fast they go.

    :param by_slot: whether the frontier keeps requests by download slot; else there is no limit
    """

    def __init__(self, downloader: Downloader, by_slot: bool) -> None:
        self._downloader = downloader
        self._by_slot = by_slot
        self._slots: dict[Request, str] = {}
        self._held: Counter[str] = Counter()
        #: how many have ended by slot: in this span of _AHEAD_SECONDS, and in the one before
        self._ended: Counter[str] = Counter()
        self._ended_before: Counter[str] = Counter()
        self._span_began = time.monotonic()

    def took(self, request: Request) -> None:
        """*request* was leased."""
        if self._by_slot:
            slot = self._slots[request] = self._downloader.get_slot_key(request)
            self._held[slot] += 1

    def ended(self, request: Request) -> None:
        """*request* is done with."""
        slot = self._drop(request)
        if slot is not None:
            self._ended[slot] += 1

    def keep(self, requests: Iterable[Request]) -> None:
        """Of all that were leased only *requests* are left."""
        for request in self._slots.keys() - set(requests):
            self._drop(request)

    @property
    def rooms(self) -> tuple[Mapping[str, int], int]:
        """How many more this worker can use of each slot it has requests of, or that has settings; and of any other."""
        if not self._by_slot:
            return {}, NO_LIMIT
        passed = time.monotonic() - self._span_began
        if passed >= _AHEAD_SECONDS:
            self._ended_before = self._ended if passed < 2 * _AHEAD_SECONDS else Counter()
            self._ended, self._span_began = Counter(), time.monotonic()
        slots = {*self._held, *self._downloader.per_slot_settings}
        return {slot_name(slot): max(self._usable(slot) - self._held[slot], 0) for slot in slots}, self._usable(None)

    def _usable(self, slot: str | None) -> int:
        concurrency, delay_seconds = slot_limits(self._downloader, slot)
        usable = NO_LIMIT if not concurrency else max(2 * concurrency, concurrency + self._recently(slot))
        return min(usable, 1 + math.ceil(_AHEAD_SECONDS / delay_seconds)) if delay_seconds else usable

    def _recently(self, slot: str | None) -> int:
        return 0 if slot is None else max(self._ended[slot], self._ended_before[slot])

    def _drop(self, request: Request) -> str | None:
        slot = self._slots.pop(request, None)
        if slot is not None:
            self._held[slot] -= 1
            if not self._held[slot]:
                del self._held[slot]
        return slot
