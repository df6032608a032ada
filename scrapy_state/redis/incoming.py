"""What was leased, as requests. Anybody may have pushed it, so nothing in it may end a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scrapy import Request, Spider

from . import told
from .codec import PUSHED, Codec, Unreadable
from .frontier import Reply
from .options import RedisSettings
from .units import UnitRequests
from .worker import Worker

#: The method of a spider that makes requests of what was pushed, as in scrapy-redis
_HOOK = "make_request_from_data"


class Incoming:
    """Reads what was leased, and sets aside what can't be read.

    :param crawl: crawls the requests that the spider has made of what was leased under an id
    """

    def __init__(
        self, spider: Spider, settings: RedisSettings, codec: Codec, units: UnitRequests, worker: Worker, stats: Any,
        crawl: Callable[[int, list[Request]], None],
    ) -> None:  # fmt: skip
        self._spider = spider
        self._settings = settings
        self._codec = codec
        self._units = units
        self._worker = worker
        self._stats = stats
        self._crawl = crawl
        self._hook = getattr(spider, _HOOK, None)
        self._unreadable = 0
        self._pushed_type = ""

    def read(self, reply: Reply) -> dict[Request, int]:
        """Return the requests that *reply* has leased to this worker, with their lease ids, in their order."""
        if reply.pushed_type and reply.pushed_type != self._pushed_type:
            told.tell_pushed_type(self._settings.pushed_key, reply.pushed_type, self._spider)
        self._pushed_type = reply.pushed_type
        found = {}
        for id, data in reply.leased:
            try:
                if data[:1] == PUSHED and self._hook is not None:
                    self._crawl(id, _requests_from(self._hook, data[1:]))
                    continue
                request = self._codec.decode_pushed(data[1:]) if data[:1] == PUSHED else self._codec.decode(data)
                left_over = self._units.is_left_over(request.meta)
            except Unreadable as error:
                if not (left_over := self._units.is_left_over(error.meta)):
                    self.set_aside(id, error)
                    continue
            if left_over:
                self._worker.acknowledge([id])
            else:
                found[request] = id
        return found

    def set_aside(self, id: int, error: Exception) -> None:
        """Have the worker move what is leased as *id* out of the way: nobody can crawl it."""
        if not self._unreadable:
            told.tell_unreadable(error, self._spider)
        self._unreadable += 1
        self._stats.inc_value("state/redis/unreadable")
        self._worker.unreadable.append(id)

    def close(self) -> None:
        """Say how much was set aside."""
        told.tell_set_aside(self._unreadable, self._spider)


def _requests_from(hook: Callable[[bytes], Any], data: bytes) -> list[Request]:
    """Return the requests that *hook* makes of *data*: it returns one, several, or None for none."""
    try:
        made = hook(data)
        found = [made] if isinstance(made, Request) else list(made if made is not None else ())
    except Exception as error:  # the spider's own code, which anybody gives anything
        raise Unreadable(f"{_HOOK}() raised {type(error).__name__}: {error}", None) from error
    if not all(isinstance(each, Request) for each in found):
        raise Unreadable(f"{_HOOK}() returned something that is no request", None)
    return found
