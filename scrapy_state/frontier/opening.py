"""Before the first request: read what the last run has left, and build the parts that keep a crawl's requests."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from scrapy import Request
from scrapy.core.engine import ExecutionEngine
from scrapy.core.scheduler import Scheduler
from scrapy.crawler import Crawler
from scrapy.settings import BaseSettings

from ..barrier.barrier import Barrier, get_barrier
from ..barrier.log import SpiderLog
from ..barrier.tickets import Side
from ..exceptions import CheckpointError, StateSettingsError
from ..extension import StateResolver, get_extension
from ..feeds import open_template
from ..feedstorages import temporary_files, temporary_folder
from ..model.requests import Requests
from ..settings import StateSettings, get_settings
from ..stores import open_reader, open_writer
from ..stores.retry import patiently
from ..stores.threads import StoreThreads
from .backlog import Backlog, DiskBacklog, Entry, MemoryBacklog, is_first_out
from .books.page import Start
from .books.pages import Pages
from .codec import Codec
from .cookies import CookieJars
from .recorder import Recorder
from .restoring import MOST_DEATHS, Restored
from .seen import SeenSet
from .segments.files import SegmentFiles, StoredSegments, open_requests
from .start import StartRequests


@dataclass
class Opened:
    """The parts that keep the requests of one crawl.

    :param backlog: requests that are not in Scrapy's queues yet
    :param late: the pages that were in flight when a process died: they come last; *suspects*: those met so far
    :param fatal: the pages that were in flight when several processes died
    :param forms_of_held: the pages that are tried again, with the forms of the children that they have sent
    :param start_had_ended: whether ``start()`` had yielded all in an earlier run
    :param on_disk: STATE_REQUESTS_ON_DISK
    """

    crawler: Crawler
    pages: Pages
    start: StartRequests
    backlog: Backlog
    seen: SeenSet
    codec: Codec
    recorder: Recorder
    late: set[int]
    fatal: set[int]
    forms_of_held: dict[int, list[str]]
    start_had_ended: bool
    on_disk: bool
    state: dict[str, Any] | None
    suspects: list[Entry] = field(default_factory=list)
    _has_logged: bool = False

    def set_state(self) -> None:
        """``start()`` has seen the state that it began with. From now on it is that of the checkpoint."""
        if self.state is not None:
            self.crawler.spider.state = deepcopy(self.state)  # type: ignore[union-attr]

    def set_aside(self, number: int, error: ValueError) -> None:
        """Page *number* can't be read: it stays pending."""
        self.pages.held.add(number)
        self.pages.journal.held(number, f"can't be read: {error}", [])
        if not self._has_logged:
            self._has_logged = True
            SpiderLog(self.crawler).error(
                "a stored request can't be read, and stays pending (%s). More are only counted", error
            )
        self.crawler.stats.inc_value("state/requests_unreadable")

    def give_up(self, entry: Entry) -> None:
        """The page of *entry* seems to kill each process: it has failed."""
        try:
            url = self.codec.decode_text(entry.data).url
        except ValueError:
            url = ""
        reason = f"in flight when {MOST_DEATHS} processes died"
        SpiderLog(self.crawler).error("%s is given up: it was %s, and may have killed them (memory?)", url, reason)
        self.pages.give_up(entry.page, url, reason)


class NoJournal:
    """The journal of a run that stores nothing."""

    empty = True

    def _nothing(self, *args: Any) -> None:
        pass

    add = settle = saw = form = forget_forms = failed = held = deaths = _nothing


class NoItems:
    """Takes the items of a run that stores nothing."""

    def _nothing(self, *sides: Side) -> None:
        pass

    release = move = drop = _nothing


