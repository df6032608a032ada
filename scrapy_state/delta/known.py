"""The pages of earlier crawls, in memory: 10 bytes for each. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from .runs import FORGOTTEN, Part

#: There is an entry in the index for about this many keys, as a power of 2: the rest is left to bisecting
_KEYS_IN_SLICE_BITS = 5


class Known:
    """Looks up keys. Two pages share a key by chance once in 2**64 / (number of keys) lookups.

    :param parts: keys with their days, each key once, in ascending order
    :param most: how many keys there are at most: the memory that is taken while the parts are read
    """

    def __init__(self, parts: Iterable[Part] = (), most: int = 0) -> None:
        self._keys, self._days = array("Q", [0]) * most, array("H", [0]) * most
        count = 0
        for keys, days in parts:
            end = count + len(keys)
            self._keys[count:end], self._days[count:end] = keys, days
            count = end
        del self._keys[count:], self._days[count:]
        # Keys are hashes: those that begin with the same bits are few, and about the same number for all bits.
        bits = max(0, count.bit_length() - _KEYS_IN_SLICE_BITS)
        self._shift = 64 - bits
        self._begins = array("Q", [0])
        for number in range(1, 1 << bits):
            self._begins.append(bisect_left(self._keys, number << self._shift, self._begins[-1]))
        self._begins.append(count)

    def __len__(self) -> int:
        return len(self._keys)

    def day(self, key: int) -> int:
        """Return the day, since 1970, on which the page with this *key* last gave items; 0 if it is not known."""
        number = key >> self._shift
        end = self._begins[number + 1]
        at = bisect_left(self._keys, key, self._begins[number], end)
        return self._days[at] if at < end and self._keys[at] == key else FORGOTTEN

    @property
    def days(self) -> tuple[int, int]:
        """The first day and the last one; (0, 0) if no key is known."""
        return (min(self._days), max(self._days)) if self._days else (0, 0)
