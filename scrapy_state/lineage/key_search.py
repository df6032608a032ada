"""The keys under a prefix from the newest on, in as few requests as the store allows. Knows nothing of what they hold."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import NamedTuple, Protocol

from ..model.key_template import KeyTemplate
from ..stores import StoreReader
from ..stores.base import keys_within

_PAGE = 1000
#: "Is there anything further on?" needs one key; a few more, because some may be foreign.
_SHORT_PAGE = 10
#: By how much a step grows when the one before led nowhere new.
_FACTOR = 4
#: Ids of more digits than the template has sort among the others. Up to so many digits all keys are listed then.
_FEW_DIGITS = 5
#: So many pages without any of our keys, behind the newest one, are paged through.
_OTHERS_PAGES = 10
logger = logging.getLogger("scrapy_state.state")


class PlacedKey(NamedTuple):
    """A key that fits the template. *position* is greater for newer keys, and means nothing else to the caller."""

    position: int
    key: str


class Keys(Protocol):
    """The keys that fit a template, by position. All methods block, and raise StoreError if the store doesn't answer."""

    def newest(self) -> PlacedKey | None:
        """Return the newest, None if there is none."""

    def down(self, position: int) -> Iterator[PlacedKey]:
        """Yield those at *position* and before, newest first, reading no further than it is asked for."""

    def up(self, position: int) -> PlacedKey | None:
        """Return the first one at *position* or after it, None if there is none."""

    def at(self, position: int) -> str | None:
        """Return the key at *position*, which may not be there; None where none can be. Does no input or output."""


def find_keys(
    store: StoreReader, template: KeyTemplate, depth: int | None = 0, newest_pruned: Callable[[], int] = lambda: 0
) -> Keys:
    """Return the keys of *template* in *store*: by search where they sort by id there, by a full listing elsewhere. Blocks.

    :param depth: under a bare prefix: how many slashes keys may have after it; None: any
    :param newest_pruned: returns the id up to which ids may be missing because they were pruned; called only if it matters
    :raises StoreError: if the store does not answer or refuses
    """
    found: SearchedKeys | ListedKeys | None = None
    if store.ordered and template.writable:
        searched = SearchedKeys(store, template, newest_pruned)
        found = searched if searched.look() else None
    if found is None:
        within = template.depth if template.rest else depth
        found = ListedKeys(template.in_order(keys_within(store, template.prefix, within)))
    if template.writable:
        _add_unlisted(found, store, template)
    return found


def _add_unlisted(found: SearchedKeys | ListedKeys, store: StoreReader, template: KeyTemplate) -> None:
    """Add the ids that follow on the newest and that a listing does not show yet: it may lag, reading a key does not."""
    newest = found.newest()
    id = (newest and template.id_of(newest.key)) or 0
    while store.read_part(template.key(id := id + 1), 0, 1) is not None:
        found.append(id, template.key(id))


class ListedKeys:
    """Keys that were listed whole, oldest first; a position is a place in the list."""

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys

    def append(self, id: int, key: str) -> None:
        """Add one that is newer."""
        self._keys.append(key)

    def newest(self) -> PlacedKey | None:
        """See :class:`Keys`."""
        return PlacedKey(len(self._keys) - 1, self._keys[-1]) if self._keys else None

    def down(self, position: int) -> Iterator[PlacedKey]:
        """See :class:`Keys`."""
        return (PlacedKey(at, self._keys[at]) for at in range(min(position, len(self._keys) - 1), -1, -1))

    def up(self, position: int) -> PlacedKey | None:
        """See :class:`Keys`."""
        at = max(position, 0)
        return PlacedKey(at, self._keys[at]) if at < len(self._keys) else None

    def at(self, position: int) -> str | None:
        """See :class:`Keys`."""
        return self._keys[position] if 0 <= position < len(self._keys) else None


