"""What the requests of a crawl mean for its checkpoints: snapshots, their segments, and what follows when a page fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from scrapy.crawler import Crawler

from ..barrier.barrier import get_barrier
from ..barrier.log import SpiderLog
from ..barrier.tickets import Ticket
from ..exceptions import StateError, as_state_error
from ..feedstorages import temporary_files
from ..model.json_values import json_object
from ..model.requests import Requests
from ..model.stored_file import StoredFile
from ..scrapy_internals import PAGE
from .books.clean import begin_anew
from .books.page import Page
from .books.pages import Pages
from .cookies import CookieJars, Touched
from .failures import PageFailures
from .segments import OpenSegment, to_merge
from .segments.files import SegmentFiles

if TYPE_CHECKING:
    from ..export.retry import Retry
    from ..settings import StateSettings
    from ..stores.threads import StoreThreads
    from .codec import Codec

#: A page that holds items or requests back for that many intervals, and that many seconds, is worth a warning.
_SLOW_INTERVALS, _SLOW_SECONDS = 10, 60.0
#: How the reasons begin with which Scrapy, or this package, closes a spider that may have more to do
_LIMITS = ("closespider_", "memusage_", "shutdown", "state_", "start_error")


@dataclass(frozen=True)
class Snapshot:
    """The requests of a crawl at one moment.

    :param journal: what has changed since the last snapshot
    :param in_flight: the pages that the engine has
    :param jars: the cookie jars that may have changed
    :param requests: the rest, with the segments of before
    """

    journal: OpenSegment
    in_flight: Sequence[int]
    jars: Touched
    requests: Requests


class Recorder:
    """Records the requests of one crawl. Use it only in the event loop's thread.

    :param files: where to store segments; None in a run that stores nothing
    :param requests: what this run continues with
    :param fingerprints: those of three made-up requests
    :param count_seen: returns how many fingerprints the filter has seen
    :param copied: how many segments this run has stored already: copies of another prefix's
    :param stop: makes the scheduler Scrapy's own, for the rest of the run
    """

    def __init__(
        self,
        crawler: Crawler,
        settings: StateSettings,
        pages: Pages,
        codec: Codec,
        cookies: CookieJars,
        files: SegmentFiles | None,
        requests: Requests | None,
        fingerprints: tuple[str, ...],
        count_seen: Callable[[], int],
        stop: Callable[[], None],
        copied: int = 0,
    ) -> None:
        self._crawler = crawler
        self._log = SpiderLog(crawler)
        self._settings = settings
        self._barrier = get_barrier(crawler)
        self.pages = pages
        self._codec = codec
        self._cookies = cookies
        self._files = files
        self._segments: Sequence[StoredFile] = requests.segments if requests is not None else ()
        self._fingerprints = fingerprints
        self._count_seen = count_seen
        self._stop = stop
        #: whether ``start()`` had ended in an earlier run of this crawl
        self._start_had_ended = pages.start.ended
        #: how many segments this run has stored
        self._number = copied
        #: the request of the page that was warned of last
        self._warned_of: object = None
        self._merging: asyncio.Task[None] | None = None
        self.failures = PageFailures(crawler, settings, pages)
        self._has_left_out = False

    # What the spider yields: the middleware, the exporter and the checkpointer call these methods

    def ticket(self, is_start: bool) -> Ticket | None:
        """Return the ticket for an item that is yielded now; None if it belongs to no page."""
        page = self._page(is_start)
        return None if page is None else page.take_ticket()

    def leaves_out_item(self) -> bool:
        """Whether an item that ``start()`` yields now is left out.

        If ``start()`` had ended in an earlier run of this crawl, its items are in the checkpoints already. A clean state item
        of this run says that what follows is new.
        """
        if not self._start_had_ended:
            return False
        self._crawler.stats.inc_value("state/items_left_out")
        return True

    def begin_anew(self, state: dict[str, Any], is_start: bool) -> bool:
        """The spider has yielded *state*: return whether that is clean. If so, the items before it join the current side."""
        page = self._page(is_start)
        sides = None if page is None else begin_anew(self.pages, page, state)
        if sides is None:
            return False
        self._start_had_ended = False
        for side in sides:
            self._barrier.unit_items.release(side)  # type: ignore[union-attr]
            side.join(self._barrier.tickets.current.side)
        return True

    def yielded_request(self, is_start: bool) -> None:
        """A request is yielded now. *is_start*: whether ``start()`` yields it."""
        page = self._page(is_start)
        if page is not None:
            page.yielded_request()

    def yielded_all(self) -> None:
        """The callback at work has ended."""
        self.pages.under_way.yielded_all(PAGE.get())

    def item_failed(self, ticket: Ticket) -> bool:
        """A pipeline has raised for an item: if it is that of a page, the page stays pending. Return whether it is."""
        page = ticket.side.owner
        if page is None or ticket.side.into is not None:
            return False
        self.pages.leave_pending(page)
        return True

    # Checkpoints

    @property
    def has_changed(self) -> bool:
        """Whether a checkpoint would say anything that the last one doesn't."""
        return not self.pages.journal.empty

    def state(self, state: Any) -> dict[str, Any]:
        """Return *state*, a spider's, as it can be stored: without what is not JSON."""
        try:
            return json_object(state, "spider.state")
        except (TypeError, ValueError):
            pass
        stored = {}
        for name, value in state.items() if isinstance(state, dict) else ():
            with suppress(TypeError, ValueError):
                stored.update(json_object({name: value}))
        if not self._has_left_out:
            self._has_left_out = True
            left_out = sorted(map(str, set(state) - set(stored))) if isinstance(state, dict) else "all of it"
            self._log.warning("spider.state: %s can't be stored as JSON, and is left out of the checkpoints", left_out)
        return stored

    def snapshot(self) -> Snapshot:
        """Return the requests as they are now. What changes from here on is for the next snapshot."""
        pages, journal = self.pages, self.pages.journal
        assert isinstance(journal, OpenSegment)
        for kind, name in self._codec.take_used():
            journal.name(kind, name)
        pages.journal = self.new_journal()
        self._warn_of_slow_page()
        in_flight = pages.under_way.in_flight()
        requests = Requests(
            segments=tuple(self._segments),
            start={"state": pages.start.state, "ended": pages.start.ended},
            pending=pages.pending,
            in_flight=len(in_flight),
            seen=self._count_seen(),
            failed=pages.failed,
            held=len(pages.held),
            fingerprints=self._fingerprints,
        )
        return Snapshot(journal, in_flight, self._cookies.touched(), requests)

    def new_journal(self) -> OpenSegment:
        """Return an empty journal."""
        assert self._files is not None
        assert self._crawler.spider is not None
        return OpenSegment(self._barrier.run_id, self._crawler.spider.name, temporary_files(self._crawler.settings))

    async def store(self, snapshot: Snapshot, threads: StoreThreads, retry: Retry) -> Requests:
        """Store the segment of *snapshot*, and return what the checkpoint says. Call it for one snapshot after the other.

        :raises StoreError: if it can't be stored
        """
        assert self._files is not None
        segments, finished = [*self._segments], await threads.run(self._finish, snapshot)
        if finished is not None:
            self._number += 1
            store = partial(self._files.store_segment, self._files.name(self._number), *finished)
            segments.append(await retry.run("a segment of the requests", partial(threads.run, store)))
        self._segments = segments
        stats = self._crawler.stats
        stats.set_value("state/requests_pending", snapshot.requests.pending)
        stats.set_value("state/requests_seen", snapshot.requests.seen)
        return Requests(**{**vars(snapshot.requests), "segments": tuple(segments)})

    def stored(self, threads: StoreThreads) -> None:
        """A checkpoint names all segments now: merge some, if there are many. No checkpoint waits for that."""
        found = to_merge([segment.bytes for segment in self._segments])
        if found is not None and self._merging is None:
            self._merging = asyncio.create_task(self._merge(threads, *found))

    def concludes(self, reason: str) -> bool:
        """Return whether the crawl is over, now that the spider is closed for *reason*. If not, the next run continues it."""
        # A handler of spider_idle may raise CloseSpider with a reason of its own: then nothing is left to do.
        is_idle = not self.pages.pending and self._crawler.crawling and not reason.startswith(_LIMITS)
        has_ended = (reason == "finished" or is_idle) and not self.pages.has_failed
        if not (has_ended or self.failures.spider_has_closed):
            return False
        self._crawler.stats.set_value("state/requests_pending", 0)
        return True

    @property
    def continues(self) -> bool:
        """Whether this run continues with requests of the last one."""
        return bool(self._segments)

    def release_all(self) -> None:
        """The crawl is over: keep the items of all pages."""
        self.pages.release_all()

    def stop(self) -> None:
        """The spider has units: from now on they say what is done."""
        for side in self.pages.release_all():
            side.join(self._barrier.tickets.current.side)
        self._stop()

    def log_held(self) -> bool:
        """Log how many pages have failed and are tried again. Return whether there are any."""
        if not self.pages.has_failed:
            return False
        what = f"{self.pages.pending} pages" if self.pages.pending else "requests of start()"
        self._log.error(
            "%s failed and are held (STATE_ON_PAGE_ERROR): none of their items is stored, and the next run tries them again. "
            "See scrapy state frontier --failed", what,
        )  # fmt: skip
        return True

    def _finish(self, snapshot: Snapshot) -> tuple[IO[bytes], int, str] | None:
        for jar in self._cookies.changed(snapshot.jars):
            snapshot.journal.cookies(jar)
        return None if snapshot.journal.empty else snapshot.journal.finish(snapshot.in_flight)

    async def _merge(self, threads: StoreThreads, first: int, end: int) -> None:
        assert self._files is not None
        chosen = list(self._segments[first:end])
        self._number += 1
        try:
            merged = await threads.run(self._files.merge, chosen, first == 0, self._number)
        except (StateError, OSError, MemoryError) as error:
            self._log.warning(
                "segments of the requests could not be merged, so a start will read more files: %s",
                as_state_error(error),
            )
            return
        finally:
            self._merging = None
        # Only segments behind these may have been added since.
        self._segments = [*self._segments[:first], merged, *self._segments[end:]]

    def _warn_of_slow_page(self) -> None:
        oldest = self.pages.under_way.oldest()
        if oldest is None or oldest[0] is self._warned_of:
            return
        request, since = oldest
        seconds = time.monotonic() - since
        if seconds > max(_SLOW_INTERVALS * self._settings.interval_seconds, _SLOW_SECONDS):
            self._warned_of = request
            self._log.warning(
                "%s has been under way for %.0f s: before it is done, no checkpoint has its items, or the requests that it has "
                "sent with dont_filter", request, seconds,
            )  # fmt: skip

    def _page(self, is_start: bool) -> Page | None:
        return self.pages.beginning if is_start else self.pages.under_way.of(PAGE.get())
