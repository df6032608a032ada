"""How the next run continues from a checkpoint: with its requests, with ``start()``, or with a new crawl."""

from __future__ import annotations

import re
from typing import Any

from scrapy.settings import SETTINGS_PRIORITIES, BaseSettings

from ..extension import SpiderSettingsState
from ..model.checkpoint import Checkpoint, Requests
from ..model.json_values import as_text
from ..model.values import get_bool

#: The reasons in the first checkpoint of a run
_OPENINGS = ("opened", "set", "copied")
#: The finish reasons after which a crawl continues. Any other reason is the spider's own: then its crawl is over
_INTERRUPTED = re.compile(r"shutdown|start_error|memusage_exceeded|closespider_\w+|state_\w+")


def is_over(checkpoint: Checkpoint) -> bool:
    """Return whether the crawl has ended, so that the next run begins a new one. Unknown, and so False, without a number."""
    if checkpoint.crawl is None or checkpoint.requests is not None or checkpoint.reason in (None, *_OPENINGS):
        return False
    return not _INTERRUPTED.fullmatch(checkpoint.reason or "")


def next_run(resolver: SpiderSettingsState, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return how a run that *resolver* starts continues from *checkpoint*, as ``show --json`` prints it."""
    requests = checkpoint.requests
    how = "requests" if requests is not None and _takes_requests(resolver) else "new crawl" if is_over(checkpoint) else "state"
    taken = requests if how == "requests" else None
    return {
        "continues_with": how,
        "crawl": checkpoint.crawl if checkpoint.crawl is None or how != "new crawl" else checkpoint.crawl + 1,
        **counts(taken),
        "start_state": resolver.state if taken is None else taken.start_state,
        "left_behind": requests.pending if requests is not None and taken is None else 0,
    }


def counts(requests: Requests | None) -> dict[str, int | None]:
    """Return the counts of *requests* by name; each is None if there are none."""
    names = ("pending", "in_flight", "seen", "failed", "held")
    return {name: None if requests is None else getattr(requests, name) for name in names}


def in_words(next_run: dict[str, Any], checkpoint: Checkpoint) -> list[str]:
    """Return the lines for people about what :func:`next_run` returned."""
    if next_run["continues_with"] == "new crawl":
        over = f"crawl {checkpoint.crawl} is over ({checkpoint.reason})"
        return [f"{over}: the next run begins a new crawl, with start() from this state"]
    if next_run["continues_with"] == "state":
        left = next_run["left_behind"]
        behind = f"; {left:,} pending requests of checkpoint {checkpoint.id} are left behind" if left else ""
        return [f"the next run continues with start() from this state{behind}"]
    began = next_run["start_state"]
    start = "start() had ended" if began is None else f"start() begins again from STATE {as_text(began)}"
    lines = [f"the next run continues with {pending_and_seen(next_run)}; {start}"]
    if next_run["failed"] or next_run["held"]:
        lines.append(f"{failed_and_held(next_run)}: see scrapy state frontier --failed")
    return lines


def pending_and_seen(counts: dict[str, Any]) -> str:
    """Return "12 pending requests (3 of them were in flight), 40 seen"."""
    pending, in_flight = counts["pending"], counts["in_flight"]
    flying = f" ({in_flight:,} of them {'was' if in_flight == 1 else 'were'} in flight)" if in_flight else ""
    return f"{pending:,} pending request{'' if pending == 1 else 's'}{flying}, {counts['seen']:,} seen"


def failed_and_held(counts: dict[str, Any]) -> str:
    """Return "3 pages failed, 1 held for the next run"."""
    failed = counts["failed"]
    return f"{failed:,} page{'' if failed == 1 else 's'} failed, {counts['held']:,} held for the next run"


def _takes_requests(resolver: SpiderSettingsState) -> bool:
    """Whether the run starts exactly at its checkpoint, and takes the requests in there, too."""
    settings, start = resolver.crawler.settings, resolver.start
    if start is None or start.requests is None or not _switched_on(settings):
        return False
    elsewhere = resolver.settings.readonly or bool(resolver.settings.read_from)
    return not elsewhere or (settings.getpriority("STATE_REQUESTS") or 0) >= SETTINGS_PRIORITIES["cmdline"]


def _switched_on(settings: BaseSettings) -> bool:
    return get_bool(settings, "STATE_REQUESTS", True)
