"""Mistakes to make in the package on purpose: if the simulation does not notice one, it tests nothing."""

from __future__ import annotations

from collections.abc import Callable

MISTAKES: dict[str, Callable[[], None]] = {}


def mistake(function: Callable[[], None]) -> Callable[[], None]:
    MISTAKES[function.__name__] = function
    return function


@mistake
def no_waiting_for_items() -> None:
    """A checkpoint does not wait until the items before it have left the pipelines."""
    from scrapy_state.export.durable_items import DurableItems

    async def settled(self: object, side: object) -> None:
        pass

    DurableItems._settled = settled  # type: ignore[method-assign]
