"""What checkpoints say about requests: how the next run continues, in words and in numbers; what their segments list."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Any, NamedTuple

from ...extension import SpiderSettingsState
from ...frontier.segments.lines import PageLine
from ...lineage.chain import ancestors
from ...lineage.history import Run
from ...model.checkpoint import Checkpoint
from ...model.json_values import as_text
from ...model.requests import Requests
from ...report import FailedPage
from ..target import Target
from .stored import stored_segments


def next_run(resolver: SpiderSettingsState, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return how a run that *resolver* starts continues from *checkpoint*, as ``show --json`` prints it."""
    taken = resolver.continued
    left = checkpoint.requests if taken is None else None
    return {
        "continues_with": "requests" if taken is not None else "new crawl" if checkpoint.is_over else "state",
        "crawl": (checkpoint.crawl or 1) + checkpoint.is_over,
        **counts(taken),
        "start_state": resolver.state if taken is None else taken.start_state,
        "left_behind": 0 if left is None else left.pending,
    }


def counts(newest: Requests | None, known: Requests | None = None) -> dict[str, int | None]:
    """Return what is counted of requests, by name: None where the *newest* checkpoint has none.

    :param known: earlier requests, which count what was seen and failed if *newest* is None
    """
    waiting = {name: None if newest is None else getattr(newest, name) for name in ("pending", "in_flight")}
    done = newest or known
    return {**waiting, **{name: None if done is None else getattr(done, name) for name in ("seen", "failed", "held")}}


def run_json(run: Run) -> dict[str, Any]:
    """Return *run* as ``log --json`` prints it."""
    return {
        "run": run.last.run, "job": run.last.job, "spider": run.last.spider,
        "first_id": run.first.id, "last_id": run.last.id, "checkpoints": run.checkpoints,
        "began": run.first.time, "ended": run.last.time, "reason": run.ended, "may_be_alive": run.may_be_alive,
        "state": run.last.state, "items": run.items, "items_in_lineage": run.last.items, "errors": run.last.errors,
        "files": run.files, "bytes": run.bytes, "overlap": run.first.overlap,
        "parent_id": run.first.parent, "parent_run": None if run.parent is None else run.parent.last.run,
        "in_lineage": run.in_lineage, "crawl": run.last.crawl,
        "totals": None if run.last.totals is None else run.last.totals.to_json(), **counts(run.last.requests, run.requests),
    }  # fmt: skip


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
    """Return "3 pages failed, 1 held for the next run"; what is 0 is left out."""
    failed, held = counts["failed"], counts["held"]
    pages = "page" if (failed or held) == 1 else "pages"
    if not failed:
        return f"{held:,} {pages} held for the next run"
    return f"{failed:,} {pages} failed" + (f", {held:,} held for the next run" if held else "")


class PendingPage(NamedTuple):
    """A known page that is not settled.

    :param callback: the name of the method; None: ``parse``
    :param deaths: through how many deaths of a process it has been
    """

    url: str
    method: str
    priority: int
    callback: str | None
    in_flight: bool
    held: bool
    deaths: int


class StoredCookie(NamedTuple):
    """A cookie, without its value.

    :param jar: the ``cookiejar`` in the meta of its requests
    :param expires: ISO 8601, UTC; None: with the session
    """

    jar: Any
    domain: str
    name: str
    path: str
    expires: str | None


def with_requests(target: Target, newest: Checkpoint) -> Checkpoint | None:
    """Return *newest* or, if that has no requests because its crawl is over, the checkpoint before it. Blocks.

    :return: None if that has no requests, either
    :raises StateError: as :func:`~scrapy_state.lineage.chain.ancestors`
    """
    has_ended = newest.is_over and newest.reason != "set"  # otherwise somebody has left its requests behind
    near = islice(ancestors(target.store, target.template, newest), 2 if has_ended else 1)
    return next((checkpoint for checkpoint in near if checkpoint.requests is not None), None)


