"""What checkpoints contain besides the state, the items and the requests, so that the next run knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..barrier.parts import Memory
from ..barrier.tickets import Side
from ..stores.threads import StoreThreads
from .retry import Retry

Snapshots = Sequence[tuple[Memory, Any]]


class Memories:
    """The memories of one crawl. Use it only in the event loop's thread.

    :param memories: may grow until the opening checkpoint
    """

    def __init__(self, memories: Sequence[Memory], threads: StoreThreads, retry: Retry) -> None:
        self._memories = memories
        self._threads = threads
        self._retry = retry

    async def opening(self) -> dict[str, Mapping[str, Any]]:
        """Return what the opening checkpoint says of them: of the others it says what its parent does.

        :raises StateError: if something can't be stored
        """
        found = {memory.name: await memory.opening(self._threads, self._retry) for memory in self._memories}
        return {name: content for name, content in found.items() if content is not None}

    def snapshots(self, side: Side) -> Snapshots:
        """Return what the checkpoint of *side*, which is cut now, is about."""
        return [(memory, memory.snapshot(side)) for memory in self._memories]

    async def store(self, snapshots: Snapshots) -> dict[str, Mapping[str, Any]]:
        """Store what *snapshots* need, and return what the checkpoint says of them.

        :raises StateError: if something can't be stored
        """
        return {memory.name: await memory.store(snapshot, self._threads, self._retry) for memory, snapshot in snapshots}

    def stored(self) -> None:
        """Take note that a checkpoint names what was stored."""
        for memory in self._memories:
            memory.stored(self._threads)
