"""Mistakes to make in the package on purpose: if the simulation does not notice one, it tests nothing.

Each one is a rule of docs/design-notes.md or docs/requests.md, broken in a line or two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mistake:
    """*plant*: makes it in this process; *shape*: whose crawls suffer from it; *seed*: the first that does, today.

    A change of the package may make that another one of the next few.
    """

    plant: Callable[[], None]
    shape: str
    seed: int = 1
    seeds: int = 10


MISTAKES: dict[str, Mistake] = {}


def _in(shape: str, seed: int = 1) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(plant: Callable[[], None]) -> Callable[[], None]:
        MISTAKES[plant.__name__] = Mistake(plant, shape, seed)
        return plant

    return register


@_in("state_items")
def no_waiting_for_items() -> None:
    """A checkpoint does not wait until the items before it have left the pipelines."""
    from scrapy_state.export.durable_items import DurableItems

    async def settled(self: Any, side: Any) -> None:
        pass

    DurableItems._settled = settled  # type: ignore[method-assign]


@_in("state_items")
def commit_before_upload() -> None:
    """A checkpoint names files that are not stored yet."""
    from scrapy_state.export.uploads import Uploads
    from scrapy_state.model.item_file import ItemFile

    async def stored(self: Any, batches: Any) -> list[ItemFile]:
        return [ItemFile(batch.uri, batch.slot.itemcount, batch.bytes) for batch in batches]

    Uploads.stored = stored  # type: ignore[method-assign]


@_in("two_runs", seed=4)
def parent_not_checked() -> None:
    """A run whose first id is taken takes the next one, wherever the other run has got to."""
    from scrapy_state.lineage import writer

    writer._position = lambda checkpoint: ()


@_in("units")
def released_twice() -> None:
    """The items of a unit or page that is done are exported again."""
    from scrapy_state.units.held_items import HeldItems

    release = HeldItems.release

    def twice(self: Any, side: Any) -> None:
        held = self._in_memory.get(side)
        release(self, side)
        if held is not None:
            self._in_memory[side] = held
            release(self, side)

    HeldItems.release = twice  # type: ignore[method-assign]


@_in("slow_parents")
def child_known_early() -> None:
    """Checkpoints mention a child with dont_filter before its parent is settled, and so the parent sends it again."""
    from scrapy_state.frontier.books.page import Waiting
    from scrapy_state.frontier.books.pages import Pages

    def add_unknown(self: Any, request: Any, encoded: bytes, priority: int, is_start: bool, parent: Any) -> None:
        number = self.add_known(encoded, priority, is_start, parent)
        self.under_way.wait(request, Waiting(number, parent))

    Pages.add_unknown = add_unknown  # type: ignore[method-assign]


@_in("redirects")
def redirect_seen_early() -> None:
    """The target of a redirect is seen before its page is settled, so the next run's filter drops it."""
    from scrapy_state.frontier.books.pages import Pages

    join = Pages.join

    def early(self: Any, request: Any, page: Any, fingerprint: bytes = b"", form: str = "") -> None:
        join(self, request, page, b"", form)
        if fingerprint:
            self.journal.saw(fingerprint)

    Pages.join = early  # type: ignore[method-assign]


@_in("orphans", seed=8)
def orphans_deleted_early() -> None:
    """Orphans are deleted before the opening checkpoint is stored, when their run's last request may still arrive."""
    from scrapy_state.export import commits
    from scrapy_state.lineage.last_run import treat_orphans

    find = commits.find_orphans

    def find_and_delete(*arguments: Any) -> Any:
        treat_orphans(find(*arguments), True)
        return []

    commits.find_orphans = find_and_delete
