"""The extension that leaves out requests whose pages gave items in an earlier crawl, and gives items their pages' keys."""

from __future__ import annotations

import asyncio
import math
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.http import Response
from scrapy.utils.asyncio import is_asyncio_available

from ..barrier.barrier import get_barrier
from ..barrier.log import SpiderLog
from ..barrier.tickets import Ticket
from ..exceptions import StateSettingsError
from ..extension import StateResolver, get_extension
from ..frontier.start import EVERY_RUN
from ..resume.refusal import refuse
from ..scrapy_internals import PAGE, is_crawl, watch_fetch
from ..settings import get_settings
from ..stores.retry import in_thread, patiently
from .keys import RequestKeys, is_exempt, own_key
from .known import Known
from .memory import DAY_SECONDS, DeltaMemory, today
from .opening import find, to_write
from .settings import DeltaSettings

if TYPE_CHECKING:
    from typing_extensions import Self

_EPOCH = date(1970, 1, 1)


class Delta:
    """Incremental crawls (STATE_DELTA): a request whose page gave items in an earlier crawl is not sent again.

    :class:`~scrapy_state.barrier.StateMiddleware` asks it about each request and item that the spider yields.
    """

    def __init__(self, crawler: Crawler, settings: DeltaSettings) -> None:
        self._crawler = crawler
        self._settings = settings
        self._log = SpiderLog(crawler)
        self._known = Known()
        #: pages that last gave items on this day (since 1970) or earlier are crawled again
        self._oldest = 0
        self._has_skipped = False

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Have the pages of earlier crawls read before the first request.

        :raises NotConfigured: if there is no crawl, or STATE_DELTA or STATE_ENABLED is off
        """
        if not is_crawl(crawler):
            raise NotConfigured
        try:
            is_on = get_settings(crawler).enabled and get_settings(crawler).delta
            settings = DeltaSettings.from_settings(crawler.settings)
        except StateSettingsError as error:
            refuse(crawler, error)
            raise NotConfigured from error
        if not is_on:
            raise NotConfigured
        delta = cls(crawler, settings)
        get_barrier(crawler).openers.append(delta.open)
        return delta

    async def open(self) -> None:
        """Read the pages of earlier crawls, and take part in the crawl. To be called before the first request.

        :raises StateError: if they can't be read
        """
        crawler, barrier = self._crawler, get_barrier(self._crawler)
        resolver = get_extension(StateResolver, crawler)
        search = partial(find, crawler, resolver, self._settings.reset) if resolver is not None else lambda: None
        found = await asyncio.to_thread(patiently, search) if is_asyncio_available() else in_thread(search)
        if found is None or resolver is None:
            self._log.warning("STATE_DELTA has no effect: there is neither a state feed nor STATE_FROM to read from")
            return
        assert crawler.request_fingerprinter is not None
        assert crawler.stats is not None
        self._keys = RequestKeys(crawler.request_fingerprinter.fingerprint)
        self._known = found.known
        if self._settings.max_age_seconds is not None:
            self._oldest = today() - math.ceil(self._settings.max_age_seconds / DAY_SECONDS)
        crawler.stats.set_value("state/delta_known", len(found.known))
        self._log_known()
        assert crawler.engine is not None
        watch_fetch(crawler.engine.downloader, lambda request: True, self._fetched)
        if barrier.listener is not None and resolver.feed is not None and not resolver.settings.readonly:
            write = partial(to_write, crawler, resolver, found, barrier.run_id)
            files = await asyncio.to_thread(patiently, write)
            barrier.memories.append(DeltaMemory(files, found.remembered, found.crawl, crawler.stats))
        barrier.delta = self

    def skips(self, request: Request, is_start: bool) -> bool:
        """Return whether to leave out *request*, which the spider has yielded.

        :param is_start: whether ``start()`` has yielded it
        """
        self._keys.begin(request)
        if (is_start and not self._settings.start) or is_exempt(request) or request.meta.get(EVERY_RUN):
            return False
        day = self._known.day(self._keys.of(request))
        if day <= self._oldest:
            return False
        if not self._has_skipped:
            self._has_skipped = True
            self._log.info(
                "%s is not sent: its page gave items in an earlier crawl, on %s. More such requests are only counted",
                request, _date(day),
            )  # fmt: skip
        assert self._crawler.stats is not None
        self._crawler.stats.inc_value("state/delta_skipped")
        return True

    def ticket(self, item: Any, request: Request | None, ticket: Ticket) -> Ticket:
        """Return the ticket for *item*, which would have *ticket*: with the key of its page.

        :param request: the one whose callback has yielded it; None: ``start()`` has
        """
        key = own_key(item)
        if key is None:
            key = self._key_of_page(request)
        if key is None:
            return ticket
        if self._settings.items == "all":
            ticket.to_export.side.note_key(key, ticket.epoch)
            return ticket
        return Ticket(ticket.side, ticket.epoch, key)

    def failed(self, request: Request | None, ticket: Ticket) -> None:
        """The callback of *request* has raised, and its items have *ticket*: the page may have more to give."""
        key = self._key_of_page(request)
        if key is not None and self._settings.items == "stored":
            Ticket(ticket.side, ticket.epoch, key).void_key()

    def _key_of_page(self, request: Request | None) -> int | None:
        page = None if request is None else PAGE.get() or request
        return None if page is None or is_exempt(page) else self._keys.of(page)

    def _fetched(self, result: Response | Request, request: Request) -> Response | Request:
        if isinstance(result, Request):
            self._keys.replaced(request, result)
        return result

    def _log_known(self) -> None:
        if not self._known:
            self._log.info("no pages of earlier crawls are known (STATE_DELTA)")
            return
        first, last = map(_date, self._known.days)
        self._log.info(
            "%s pages of earlier crawls are known, from %s to %s: they are not crawled again (STATE_DELTA)",
            f"{len(self._known):,}", first, last,
        )  # fmt: skip


def _date(day: int) -> str:
    return str(_EPOCH + timedelta(days=day))