async def open_frontier(
    crawler: Crawler, scheduler: Scheduler, release: Callable[[], None], stop: Callable[[], None]
) -> Opened | None:
    """Read what the last run has left, and build the parts. Return None if this run has nothing to do with requests.

    :param release: called when the requests of the last run may be sent
    :param stop: called when the spider turns out to have units
    :raises StateError: if they can't be read, or this run could not continue with them
    """
    settings, barrier, resolver = get_settings(crawler), get_barrier(crawler), get_extension(StateResolver, crawler)
    writes = barrier.listener is not None and settings.requests and not barrier.keeps_requests
    if resolver is None or not (writes or resolver.continued is not None):
        return None
    assert crawler.spider is not None
    assert crawler.engine is not None
    codec, open_file, fingerprints = Codec(crawler.spider), temporary_files(crawler.settings), _fingerprints(crawler)
    continued, threads = resolver.continued, StoreThreads()
    restored = Restored(_backlog(settings, crawler.settings, scheduler), SeenSet(0 if continued is None else continued.seen))
    if continued is not None:
        _check_fingerprints(continued, fingerprints)
        stored = _stored_segments(crawler, settings)
        await threads.run(_read, stored, continued, restored)
        restored.check_names(codec)
    deaths = restored.count_deaths(crawler.settings.getint("CONCURRENT_REQUESTS") or 100) if resolver.was_killed else {}
    files = SegmentFiles(*open_requests(crawler, open_writer), barrier.run_id, open_file) if writes else None
    if files is not None and settings.requests_uri is not None:  # the opening checkpoint proves only its own folder
        await threads.run(patiently, files.probe)
    copied = 0
    if continued is not None and files is not None and settings.read_from is not None:  # segments of another prefix
        continued = replace(continued, segments=await threads.run(files.copy, stored, continued.segments))
        copied = len(continued.segments)
    threads.close()
    had_ended = continued is not None and continued.start_state is None
    pages = Pages(
        NoJournal(), barrier.unit_items or NoItems(), Start(dict(resolver.state), had_ended), restored.number,
        len(restored.backlog), restored.held_pages, restored.failed_pages, restored.forms,
    )  # fmt: skip
    cookies, seen = _cookies(crawler.engine, restored), restored.seen
    recorder = Recorder(crawler, settings, pages, codec, cookies, files, continued, fingerprints, seen.__len__, stop, copied)
    _connect(barrier, recorder, deaths, writes)
    state = resolver.start.state if resolver.start is not None and continued is not None and not had_ended else None
    return Opened(
        crawler, pages, StartRequests(release), restored.backlog, seen, codec, recorder,
        late=set(deaths), fatal={page for page, count in deaths.items() if count >= MOST_DEATHS},
        forms_of_held=dict(restored.held_pages), start_had_ended=had_ended, on_disk=settings.requests_on_disk, state=state,
    )  # fmt: skip


def _cookies(engine: ExecutionEngine, restored: Restored) -> CookieJars:
    cookies = CookieJars(engine)
    try:
        cookies.restore(restored.jars.values())
    except ValueError as error:
        remedy = "start without these requests (-s STATE_REQUESTS=False)"
        raise CheckpointError(f"the requests of the last run: {error}", remedy=remedy) from error
    return cookies


def _connect(barrier: Barrier, recorder: Recorder, deaths: dict[int, int], writes: bool) -> None:
    if not writes:
        return
    recorder.pages.journal = recorder.new_journal()
    for page, count in deaths.items():
        recorder.pages.journal.deaths(page, count)
    barrier.recorder = recorder


def _stored_segments(crawler: Crawler, settings: StateSettings) -> StoredSegments:
    read_from = settings.read_from
    states = open_template(crawler, read_from, None, open_reader) if isinstance(read_from, str) else None
    return StoredSegments(*open_requests(crawler, open_reader, states), temporary_files(crawler.settings))


def _read(stored: StoredSegments, requests: Requests, restored: Restored) -> None:
    stored.read(requests.segments, restored)
    _ = restored.backlog.top_priority  # brings a million of them into their order: not in the event loop's thread


def _backlog(settings: StateSettings, crawler_settings: BaseSettings, scheduler: Scheduler) -> Backlog:
    start_queue = scheduler._smqclass
    order = is_first_out(scheduler.mqclass), None if start_queue is None else is_first_out(start_queue)
    return DiskBacklog(temporary_folder(crawler_settings), *order) if settings.requests_on_disk else MemoryBacklog(*order)


def _fingerprints(crawler: Crawler) -> tuple[str, ...]:
    url = "https://scrapy-state.invalid/selfcheck?b=2&a=%20"
    made_up = (
        Request(url),
        Request(url, method="POST", body=b"\x00\xff"),
        Request(f"{url}#fragment", headers={"Cookie": "a=1"}),
    )
    return tuple(_fingerprint(crawler, request) for request in made_up)


def _fingerprint(crawler: Crawler, made_up: Request) -> str:
    try:
        return crawler.request_fingerprinter.fingerprint(made_up).hex()
    except Exception:  # a project's fingerprinter may need what its spiders put into meta
        return ""


def _check_fingerprints(requests: Requests, fingerprints: tuple[str, ...]) -> None:
    if requests.fingerprints and requests.fingerprints != fingerprints:
        raise StateSettingsError(
            "REQUEST_FINGERPRINTER_CLASS: this fingerprinter is not the one of the last run, so nobody can tell which requests "
            "have been seen",
            remedy="restore the old one, or start without these requests (-s STATE_REQUESTS=False)",
        )
