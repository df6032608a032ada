"""The items of units in flight, without a crawl."""

from dataclasses import dataclass
from typing import Any

import attrs
import pydantic
import pytest
import scrapy

from scrapy_state.barrier.tickets import Side, Ticket, Tickets
from scrapy_state.units import held_items as held
from scrapy_state.units.held_items import HeldItems, bytes_in_memory


class Feeds:
    """A fake of ItemFeeds that notes which sides are closed and which are discarded."""

    fewest_items = 10**9
    spool_bytes = 1 << 40

    def __init__(self) -> None:
        self.closed: list[Side] = []
        self.discarded: list[Side] = []

    def close_side(self, side: Side) -> None:
        self.closed.append(side)

    def discard_side(self, side: Side) -> None:
        self.discarded.append(side)


class Batch:
    """A fake of a batch that is told that its items count from now on."""

    def all_after(self, epoch: int) -> None:
        assert epoch == 0


SIZE = bytes_in_memory("x" * 951)


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of 200 items of SIZE; a unit of ten goes to files."""
    monkeypatch.setattr(held, "MAX_BYTES_IN_MEMORY", 200 * SIZE)
    monkeypatch.setattr(held, "MIN_BYTES_IN_FILES", 10 * SIZE)


def item(n: int, size: int = SIZE) -> str:
    return f"{n}".ljust(size - SIZE + 951)


def unit() -> Ticket:
    return Ticket(Side(is_held=True, unit="{}"), 0)


def items_of() -> tuple[HeldItems, Feeds, list[tuple[Any, Side]], Tickets]:
    tickets, feeds, exported = Tickets(), Feeds(), []

    def export(item: Any, ticket: Ticket) -> bool:
        exported.append((item, ticket.side))
        return True

    return HeldItems(tickets, feeds, export), feeds, exported, tickets  # type: ignore[arg-type]


def test_dropped_items_take_no_memory() -> None:
    """The items of a failed unit are forgotten, and those that come later are not kept."""
    items, feeds, exported, _ = items_of()
    failed, other = unit(), unit()
    for n in range(3):
        items.hold(item(n), failed)
    items.hold(item(9), other)
    items.drop(failed.side)
    items.hold(item(3), failed)
    assert (items._bytes, list(items._in_memory)) == (SIZE, [other.side])
    assert feeds.discarded == [failed.side]
    items.release(failed.side)
    assert exported == []


def test_largest_unit_moves_to_files() -> None:
    """When there are too many items, those of the largest unit are exported to its own side. Once the unit is done, its batches
    become a checkpoint's."""
    items, feeds, exported, tickets = items_of()
    small, large = unit(), unit()
    for n in range(9):
        items.hold(item(n), small)
    for n in range(200):
        items.hold(item(n), large)
    assert [each for each, _ in exported] == [item(n) for n in range(200)]
    assert {side for _, side in exported} == {large.side}
    assert items._bytes == 9 * SIZE
    batch = Batch()
    large.side.batches.append(batch)
    items.release(large.side)
    assert feeds.closed == [large.side]
    assert tickets.current.side.batches == [batch]
    items.release(small.side)
    assert exported[-1] == (item(8), tickets.current.side)


@pytest.mark.parametrize(("units", "size"), [(1, 150), (100, 50), (3, 1), (20, 1), (2, 500)])
def test_memory_is_bounded_by_bytes(units: int, size: int) -> None:
    """However large and few the items are, they take no more memory than the limit."""
    items, _, exported, _ = items_of()
    tickets = [unit() for _ in range(units)]
    for n in range(400):
        items.hold(item(n, size * SIZE), tickets[n % units])
        kept = sum(bytes_in_memory(each) for all in items._in_memory.values() for each in all.items)
        assert kept == items._bytes <= held.MAX_BYTES_IN_MEMORY
    assert exported


def test_many_small_units_stay_in_memory() -> None:
    """Units with few small items get no files of their own, however many units there are; start() has to wait."""
    items, _, exported, _ = items_of()
    for n in range(201):
        assert not items.crowded
        items.hold(item(n), unit())
    assert exported == []
    assert items.crowded


def test_few_files_are_open() -> None:
    """However many units are in files, only a few have open ones. Those of the first unit are closed and remain its own; its
    later items are in memory again."""
    items, feeds, exported, tickets = items_of()
    units = [unit() for _ in range(held.MAX_SIDES_IN_FILES + 1)]
    for each in units:
        for n in range(201):
            items.hold(item(n), each)
    assert feeds.closed == [units[0].side]
    closed = Batch()
    units[0].side.batches.append(closed)
    items.hold(item(9), units[0])
    assert items._bytes == SIZE
    items.release(units[0].side)
    assert exported[-1] == (item(9), tickets.current.side)
    assert tickets.current.side.batches == [closed]
    items.drop(units[1].side)
    assert len(items._in_files) == held.MAX_SIDES_IN_FILES - 1


class Thing(scrapy.Item):
    text = scrapy.Field()


@dataclass(slots=True)  # type: ignore[call-overload,unused-ignore]
class Note:
    text: Any


@attrs.define
class Attrs:
    text: Any


class Model(pydantic.BaseModel):
    text: Any


@pytest.mark.parametrize("kind", [dict, Thing, Note, Attrs, Model])
def test_what_an_item_takes(kind: Any) -> None:
    """Text and bytes count wherever they are in an item of any kind; an item that contains itself is counted once."""
    many = "x" * 100_000
    for text in (many, many.encode(), [many], ({"a": {"b": [many]}},), {many: 1}, kind(text=many)):
        assert 100_000 <= bytes_in_memory(kind(text=text)) < 102_000, text
    inner: list[Any] = [many]
    inner.append(inner)
    assert 100_000 <= bytes_in_memory(kind(text=inner)) < 102_000
    assert bytes_in_memory(kind(text=None)) < 2_000


def test_changes_to_kept_objects_go_the_way_of_the_items() -> None:
    """They count when the items are released, go with those that move, and are gone with those that are dropped."""
    held_items, _, _, tickets = items_of()
    first, second, third = unit().side, unit().side, unit().side
    first.changes, second.changes, third.changes = [(0, "a")], [(0, "b")], [(0, "c")]
    tickets.next_epoch()
    held_items.move(first, second)
    held_items.drop(third)
    held_items.release(third)
    held_items.release(second)
    assert tickets.current.side.changes == [(1, "b"), (1, "a")]
    held_items.release(second)
    assert len(tickets.current.side.changes) == 2
