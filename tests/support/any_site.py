"""A site on this machine for spiders of any shape (any_spiders.py). It logs every request that it gets."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from any_answers import Answers, Fetch


class Site:
    """Serves in a thread of its own while its context lasts.

    :param pages: see :class:`Answers`
    :param delay_seconds: how long an answer takes on average
    """

    def __init__(self, pages: int, delay_seconds: float = 0.0, seed: int = 0) -> None:
        #: the number of the run that is at work; set by the test
        self.run = 0
        self.log: list[Fetch] = []
        #: the next request gets no answer until :meth:`release`
        self.hang = False
        self._delay_seconds = delay_seconds
        self._chance = random.Random(seed)
        self._changed = threading.Condition()
        self._answers = Answers(pages)
        self._hanging: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Site:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_hanging(self) -> bool:
        return self._hanging is not None

    def asked(self, run: int) -> int:
        """Return how many requests *run* has sent."""
        return sum(fetch.run == run for fetch in self.log)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until *condition* holds; look after each request and every 50 ms. Return whether it holds."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not condition() and time.monotonic() < deadline:
                self._changed.wait(0.05)
        return condition()

    def release(self) -> None:
        """Answer what hangs."""
        self.hang = False
        if (hanging := self._hanging) is not None:
            self._loop.call_soon_threadsafe(hanging.set)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                await self._reply(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _reply(self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = request.decode().split("\r\n")
        method, target, _ = first.split()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        await reader.readexactly(int(headers.get("content-length", 0)))
        fetch = Fetch(time.time(), self.run, method, urlsplit(target).path)
        await self._count(fetch)
        if self._delay_seconds:
            await asyncio.sleep(self._chance.uniform(0, 2 * self._delay_seconds))
        answer = self._answers.answer(fetch, headers.get("cookie", ""))
        body = answer.body.encode()
        head = [f"HTTP/1.1 {answer.status} Any", "Content-Type: text/html", f"Content-Length: {len(body)}", *answer.headers]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await writer.drain()

    async def _count(self, fetch: Fetch) -> None:
        with self._changed:
            self.log.append(fetch)
            self._answers.asked[fetch.path] += 1
            hang, self.hang = self.hang, False
            if hang:
                self._hanging = asyncio.Event()
            self._changed.notify_all()
        if hang and self._hanging is not None:
            await self._hanging.wait()
            self._hanging = None
