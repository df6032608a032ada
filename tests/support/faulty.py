"""A store that fails on purpose: an HTTP proxy in front of an S3 server, which harms chosen requests."""

import math
import re
import select
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPConnection
from urllib.parse import unquote, urlsplit

from loopback import Handler, Server

#: kind -> the S3 error code that the proxy answers instead of the store
ANSWERS = {"500": "InternalError", "501": "NotImplemented", "503": "SlowDown", "403": "AccessDenied"}
#: kind -> what happens
KINDS = {
    **{kind: f"answered {kind} {code}, the store never sees it" for kind, code in ANSWERS.items()},
    "501": "answered 501 NotImplemented if the request is conditional, as servers do that don't know If-None-Match",
    "reset": "the connection is reset, the store never sees the request",
    "time-out": "no answer until the client gives up, the store never sees the request",
    "lost reply": "the store obeys; the connection is cut before a PUT's answer, or in the middle of a GET's",
    "slow": "the store obeys; its answer comes late",
    "damaged": "the store obeys; a GET's content does not fit the checksum that comes with it",
    "too slow": "the store obeys; the client gives up before the answer comes",
    "held": "nothing happens until the test sets the fault's *released*; then the store obeys",
}
SLOW_SECONDS = 0.3
_HOP_HEADERS = frozenset({"connection", "transfer-encoding", "content-length", "expect", "keep-alive", "server", "date"})


@dataclass(eq=False)
class Fault:
    """What happens to which requests.

    :param kind: one of KINDS
    :param request: a regular expression found in the method, a space, and the unquoted path with its query:
        ``PUT /bucket/key``, ``GET /bucket?list-type=2&prefix=…``
    :param first: the first matching request that meets it, counted from 1
    :param count: how many matching requests meet it, from the first one on
    :param seconds: for how long they do, from the first one on
    """

    kind: str
    request: str
    first: int = 1
    count: float = 1
    seconds: float = math.inf
    fitting: int = 0
    met: int = 0
    began: float | None = None
    released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind

    def meets(self, request: str) -> bool:
        """Count *request*; return whether it meets this fault."""
        if not re.search(self.request, request):
            return False
        self.fitting += 1
        if self.fitting < self.first or self.met >= self.count:
            return False
        now = time.monotonic()
        self.began = self.began or now
        if now > self.began + self.seconds:
            return False
        self.met += 1
        return True


@dataclass(frozen=True)
class Seen:
    """A request and what happened to it.

    :param request: as for :class:`Fault`
    :param status: what the store answered, None if it never saw the request
    :param fault: the kind of fault that it met, if any
    :param body: a digest of its body
    :param access_key: who signed it; empty if nobody did
    """

    request: str
    size: int
    body: str
    status: int | None
    fault: str | None
    access_key: str = ""


class Proxy(Server):
    """The proxy, a context manager. Tests change :attr:`faults` at any time.

    :param store: the URL of the S3 server
    :param readers: access keys that may only read: the proxy answers 403 to their writes
    :param ceph: whether to do what Ceph's RGW 16 does for a user who may list only some prefixes: answer 403 for a missing
        key, and complete an upload in parts over whatever is there
    """

    def __init__(
        self, store: str, faults: Iterable[Fault] = (), readers: frozenset[str] = frozenset(), ceph: bool = False
    ) -> None:
        super().__init__(_Handler)
        self.store, self.faults, self.readers, self.ceph = store, list(faults), readers, ceph
        self.log: list[Seen] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        super().__exit__(*exception)

    def seen(self, request: str) -> list[Seen]:
        """Return the requests that match *request*, a regular expression as in :class:`Fault`."""
        return [each for each in self.log if re.search(request, each.request)]

    def overwritten(self) -> list[str]:
        """Return the keys that the store accepted twice, with different contents."""
        contents: dict[str, set[str]] = defaultdict(set)
        for each in self.seen("^PUT "):
            if each.status is not None and each.status < 300:
                contents[each.request].add(each.body)
        return [request for request, bodies in contents.items() if len(bodies) > 1]

    def fault_for(self, request: str) -> Fault | None:
        with self._lock:
            return next((fault for fault in self.faults if fault.meets(request)), None)

    def note(self, seen: Seen) -> None:
        with self._lock:
            self.log.append(seen)


class _Handler(Handler):
    def do_any(self) -> None:
        proxy: Proxy = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = f"{self.command} {unquote(self.path)}"
        met = proxy.fault_for(request)
        fault = met.kind if met else None
        if met and fault == "held":
            met.released.wait()
        if fault == "501" and "If-None-Match" not in self.headers:
            fault = None
        if self.command not in ("GET", "HEAD") and self._access_key() in proxy.readers:
            fault = "403"
        forwarded = fault in (None, "slow", "too slow", "damaged", "lost reply", "held")
        status, headers, content = self._forward(body) if forwarded else (None, {}, b"")
        if proxy.ceph and b"<Code>NoSuchKey<" in content:
            status, content = 403, b"<Error><Code>AccessDenied</Code></Error>"
        proxy.note(Seen(request, len(body), sha256(body).hexdigest(), status, fault, self._access_key()))
        if fault in ("time-out", "too slow"):
            self._wait_until_given_up()
        if fault in ("reset", "time-out", "too slow"):
            self._cut()
            return
        if fault == "damaged" and status is not None and status < 300:  # no server sends one with an error
            headers |= {"x-amz-checksum-crc32": "AAAAAA=="}
        if fault == "slow":
            proxy.closing.wait(SLOW_SECONDS)
        if fault in ANSWERS:
            status, headers = int(str(fault)), {"Content-Type": "application/xml"}
            content = (
                f"<?xml version='1.0'?><Error><Code>{ANSWERS[str(fault)]}</Code><Message>on purpose</Message></Error>".encode()
            )
        if fault == "lost reply" and self.command == "PUT":
            self._cut()
            return
        assert status is not None
        if self.command == "HEAD" or status == 204:
            content = b""
        if fault == "lost reply":
            self.reply(status, content[: len(content) // 2], {**headers, "Content-Length": str(len(content))})
            self._cut()
            return
        self.reply(status, content, headers)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do_any

    def _access_key(self) -> str:
        return self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(urlsplit(self.server.store).netloc, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_HEADERS}
            if self.server.ceph and self.command == "POST":
                headers.pop("If-None-Match", None)
            connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
            response = connection.getresponse()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in _HOP_HEADERS}
            return response.status, kept, response.read()
        finally:
            connection.close()

    def _wait_until_given_up(self) -> None:
        while not self.server.closing.is_set():
            if select.select([self.connection], [], [], 0.05)[0]:
                return

    def _cut(self) -> None:
        """Reset the connection."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
