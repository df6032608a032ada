"""The units that failed in this run, for one line at its end."""

from __future__ import annotations

import logging

from scrapy import Spider

from ..model.json_values import shortened
from .watermark import MAX_LISTED, Failure

logger = logging.getLogger("scrapy_state.state")


class FailureLog:
    """Counts the units that fail, and keeps the first of them with their reasons."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[tuple[str, Failure]] = []

    def add(self, unit: str, failure: Failure) -> None:
        """Note that *unit* failed. Call this once for each unit."""
        self.count += 1
        if len(self._first) < MAX_LISTED:
            self._first.append((unit, failure))

    def log(self, consequence: str, spider: Spider) -> None:
        """Log what failed, if anything did; *consequence* says what that means for the state."""
        if not self.count:
            return
        lines = [f"  {shortened(unit)}: {failure.reason} {failure.url}" for unit, failure in self._first]
        if self.count > len(lines):
            lines.append(f"  and {self.count - len(lines)} more")
        logger.error("%s units failed; %s:\n%s", self.count, consequence, "\n".join(lines), extra={"spider": spider})
