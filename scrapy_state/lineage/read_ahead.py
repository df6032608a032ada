"""Reading ahead: several threads fetch what a loop will need next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeVar

from ..model.key_template import KeyTemplate
from ..stores import StoreReader
from ..stores.retry import patiently
from ..stores.threads import submit

_THREADS, _AHEAD = 8, 24
A = TypeVar("A")
B = TypeVar("B")


def ahead(function: Callable[[A], B], arguments: Iterable[A]) -> Iterator[tuple[A, B]]:
    """Yield each argument with the result of *function*, in order; several threads work a little ahead. Blocks."""
    waiting: deque[tuple[A, Future[B]]] = deque()
    left = iter(arguments)
    pool = ThreadPoolExecutor(_THREADS, "scrapy_state")
    try:
        waiting.extend((argument, pool.submit(patiently, partial(function, argument))) for argument in islice(left, _AHEAD))
        while waiting:
            argument, result = waiting.popleft()
            yield argument, result.result()
            waiting.extend((argument, pool.submit(patiently, partial(function, argument))) for argument in islice(left, 1))
    finally:
        pool.shutdown(cancel_futures=True)


class ReadsAhead:
    """A store reader for state files that are read one after the other, newest first: it fetches the next ones ahead.

    :param template: the keys of the state files
    """

    def __init__(self, store: StoreReader, template: KeyTemplate) -> None:
        self._store, self._template = store, template
        self._pool = ThreadPoolExecutor(_THREADS, "scrapy_state")
        self._requested: dict[int, Future[bytes | None]] = {}
        self.uri, self.keys, self.read_part = store.uri, store.keys, store.read_part
        self.ordered = store.ordered

    def read(self, key: str) -> bytes | None:
        """See :class:`~scrapy_state.stores.base.StoreReader`."""
        id = self._template.id_of(key)
        if id is None or not self._template.writable:
            return self._store.read(key)
        for newer in [requested for requested in self._requested if requested > id]:
            self._requested.pop(newer).cancel()
        for older in range(id, max(id - _AHEAD, 0), -1):
            if older not in self._requested:
                read = partial(self._store.read, self._template.key(older))
                self._requested[older] = submit(self._pool, partial(patiently, read))
        return self._requested[id].result()

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(cancel_futures=True)
