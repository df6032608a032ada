"""The items of units that are not done, without a crawl."""

from typing import Any

from scrapy_state import held
from scrapy_state.held import HeldItems
from scrapy_state.tickets import Barrier, Side, Ticket


class Feeds:
    """In the place of ItemFeeds: notes which sides it was told to close and to forget."""

    def __init__(self) -> None:
        self.closed: list[Side] = []
        self.discarded: list[Side] = []

    def close_side(self, side: Side) -> None:
        self.closed.append(side)

    def discard_side(self, side: Side) -> None:
        self.discarded.append(side)


def unit() -> Ticket:
    return Ticket(Side(unit="{}"), 0)


def items_of() -> tuple[HeldItems, Feeds, list[tuple[Any, Side]], Barrier]:
    barrier, feeds, exported = Barrier(), Feeds(), []

    def export(item: Any, ticket: Ticket) -> bool:
        exported.append((item, ticket.side))
        return True

    return HeldItems(barrier, feeds, export), feeds, exported, barrier  # type: ignore[arg-type]


def test_dropped_items_take_no_memory() -> None:
    """What was kept of a unit that failed is forgotten, and what still comes of it is not kept."""
    items, feeds, exported, _ = items_of()
    failed, other = unit(), unit()
    for n in range(3):
        items.hold(n, failed)
    items.hold("other", other)
    items.drop(failed.side)
    items.hold(3, failed)
    assert (items._count, list(items._in_memory)) == (1, [other.side])
    assert feeds.discarded == [failed.side]
    items.release(failed.side)
    assert exported == []


def test_too_many_go_to_files_of_their_own() -> None:
    """The largest unit is exported to its own side when there are too many; released, its batches are a checkpoint's."""
    items, feeds, exported, barrier = items_of()
    small, large = unit(), unit()
    for n in range(10):
        items.hold(n, small)
    for n in range(held.MAX_IN_MEMORY):
        items.hold(n, large)
    assert [each for each, _ in exported] == list(range(held.MAX_IN_MEMORY))
    assert {side for _, side in exported} == {large.side}
    assert items._count == 10
    large.side.batches.append("a batch")
    items.release(large.side)
    assert feeds.closed == [large.side]
    assert barrier.side.batches == ["a batch"]
    items.release(small.side)
    assert exported[-1] == (9, barrier.side)


def test_many_small_units_stay_in_memory() -> None:
    """Units of few items get no file each, however many they are; start() is told to wait."""
    items, _, exported, _ = items_of()
    for n in range(held.MAX_IN_MEMORY + 1):
        assert not items.crowded
        items.hold(n, unit())
    assert exported == []
    assert items.crowded


def test_few_files_are_open() -> None:
    """However many units are in files, few have them open: those of the first are closed, and stay the unit's; what comes
    of it then is in memory again."""
    items, feeds, exported, barrier = items_of()
    units = [unit() for _ in range(held.MAX_IN_FILES + 1)]
    for each in units:
        for n in range(held.MAX_IN_MEMORY + 1):
            items.hold(n, each)
    assert feeds.closed == [units[0].side]
    units[0].side.batches.append("the closed one")
    items.hold("later", units[0])
    assert items._count == 1
    items.release(units[0].side)
    assert exported[-1] == ("later", barrier.side)
    assert barrier.side.batches == ["the closed one"]
    items.drop(units[1].side)
    assert len(items._in_files) == held.MAX_IN_FILES - 1