def pending_pages(target: Target, checkpoint: Checkpoint) -> Iterator[PendingPage]:
    """Yield the pending pages: highest priority first, then in the order in which they were enqueued. Blocks.

    :raises CheckpointError: if a segment is missing or damaged
    :raises StoreError: if the store does not answer or refuses
    """
    found = _read(target, checkpoint, _Pages())
    for page, (priority, data) in sorted(found.pending.items(), key=lambda item: (-item[1][0], item[0])):
        request = _request(data)
        yield PendingPage(
            str(request.get("url")), str(request.get("method", "GET")), priority, request.get("callback"),
            page in found.flying, page in found.held_pages, found.dead.get(page, 0),
        )  # fmt: skip


def failed_pages(target: Target, checkpoint: Checkpoint) -> list[FailedPage]:
    """Return the pages that are held, then the first 1,000 that failed and were skipped. Raises as :func:`pending_pages`."""
    first = _read(target, checkpoint, _Pages(wanted=()))
    pages: dict[int, tuple[int, bytes]] = {}
    if first.held_pages:  # only now it is known whose URLs to remember
        pages = _read(target, checkpoint, _Pages(wanted=first.held_pages)).pending
    held = [FailedPage(_url(pages.get(page)), str(info["reason"]), True) for page, info in first.held_pages.items()]
    return held + [FailedPage(str(info["url"]), str(info["reason"]), False) for info in first.skipped]


def cookies(target: Target, checkpoint: Checkpoint) -> list[StoredCookie]:
    """Return the cookies in all jars, without their values. Raises as :func:`pending_pages`."""
    found = _read(target, checkpoint, _Pages(wanted=()))
    return [cookie for jar in found.jars.values() for cookie in jar]


class _Pages:
    """What segments say of pages and cookies.

    :param wanted: the pages whose requests are kept; None: all
    """

    def __init__(self, wanted: Collection[int] | None = None) -> None:
        self._wanted = wanted
        #: page -> its priority, and the request as JSON
        self.pending: dict[int, tuple[int, bytes]] = {}
        self.flying: set[int] = set()
        self.dead: dict[int, int] = {}
        self.skipped: list[dict[str, Any]] = []
        self.held_pages: dict[int, dict[str, Any]] = {}
        self.jars: dict[str, list[StoredCookie]] = {}

    def add(self, pages: Sequence[PageLine]) -> None:
        for page, priority, _, data in pages:
            if self._wanted is None or page in self._wanted:
                self.pending[page] = priority, data

    def remove(self, pages: Sequence[int]) -> None:
        for page in pages:
            for known in (self.pending, self.held_pages, self.dead):
                known.pop(page, None)

    def saw(self, packed: bytes) -> None: ...

    def form(self, hash: str, count: int) -> None: ...

    def forget_forms(self) -> None: ...

    def deaths(self, page: int, number: int) -> None:
        self.dead[page] = number

    def failed(self, info: dict[str, Any]) -> None:
        self.skipped.append(info)

    def held(self, page: int, info: dict[str, Any]) -> None:
        self.held_pages[page] = info

    def cookies(self, info: dict[str, Any]) -> None:
        self.jars[as_text(info["jar"])] = [_without_value(info["jar"], each) for each in info["cookies"]]

    def name(self, kind: str, name: str) -> None: ...

    def in_flight(self, pages: Sequence[int]) -> None:
        self.flying.update(pages)


def _read(target: Target, checkpoint: Checkpoint, into: _Pages) -> _Pages:
    assert checkpoint.requests is not None
    stored_segments(target).read(checkpoint.requests.segments, into)
    return into


def _request(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"url": "(a request that can't be read)"}


def _url(page: tuple[int, bytes] | None) -> str:
    return "" if page is None else str(_request(page[1]).get("url"))


def _without_value(jar: Any, cookie: dict[str, Any]) -> StoredCookie:
    domain, name, path = (str(cookie.get(field)) for field in ("domain", "name", "path"))
    return StoredCookie(jar, domain, name, path, _time(cookie.get("expires")))


def _time(seconds: Any) -> str | None:
    try:
        return None if seconds is None else f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    except (TypeError, ValueError, OverflowError, OSError):
        return str(seconds)
