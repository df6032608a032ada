"""A test of the request queues before the first request: a queue that loses requests would go unnoticed."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from scrapy import Request
from scrapy.core.scheduler import Scheduler
from scrapy.crawler import Crawler
from scrapy.exceptions import NotConfigured
from scrapy.utils.asyncio import is_asyncio_available
from scrapy.utils.misc import build_from_crawler, load_object

from .barrier.barrier import get_barrier
from .exceptions import StateSettingsError
from .resume.refusal import refuse
from .scrapy_internals import get_scheduler, is_crawl
from .settings import get_settings
from .stores.threads import no_thread

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("scrapy_state.state")
_LONGEST_SECONDS = 15.0


class SelfCheck:
    """Sends made-up requests through every queue class that Scrapy's scheduler uses, and compares what comes back.

    It makes queues of its own, in memory and in JOBDIR if there is one, and does not touch the crawl's. Setting
    STATE_SELFCHECK. (A frontier in Redis has a check of its own.)
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Have the queues checked before the first request.

        :raises NotConfigured: if there is no crawl, or STATE_SELFCHECK or STATE_ENABLED is off
        """
        if not is_crawl(crawler):
            raise NotConfigured
        try:
            settings = get_settings(crawler)
        except StateSettingsError as error:
            refuse(crawler, error)
            raise NotConfigured from error
        if not (settings.selfcheck and settings.enabled):
            raise NotConfigured
        check = cls(crawler)
        get_barrier(crawler).openers.append(check.check)
        return check

    async def check(self) -> None:
        """Check the queues. Waits at most 15 seconds for each.

        :raises StateSettingsError: if a queue loses or changes requests, raises an error, or does not answer
        :raises StoreError: if there can be no thread to check them in
        """
        scheduler = get_scheduler(self.crawler.engine) if self.crawler.engine is not None else None
        if not _has_queues(scheduler):
            return
        names = ["SCHEDULER_MEMORY_QUEUE", "SCHEDULER_START_MEMORY_QUEUE"]
        folder = None
        if scheduler.dqdir is not None:
            names += ["SCHEDULER_DISK_QUEUE", "SCHEDULER_START_DISK_QUEUE"]
            folder = Path(scheduler.dqdir).parent
        for name in names:
            path = self.crawler.settings[name]
            if path:
                await self._check_in_time(name, path, folder if "DISK" in name else None)

    async def _check_in_time(self, name: str, path: Any, folder: Path | None) -> None:
        if not is_asyncio_available():
            self._check(name, path, folder)
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish(error: Exception | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(error)

        def check() -> None:
            try:
                self._check(name, path, folder)
            except Exception as error:
                loop.call_soon_threadsafe(finish, error)
            else:
                loop.call_soon_threadsafe(finish, None)

        # A daemon, so that a queue that never answers does not keep the process alive.
        try:
            threading.Thread(target=check, name="scrapy_state_selfcheck", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            raise no_thread(error) from error
        try:
            await asyncio.wait_for(done, _LONGEST_SECONDS)
        except asyncio.TimeoutError as error:
            raise _error(name, path, f"it does not answer within {_LONGEST_SECONDS:g} s") from error

    def _check(self, name: str, path: Any, folder: Path | None) -> None:
        key = "" if folder is None else tempfile.mkdtemp(prefix="scrapy_state-selfcheck-", dir=folder)
        try:
            self._round_trip(name, path, f"{key}/0", continued=folder is not None)
        except StateSettingsError:
            raise
        except Exception as error:  # the class may be anybody's
            raise _error(name, path, f"{type(error).__name__}: {error}") from error
        finally:
            if key:
                shutil.rmtree(key, ignore_errors=True)

    def _round_trip(self, name: str, path: Any, key: str, continued: bool) -> None:
        cls = load_object(path)
        sent = [
            Request(f"https://scrapy-state.invalid/{number}?b=2&a=%20", method="POST", body=b"\x00\xff", meta={"depth": number})
            for number in range(3)
        ]
        queue = build_from_crawler(cls, self.crawler, key)
        for request in sent:
            queue.push(request)
        if len(queue) != len(sent):
            raise _error(name, path, f"of {len(sent)} made-up requests it counts {len(queue)}")
        popped = [queue.pop()]
        if continued:
            queue.close()
            queue = build_from_crawler(cls, self.crawler, key)  # as the next run does
        popped += [queue.pop() for _ in range(len(queue))]
        is_empty = queue.pop() is None and len(queue) == 0
        queue.close()
        received = [request for request in popped if isinstance(request, Request)]
        sent_as, received_as = (
            sorted((self._fingerprint(request), request.meta.get("depth"), request.url) for request in requests)
            for requests in (sent, received)
        )
        if received_as != sent_as or not is_empty:
            between = ", closed and opened in between" if continued else ""
            raise _error(name, path, f"of {len(sent)} made-up requests it gave back {len(received)}, or others{between}")

    def _fingerprint(self, made_up: Request) -> bytes:
        try:
            return self.crawler.request_fingerprinter.fingerprint(made_up)
        except Exception:  # a project's fingerprinter may need what its spiders put into meta
            return b""


def _has_queues(scheduler: Any) -> TypeGuard[Scheduler]:
    """Whether *scheduler* is Scrapy's; isinstance() would accept everything that has a scheduler's methods."""
    return Scheduler in type(scheduler).__mro__


def _error(name: str, path: Any, what: str) -> StateSettingsError:
    return StateSettingsError(
        f"{name} is {path!r}, which would lose requests: {what}",
        remedy="put another queue class there, or set STATE_SELFCHECK = False to skip this check",
    )
