"""A real redis-server on this machine for the tests, on a free port, and a proxy that makes it far away."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

DEADLINE_SECONDS = 10


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class RedisServer:
    """A redis-server process with a folder of its own; *options* as on its command line, without dashes."""

    def __init__(self, **options: str) -> None:
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="scrapy_state_redis_")
        self.options = {"save": "", "appendonly": "no", "databases": "200", **options}
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **arguments: Any) -> Any:
        return redis.Redis(port=self.port, **arguments)

    def start(self) -> None:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.folder]
        for name, value in self.options.items():
            command += [f"--{name}", value]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    answer = connection.recv(100)
                    if answer.startswith((b"+PONG", b"-NOAUTH")):
                        return
            except OSError:
                pass
            assert self.process.poll() is None, "redis-server has ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def redis_server(**options: str) -> Iterator[RedisServer]:
    server = RedisServer(**options)
    try:
        yield server
    finally:
        server.stop()
