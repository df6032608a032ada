"""A real redis-server on 127.0.0.1, on a free port, and a proxy that delays what it sends."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DEADLINE_SECONDS = 10
#: Why tests are skipped on a machine without it
NO_SERVER = "there is no redis-server here"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class RedisServer:
    """A redis-server process with its own folder. *options* are those of its command line, without dashes."""

    def __init__(self, *, sentinel: bool = False, **options: str) -> None:
        self.sentinel = sentinel
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="scrapy_state_redis_")
        self.options = options if sentinel else {"save": "", "appendonly": "no", "databases": "200", **options}
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **arguments: Any) -> Any:
        return redis.Redis(port=self.port, **arguments)

    def start(self) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip(NO_SERVER)
        command = ["redis-server"]
        if self.sentinel:  # which wants a file to write to
            Path(self.folder, "sentinel.conf").touch()
            command += [f"{self.folder}/sentinel.conf", "--sentinel"]
        command += ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.folder]
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


class Proxy:
    """Stands before a Redis, in a thread of its own: another *port* for connections to come, slow lines, late replies.

    :param bytes_per_second: for each connection and direction; 0: any number
    :param delay_seconds: before each piece
    :param stall: returns how many more seconds the next piece waits
    :param lost_reply: the number of the one reply that is lost, with its connection; 0: none
    """

    def __init__(
        self, port: int, bytes_per_second: int = 0, delay_seconds: float = 0.0, stall: Callable[[], float] = lambda: 0.0,
        lost_reply: int = 0,
    ) -> None:  # fmt: skip
        self.target = port
        self.bytes_per_second = bytes_per_second
        self.delay_seconds = delay_seconds
        self.stall = stall
        self.lost_reply = lost_reply
        self.replies = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(DEADLINE_SECONDS)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer, replies=True))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: bool = False) -> None:
        try:
            while data := await reader.read(16384):
                self.replies += replies
                if replies and self.replies == self.lost_reply:
                    return
                await asyncio.sleep(self.delay_seconds + self.stall())
                if self.bytes_per_second:
                    await asyncio.sleep(len(data) / self.bytes_per_second)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_SECONDS)


@contextmanager
def proxy(port: int, **line: Any) -> Iterator[Proxy]:
    found = Proxy(port, **line)
    try:
        yield found
    finally:
        found.close()


def until(what: Callable[[], Any], seconds: float = 3 * DEADLINE_SECONDS) -> Any:
    """Return the result of *what* as soon as it has one; while the server is away, ask again."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(redis.RedisError):
            if found := what():
                return found
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


@contextmanager
def redis_sentinel(name: str) -> Iterator[tuple[RedisServer, RedisServer, RedisServer]]:
    """A primary, its replica and a Sentinel that watches them as *name*, with passwords."""
    secrets = {"requirepass": "the-secret", "masterauth": "the-secret", "appendonly": "yes", "repl-diskless-sync-delay": "0"}
    with redis_server(**secrets) as primary, redis_server(**secrets, replicaof=f"127.0.0.1 {primary.port}") as replica:
        replica_client = replica.client(password="the-secret")
        until(lambda: replica_client.info("replication")["master_link_status"] == "up")
        sentinel = RedisServer(sentinel=True)
        try:
            client = sentinel.client()
            client.sentinel_monitor(name, "127.0.0.1", primary.port, 1)
            for option, value in (("auth-pass", "the-secret"), ("down-after-milliseconds", 500), ("failover-timeout", 2000)):
                client.sentinel_set(name, option, value)
            until(lambda: client.sentinel_slaves(name))
            yield primary, replica, sentinel
        finally:
            sentinel.stop()


@contextmanager
def redis_cluster(nodes: int) -> Iterator[list[RedisServer]]:
    """A cluster of *nodes* primaries, which share the slots."""
    with ExitStack() as stack:
        servers = []
        for number in range(nodes):
            options = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
            servers.append(server := stack.enter_context(redis_server(**options)))
            slots = 16384 // nodes * number, 16383 if number == nodes - 1 else 16384 // nodes * (number + 1) - 1
            server.client().execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
            first = servers[0]
            if number:
                bus = first.options["cluster-port"]
                server.client().execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, bus)
        for server in servers:
            until(lambda server=server: server.client().execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        yield servers


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-made certificate for this machine, and its key; return where they are."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "server.key").write_bytes(key.private_bytes(pem, form, plain))
    return folder / "server.crt", folder / "server.key"
