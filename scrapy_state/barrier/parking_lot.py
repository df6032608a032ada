"""The one way to wait until something changes."""

from __future__ import annotations

import asyncio


class ParkingLot:
    """Where tasks wait until something changes. Whoever changes it wakes them. (After trio's class of this name.)

    The condition stays in the waiting task: ``while full: await lot.park()``. An asyncio.Event would be a second copy of the
    condition, which somebody must clear at the right moment. An asyncio.Condition has a lock, which one thread doesn't need.
    """

    def __init__(self) -> None:
        self._parked: list[asyncio.Future[None]] = []

    async def park(self) -> None:
        """Wait until the next :meth:`unpark_all`. Check the condition again then: another task may have been faster."""
        parked = asyncio.get_running_loop().create_future()
        self._parked.append(parked)
        await parked

    def unpark_all(self) -> None:
        """Wake every task that is waiting here now."""
        if not self._parked:
            return
        parked, self._parked = self._parked, []
        for future in parked:
            if not future.done():  # cancelled
                future.set_result(None)
