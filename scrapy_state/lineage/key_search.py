"""The keys under a prefix, newest first, in as few requests as the store allows. Does not read the files."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice, takewhile
from typing import NamedTuple, Protocol

from ..model.key_template import KeyTemplate
from ..stores import StoreReader
from ..stores.base import keys_within, lists_late

_PAGE = 1000
#: "Does any key follow?" needs one key, and a few more because some may be foreign.
_SHORT_PAGE = 10
#: How much longer each step of the search is than the one before
_FACTOR = 4
#: Ids with more digits than the template has sort among the others. For templates of at most this many digits, all keys are
#: listed then.
_FEW_DIGITS = 5
#: How many pages of foreign keys the search reads behind the newest id before it gives up
_FOREIGN_PAGES = 10
logger = logging.getLogger("scrapy_state.state")


class PlacedKey(NamedTuple):
    """A key that fits the template. *position* is greater for newer keys, and means nothing else to the caller."""

    position: int
    key: str


class Keys(Protocol):
    """The keys that fit a template, by position. All methods block, and raise StoreError if the store doesn't answer."""

    def newest(self) -> PlacedKey | None:
        """Return the newest key; None if there are no keys."""

    def down(self, position: int) -> Iterator[PlacedKey]:
        """Yield the key at *position* and the older ones, newest first. Lists a page when it is needed."""

    def up(self, position: int) -> PlacedKey | None:
        """Return the oldest key at *position* or after it; None if there is none."""

    def at(self, position: int) -> str | None:
        """Return the key at *position*, whether it is stored or not; None if no key can have that position. Does no I/O."""

    def is_gone(self, id: int) -> bool:
        """Whether the listing has shown that *id*, older than the newest, is not stored. Does no I/O."""

    def is_signposted(self, id: int, digest: str) -> bool:
        """Whether prune found the checkpoint *id* with this *digest* valid, and its parent. Does no I/O."""


def find_keys(
    store: StoreReader, template: KeyTemplate, depth: int | None = 0, newest_pruned: Callable[[], int] = lambda: 0
) -> Keys:
    """Return the keys of *template* in *store*: by search if they sort by id there, otherwise by listing them all. Blocks.

    :param depth: under a bare prefix: how many slashes keys may have after it; None: any
    :param newest_pruned: returns the id up to which ids may be missing because they were pruned; called only if it matters
    :raises StoreError: if the store does not answer or refuses
    """
    keys: SearchedKeys | ListedKeys | None = None
    if store.ordered and template.writable:
        searched = SearchedKeys(store, template, newest_pruned)
        keys = searched if searched.look() else None
    if keys is None:
        within = template.depth if template.rest else depth
        keys = ListedKeys(template.in_order(keys_within(store, template.prefix, within)))
    if template.writable and lists_late(store):
        _add_unlisted(keys, store, template)
    return keys


def _add_unlisted(keys: SearchedKeys | ListedKeys, store: StoreReader, template: KeyTemplate) -> None:
    """Add the ids after the newest that the listing does not show yet: a listing may lag, reading a key does not."""
    newest = keys.newest()
    id = (newest and template.id_of(newest.key)) or 0
    while store.read_part(template.key(id := id + 1), 0, 1) is not None:
        keys.append(id, template.key(id))


