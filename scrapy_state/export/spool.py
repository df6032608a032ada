"""How much of this crawl is on the local disk: in open batches, and in batches that wait to be uploaded."""

from __future__ import annotations

from ..barrier.backpressure import Backpressure


class Spool:
    """Counts bytes and waiting batches. Above a limit it holds the crawl back, until half of the limit is free.

    :param limit_bytes: STATE_SPOOL_SIZE
    """

    #: Each waiting batch is also an open file, and a process may have about 1,000 of those.
    MAX_WAITING = 200

    def __init__(self, limit_bytes: int, backpressure: Backpressure) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.waiting = 0
        self._backpressure = backpressure

    @property
    def full(self) -> bool:
        """Whether the crawl should be held back but is not yet."""
        if self._backpressure.held or self._backpressure.ended:
            return False
        return self.bytes > self.limit_bytes or self.waiting > self.MAX_WAITING

    def hold(self) -> None:
        """Hold the crawl back if the spool is full. Not if nothing waits to be uploaded: then nothing would ever free it."""
        if not self.full or not self.waiting:
            return
        if self.bytes > self.limit_bytes:
            self._backpressure.hold(f"{self.bytes} bytes to upload, STATE_SPOOL_SIZE is {self.limit_bytes}")
        else:
            self._backpressure.hold(
                f"{self.waiting} files to upload, all of them open, and the system limits open files. A longer "
                "STATE_INTERVAL or larger batches make fewer files"
            )

    def uploaded(self, bytes: int) -> None:
        """Subtract a batch of *bytes* that has been uploaded, or has failed for good."""
        self.bytes -= bytes
        self.waiting -= 1
        half_free = self.bytes <= self.limit_bytes / 2 and self.waiting <= self.MAX_WAITING / 2
        if half_free or not self.waiting:
            self._backpressure.release()
