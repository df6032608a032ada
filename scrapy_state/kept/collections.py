"""A set, a dict and counters that checkpoints contain exactly: with the changes of the items that they name, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping, MutableSet
from typing import Any, ClassVar

from scrapy.crawler import Crawler

from .changes import line
from .registry import get_registry


class _Kept:
    """What the three have in common.

    :param crawler: the crawl; it gets the content of its checkpoint before pipelines are opened
    :param name: what checkpoints call it; unique among the sets, dicts or counters of the crawl
    :param per_crawl: whether it is empty at the beginning of a new crawl: see docs/requests.md
    :raises StateSettingsError: if another one has that name
    """

    kind: ClassVar[str]

    def __init__(self, crawler: Crawler, name: str, per_crawl: bool = False) -> None:
        self._content: dict[Any, Any] = {}
        self._name = f"{self.kind}:{name}"
        self._registry = get_registry(crawler)
        self._registry.add(self._name, per_crawl, self._fill)

    def _fill(self, content: dict[Any, Any]) -> None:
        early, self._content = self._content, content
        for key, value in early.items():
            self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        raise NotImplementedError

    def _change(self, kind: str, *more: Any) -> None:
        self._registry.book(line(self._name, kind, *more))

    def __contains__(self, key: object) -> bool:
        return key in self._content

    def __iter__(self) -> Iterator[Any]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name.partition(':')[2]!r}: {len(self)}>"

    def clear(self) -> None:
        """Remove everything."""
        if self._content:
            self._change("0")
            self._content = {}


class KeptSet(_Kept, MutableSet[Any]):
    """A set of texts and whole numbers. Use it in the event loop's thread only."""

    kind = "set"

    def _set(self, key: Any, value: Any) -> None:
        self.add(key)

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> set[Any]:
        return set(it)  # what |, & and - return is not kept

    def add(self, value: str | int) -> None:
        """Add *value*; it belongs to the item in whose pipeline, or to the page in whose callback, this is called."""
        if value not in self._content:
            self._change("+", _key(value))
            self._content[value] = True

    def discard(self, value: str | int) -> None:
        """Remove *value* if it is there."""
        if value in self._content:
            self._change("-", value)
            del self._content[value]


class KeptDict(_Kept, MutableMapping[Any, Any]):
    """A dict from texts and whole numbers to JSON values. To change a value, set it again: a change inside it goes unnoticed.

    Use it in the event loop's thread only.
    """

    kind = "dict"

    def _set(self, key: Any, value: Any) -> None:
        self[key] = value

    def __getitem__(self, key: str | int) -> Any:
        return self._content[key]

    def __setitem__(self, key: str | int, value: Any) -> None:
        self._change("=", _key(key), value)
        self._content[key] = value

    def __delitem__(self, key: str | int) -> None:
        del self._content[key]
        self._change("-", key)


class KeptCounter(_Kept, MutableMapping[Any, int]):
    """Counts for texts and whole numbers; 0 for what has not been counted. Use it in the event loop's thread only.

    What is stored are the amounts that were added, so the counts fit the items whatever their order.
    """

    kind = "count"

    def _set(self, key: Any, value: Any) -> None:
        self[key] += value

    def __getitem__(self, key: str | int) -> int:
        count: int = self._content.get(key, 0)
        return count

    def __setitem__(self, key: str | int, count: int) -> None:
        if type(count) is not int:
            raise TypeError(f"{self!r}: a count must be a whole number, not {count!r}")
        amount = count - self[key]
        if amount:
            self._change("n", _key(key), amount)
            self._content[key] = count

    def __delitem__(self, key: str | int) -> None:
        self[key] = 0
        self._content.pop(key, None)


def _key(value: Any) -> Any:
    if type(value) not in (str, int):
        raise TypeError(f"a key must be text or a whole number, not {value!r}; turn it into text")
    return value
