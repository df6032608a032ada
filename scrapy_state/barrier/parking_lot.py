"""One way to wait until something has changed."""

from __future__ import annotations

import asyncio


class ParkingLot:
    """Where tasks wait until whoever changes what they are waiting for wakes them. (After trio's class of that name.)

    The condition stays with the waiting task: ``while full: await lot.park()``. An asyncio.Event would hold a second copy of
    the condition, which somebody must clear at the right moment; an asyncio.Condition has a lock that one thread doesn't need.
    """

    def __init__(self) -> None:
        self._parked: list[asyncio.Future[None]] = []

    async def park(self) -> None:
        """Wait until the next :meth:`unpark_all`. Then check the condition again: another task may have been faster."""
        parked = asyncio.get_running_loop().create_future()
        self._parked.append(parked)
        await parked

    def unpark_all(self) -> None:
        """Wake every task that is waiting here now."""
        parked, self._parked = self._parked, []
        for each in parked:
            if not each.done():  # cancelled
                each.set_result(None)