class SearchedKeys:
    """Keys with zero-padded ids in an ordered store; a position is an id. :meth:`look` comes first.

    "Is there an id above x?" is one short page that starts after the key of x, however many ids were pruned before it. So
    the newest is found by galloping away from the first page, and bisecting back.

    Where very many other files follow on the newest id, ids behind these are not looked for: they follow on each other, but
    for what was pruned, and that is known.
    """

    def __init__(self, store: StoreReader, template: KeyTemplate, newest_pruned: Callable[[], int]) -> None:
        self._store = store
        self._template = template
        self._newest_pruned = newest_pruned
        self._widest = 10**template.width - 1
        #: every id from _tail_from on, ascending
        self._tail: list[int] = []
        self._tail_from = 0
        self._misled = False
        self._found_any = False
        self._gave_up = False

    def look(self) -> bool:
        """Find the newest id. False: the search can't be trusted here, list all (see :meth:`_may_be_outgrown`). Blocks."""
        self._tail = list(islice(self._above(0, self._widest, _PAGE), _PAGE))
        if len(self._tail) == _PAGE:
            low, high = self._gallop(self._tail[-1])
            while high - low > _PAGE:
                middle = (low + high) // 2
                found = next(self._above(middle, high), None)
                low, high = (low, middle) if found is None else (found, high)
            self._tail, self._tail_from = list(self._above(low - 1, high, _PAGE)), low
        if self._gave_up:
            logger.warning(
                "%s: more than %s other files follow on checkpoint %s, and whether checkpoints follow on them was not looked "
                "for. Keep the checkpoints in a folder of their own",
                self._store.uri(self._template.prefix), f"{_OTHERS_PAGES * _PAGE:,}", self._tail[-1],
            )  # fmt: skip
        return not (self._misled or self._may_be_outgrown())

    def append(self, id: int, key: str) -> None:
        """Add one that is newer."""
        self._tail.append(id)

    def newest(self) -> PlacedKey | None:
        """See :class:`Keys`."""
        return self._found(self._tail[-1]) if self._tail else None

    def down(self, position: int) -> Iterator[PlacedKey]:
        """See :class:`Keys`. One page for each 1,000."""
        ids = [id for id in self._tail if id <= position]
        below, size = min(self._tail_from, position + 1), _PAGE
        while True:
            yield from map(self._found, reversed(ids))
            if below <= 1:
                return
            after = max(below - 1 - size, 0)
            ids = list(self._above(after, below - 1, _PAGE))
            below, size = after + 1, _PAGE if ids else size * _FACTOR

    def up(self, position: int) -> PlacedKey | None:
        """See :class:`Keys`. One short page."""
        if position >= self._tail_from:
            found = next(iter(self._tail[bisect_left(self._tail, position) :]), None)
        else:
            found = next(self._above(max(position, 1) - 1, self._tail_from), None)
        return None if found is None else self._found(found)

    def at(self, position: int) -> str | None:
        """See :class:`Keys`."""
        return self._template.key(position) if position > 0 else None

    def _gallop(self, low: int) -> tuple[int, int]:
        """Return between which ids the newest is, both included. *low*: one that is there."""
        step = _PAGE
        while True:
            high = min(low + step, self._widest)
            found = next(self._above(high, self._widest), None)
            if found is None:
                return low, high
            low, step = found, step * _FACTOR

    def _above(self, after: int, until: int, page_keys: int = _SHORT_PAGE) -> Iterator[int]:
        """Yield the ids above *after*, up to *until*, ascending: a page of *page_keys* keys, then full pages."""
        start = self._template.key(after)
        end = self._template.prefix + ":" if until == self._widest else self._template.key(until)  # ":" follows on "9"
        pages_left = _OTHERS_PAGES
        while True:
            page = list(self._store.keys(self._template.prefix, start, page_keys))
            self._misled = self._misled or page != sorted(page)
            ours = [id for id in map(self._template.id_of, page) if id is not None]
            self._misled = self._misled or any(id > self._widest for id in ours)
            self._found_any = self._found_any or bool(ours)
            yield from (id for id in ours if id <= until)
            if len(page) < page_keys or page[-1] > end:
                return
            pages_left = _OTHERS_PAGES if ours else pages_left - (page_keys == _PAGE)
            start, page_keys = page[-1], _PAGE
            if not pages_left and until == self._widest and self._found_any:
                if self._pruned_until <= start:
                    self._gave_up = True
                    return
                start, pages_left = self._pruned_until, _OTHERS_PAGES

    @cached_property
    def _pruned_until(self) -> str:
        return self._template.key(self._newest_pruned())

    def _may_be_outgrown(self) -> bool:
        """Whether there may be ids of more digits than the template has, which sort among the others.

        As long as ids begin with a zero, the page after the newest has shown any. Later the first ids of one digit more are
        looked for; where they may have been pruned, and few digits make it cheap, all keys are listed.
        """
        if not self._tail or self._tail[-1] * 10 <= self._widest or self._tail_from == 0:
            return False
        if self._template.width <= _FEW_DIGITS:
            return True
        before = f"{self._template.prefix}{10 ** (self._template.width - 1)}/"  # "/" precedes "0"
        keys = self._store.keys(self._template.prefix, before, _SHORT_PAGE)
        return any((self._template.id_of(key) or 0) > self._widest for key in keys)

    def _found(self, id: int) -> PlacedKey:
        return PlacedKey(id, self._template.key(id))
