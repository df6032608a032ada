"""The fingerprints of requests that a crawl has seen, packed.

A hash table whose buckets are byte strings of some 16 to 32 keys each, which ``bytes.find`` searches faster than Python code
probes an open table. It grows by *linear hashing*: every few keys, the next bucket in turn is split into two. So growing never
takes longer than one bucket does, and needs no second table.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

#: The first bytes of a fingerprint, all that is kept of it
KEY_BYTES: Final = 12
#: One bucket is split whenever this many keys have been added.
_KEYS_PER_BUCKET = 24
#: How many keys there is room for at once: 3 MB of empty buckets. A table with more of them grows.
_MOST_EXPECTED = 10_000_000
_KEY = Struct(f"{KEY_BYTES}s")


class SeenSet:
    """A set of fingerprints. Takes about 16 bytes for each. Nothing in it blocks.

    A fingerprint is its first 12 bytes: two that differ only after those are the same.

    :param expected: how many there will soon be, so that the table need not grow
    """

    def __init__(self, expected: int = 0) -> None:
        self._buckets = [b""] * max(1, min(expected, _MOST_EXPECTED) // _KEYS_PER_BUCKET)
        first_round = 1 << (len(self._buckets).bit_length() - 1)
        #: selects a bucket of the first round of this size; the buckets below *_split* have already been split into two
        self._mask = first_round - 1
        self._split = len(self._buckets) - first_round
        self._count = 0

    def add(self, fingerprint: bytes) -> bool:
        """Add *fingerprint*.

        :return: whether it was new
        :raises ValueError: if it has fewer than 12 bytes
        """
        key = fingerprint[:KEY_BYTES]
        if len(key) != KEY_BYTES:
            raise ValueError(f"a fingerprint has {len(key)} bytes; at least {KEY_BYTES} are needed")
        if key in self:
            return False
        self._buckets[self._bucket(key)] += key
        self._count += 1
        if self._count > len(self._buckets) * _KEYS_PER_BUCKET:
            self._grow()
        return True

    def update(self, packed: bytes) -> None:
        """Add many fingerprints: *packed* has 12 bytes of each, one after the other. 1,000 take some 0.6 ms.

        :raises ValueError: if it has a rest of fewer than 12 bytes
        """
        if len(packed) % KEY_BYTES:
            raise ValueError(f"packed fingerprints have {len(packed)} bytes, which is not a multiple of {KEY_BYTES}")
        while self._count + len(packed) // KEY_BYTES > len(self._buckets) * _KEYS_PER_BUCKET:
            self._grow()
        # A start adds millions: so this is add() and _bucket() without their calls.
        buckets, mask, split, wider = self._buckets, self._mask, self._split, 2 * self._mask + 1
        for (key,) in _KEY.iter_unpack(packed):
            number = hash(key) & mask
            if number < split:
                number = hash(key) & wider
            if key not in buckets[number] or key not in self:  # the former may find it across two neighbours
                buckets[number] += key
                self._count += 1

    def __contains__(self, fingerprint: bytes) -> bool:
        key = fingerprint[:KEY_BYTES]
        bucket = self._buckets[self._bucket(key)]
        at = bucket.find(key)
        while at > 0 and at % KEY_BYTES:  # it is found across two neighbours
            at = bucket.find(key, at + 1)
        return at >= 0 and len(key) == KEY_BYTES

    def __len__(self) -> int:
        return self._count

    def _bucket(self, key: bytes) -> int:
        # A project's own fingerprints need not be spread evenly. Python's hash of bytes is, and nobody can aim at one bucket.
        number = hash(key) & self._mask
        return number if number >= self._split else hash(key) & (2 * self._mask + 1)

    def _grow(self) -> None:
        old = self._buckets[self._split]
        upper = self._mask + 1
        stay: list[bytes] = []
        move: list[bytes] = []
        for start in range(0, len(old), KEY_BYTES):
            key = old[start : start + KEY_BYTES]
            (move if hash(key) & upper else stay).append(key)
        self._buckets[self._split] = b"".join(stay)
        self._buckets.append(b"".join(move))
        self._split += 1
        if self._split == upper:
            self._mask, self._split = 2 * self._mask + 1, 0
