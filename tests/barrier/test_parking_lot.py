"""Waiting until something has changed, without a crawl."""

from __future__ import annotations

import asyncio

from scrapy_state.barrier.parking_lot import ParkingLot
from scrapy_state.barrier.tickets import Side, Ticket


def test_every_parked_task_is_woken() -> None:
    """All parked tasks wake up, cancelled ones disturb nobody, and the lot can be used again."""

    async def scenario() -> None:
        lot, woken = ParkingLot(), []

        async def wait(name: str) -> None:
            await lot.park()
            woken.append(name)

        tasks = {name: asyncio.create_task(wait(name)) for name in "abc"}
        await asyncio.sleep(0)
        tasks["b"].cancel()
        lot.unpark_all()
        await asyncio.wait(tasks.values())
        assert woken == ["a", "c"]
        again = asyncio.create_task(wait("d"))
        await asyncio.sleep(0)
        assert not again.done()
        lot.unpark_all()
        await again

    asyncio.run(scenario())


def test_side_is_settled_when_its_last_item_is() -> None:
    """Whoever waits for a side continues when no item of it is out any more, and not before."""

    async def scenario() -> None:
        ticket = Ticket(Side(out=2), 0)
        waiting = asyncio.create_task(ticket.side.settled())
        for left in (1, 0):
            await asyncio.sleep(0)
            assert not waiting.done(), left
            ticket.settle()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())
