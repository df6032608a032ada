"""What the page of the report is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..lineage.history import Run
from ..model.checkpoint import Checkpoint
from ..model.requests import Requests
from ..model.times import moment
from .series import Series
from .svg import day_and_time

#: A run is called silent when it has stored nothing for this long and for five times as long as usual.
_SILENT_SECONDS = 300
_BY_HAND = ("set", "copied")
_FAILED = ("memusage_exceeded", "closespider_errorcount")
KINDS = {
    "running": "running or killed", "finished": "finished",
    "empty": "finished, stored nothing", "stopped": "stopped early", "hand": "stored by hand",
    "failed": "failed", "killed": "killed", "silent": "killed or stuck",
}  # fmt: skip


class FailedPage(NamedTuple):
    """A page that failed. *held*: whether the next run tries it again; otherwise it was skipped."""

    url: str
    reason: str
    held: bool = False


@dataclass
class Page:
    """Everything the page shows.

    :param uri: the URI of the checkpoints
    :param made: now, in seconds since 1970
    :param orphans: item files of killed runs that no checkpoint names; None if unknown
    :param orphans_why: why the orphans are unknown
    :param after_last_state: item files that runs which ended stored after their last state item
    :param left_out: sentences about the runs and feeds whose item files were not checked
    :param failed_pages: the pages that failed in the newest crawl, or the first of them
    :param failed_pages_why: why they are unknown; empty if they are known
    """

    uri: str
    spider: str | None
    made: float
    newest: Checkpoint | None
    series: Series
    runs: Sequence[Run]
    orphans: Sequence[str] | None = None
    orphans_why: str = ""
    after_last_state: Sequence[str] = ()
    left_out: Sequence[str] = field(default_factory=list)
    failed_pages: Sequence[FailedPage] = ()
    failed_pages_why: str = ""

    @property
    def requests(self) -> Requests | None:
        """Those of the newest checkpoint, or of the one before if its crawl is over; None if there are none."""
        checkpoint = self.series.with_requests
        return None if checkpoint is None else checkpoint.requests

    @property
    def age_seconds(self) -> float | None:
        """The age of the newest checkpoint; None if unknown."""
        made = moment(self.runs[0].last.time) if self.runs else None
        return None if made is None else self.made - made

    @property
    def patience_seconds(self) -> float:
        """How long a run may go without a checkpoint before it is called silent."""
        return max(5 * (self.series.typical_seconds or 180), _SILENT_SECONDS)

    def kind(self, run: Run) -> str:
        """Return a key of KINDS."""
        reason = run.ended
        if reason is None:
            if not run.may_be_alive:
                return "killed"
            return "running" if self.age_seconds is None or self.age_seconds < self.patience_seconds else "silent"
        if reason in _BY_HAND:
            return "hand"
        if reason == "finished" or run.last.is_over:
            return "finished" if run.items else "empty"
        return "failed" if reason in _FAILED or reason.startswith("state_") else "stopped"


def time_of(seconds: float | None) -> str:
    """Return a moment as an HTML element, without its time zone."""
    return "" if seconds is None else f"<time>{day_and_time(seconds)}</time>"


def utc(seconds: float | None) -> str:
    """Return a moment for people to read, with its time zone."""
    return "" if seconds is None else f"{day_and_time(seconds)} UTC"