class ListedKeys:
    """Keys that were all listed, oldest first; a position is an index into the list."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys

    def append(self, id: int, key: str) -> None:
        """Add a key that is newer than the others."""
        self._keys = [*self._keys, key]

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

    def is_gone(self, id: int) -> bool:
        """See :class:`Keys`. False: these stores are asked for nothing that costs much."""
        return False

    def is_signposted(self, id: int, digest: str) -> bool:
        """See :class:`Keys`. False, likewise."""
        return False


class SearchedKeys:
    """Keys with zero-padded ids in an ordered store; a position is an id. :meth:`look` comes first.

    "Is there an id above x?" takes one short page that starts after the key of x, however many ids were pruned before it. So
    the search gallops away from the first page in ever longer steps, and bisects back to the newest id.

    If very many foreign files follow the newest id, the search stops there: ids are consecutive, except where they were pruned,
    and the roll-ups say where that is.
    """

    def __init__(self, store: StoreReader, template: KeyTemplate, newest_pruned: Callable[[], int]) -> None:
        self._store = store
        self._template = template
        self._newest_pruned = newest_pruned
        self._widest = 10**template.width - 1
        #: every id from _tail_from on, ascending
        self._tail: list[int] = []
        self._tail_from = 0
        #: whether the listing was seen to be out of order
        self._misled = False
        self._found_any = False
        self._gave_up = False
        #: id and digest of a checkpoint that was the newest when prune ran
        self._signpost: tuple[int, str] = (0, "")

    def look(self) -> bool:
        """Find the newest id. Return False if the search can't be trusted here and all keys must be listed. Blocks."""
        self._tail = list(islice(self._above(0, self._widest, _PAGE, to_signpost=True), _PAGE))
        signposted, _ = self._signpost
        if self._tail and self._tail[-1] < signposted:
            after = signposted - 2  # so that its parent is in the page, too
            self._tail, self._tail_from = list(islice(self._above(after, self._widest, _PAGE), _PAGE)), after + 1
            if not self._tail:  # someone has deleted what the signpost points to
                self._tail, self._tail_from = list(islice(self._above(0, self._widest, _PAGE), _PAGE)), 0
        if len(self._tail) == _PAGE:
            low, high = self._gallop(self._tail[-1])
            while high - low > _PAGE:
                middle = (low + high) // 2
                id = next(self._above(middle, high), None)
                low, high = (low, middle) if id is None else (id, high)
            self._tail, self._tail_from = list(self._above(low - 1, high, _PAGE)), low
        if self._gave_up:
            logger.warning(
                "%s: more than %s other files follow checkpoint %s. Whether more checkpoints follow these files was not "
                "checked. Keep the checkpoints in a folder of their own",
                self._store.uri(self._template.prefix), f"{_FOREIGN_PAGES * _PAGE:,}", self._tail[-1],
            )  # fmt: skip
        return not (self._misled or self._may_be_outgrown())

    def append(self, id: int, key: str) -> None:
        """Add a key that is newer than the others."""
        self._tail.append(id)

    def newest(self) -> PlacedKey | None:
        """See :class:`Keys`."""
        return self._placed(self._tail[-1]) if self._tail else None

    def down(self, position: int) -> Iterator[PlacedKey]:
        """See :class:`Keys`. One page for every 1,000 keys."""
        ids = [id for id in self._tail if id <= position]
        below, size = min(self._tail_from, position + 1), _PAGE
        while True:
            yield from map(self._placed, reversed(ids))
            if below <= 1:
                return
            after = max(below - 1 - size, 0)
            ids = list(self._above(after, below - 1, _PAGE))
            below, size = after + 1, _PAGE if ids else size * _FACTOR

    def up(self, position: int) -> PlacedKey | None:
        """See :class:`Keys`. One short page."""
        if position >= self._tail_from:
            id = next(iter(self._tail[bisect_left(self._tail, position) :]), None)
        else:
            id = next(self._above(max(position, 1) - 1, self._tail_from), None)
        return None if id is None else self._placed(id)

    def at(self, position: int) -> str | None:
        """See :class:`Keys`."""
        return self._template.key(position) if position > 0 else None

    def is_gone(self, id: int) -> bool:
        """See :class:`Keys`. Known near the newest id, and everywhere after a prune that has left a page or less."""
        return id >= self._tail_from and id not in self._tail

    def is_signposted(self, id: int, digest: str) -> bool:
        """See :class:`Keys`."""
        return self._signpost == (id, digest)

    def _gallop(self, low: int) -> tuple[int, int]:
        """Return two ids between which the newest is, both included. *low* is an id that exists."""
        step = _PAGE
        while True:
            high = min(low + step, self._widest)
            id = next(self._above(high, self._widest), None)
            if id is None:
                return low, high
            low, step = id, step * _FACTOR

    def _above(self, after: int, until: int, page_keys: int = _SHORT_PAGE, to_signpost: bool = False) -> Iterator[int]:
        """Yield the ids above *after*, up to *until*, ascending. Lists a page of *page_keys* keys, then full pages.

        :param to_signpost: list no more pages if there are signposts, and the last one points further
        """
        start = self._template.key(after)
        end = self._template.prefix + ":" if until == self._widest else self._template.key(until)  # ":" follows "9"
        pages_left = _FOREIGN_PAGES
        while True:
            page = list(self._store.keys(self._template.prefix, start, page_keys))
            self._misled = self._misled or page != sorted(page)
            ours = [id for id in map(self._template.id_of, page) if id is not None]
            self._misled = self._misled or any(id > self._widest for id in ours)
            self._found_any = self._found_any or bool(ours)
            if to_signpost:
                for found in takewhile(bool, map(self._template.signposted, page)):
                    self._signpost = max(self._signpost, found or (0, ""))
            yield from (id for id in ours if id <= until)
            if len(page) < page_keys or page[-1] > end or (to_signpost and ours and ours[-1] < self._signpost[0]):
                return
            pages_left = _FOREIGN_PAGES if ours else pages_left - (page_keys == _PAGE)
            start, page_keys = page[-1], _PAGE
            if not pages_left and until == self._widest and self._found_any:
                if self._pruned_until <= start:
                    self._gave_up = True
                    return
                start, pages_left = self._pruned_until, _FOREIGN_PAGES

    @cached_property
    def _pruned_until(self) -> str:
        return self._template.key(self._newest_pruned())

    def _may_be_outgrown(self) -> bool:
        """Whether there may be ids with more digits than the template has, which sort among the others.

        As long as ids begin with a zero, the page after the newest would show them. Later, one page shows whether the first ids
        with one digit more exist. They may have been pruned, so if few digits make it cheap, all keys are listed.
        """
        if not self._tail or self._tail[-1] * 10 <= self._widest or self._tail_from == 0:
            return False
        if self._template.width <= _FEW_DIGITS:
            return True
        before = f"{self._template.prefix}{10 ** (self._template.width - 1)}/"  # "/" precedes "0"
        keys = self._store.keys(self._template.prefix, before, _SHORT_PAGE)
        return any((self._template.id_of(key) or 0) > self._widest for key in keys)

    def _placed(self, id: int) -> PlacedKey:
        return PlacedKey(id, self._template.key(id))
