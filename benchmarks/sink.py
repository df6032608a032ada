"""Two servers for benchmarks, each in a process of its own: a site, and a store that is slow and keeps nothing large.

``python sink.py store BYTES_A_SECOND``: enough of S3 for scrapy_state (PUT with ``If-None-Match``, parts, GET, LIST).
Files above 1 MiB are counted and dropped, smaller ones kept. All uploads together are taken no faster than that.
``python sink.py site ITEMS BYTES``: every page is a JSON list of so many items of about so many bytes.

Both print their port, and end with their standard input.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEPT_BYTES = 1 << 20


class Store:
    """What the store knows. *keys*: the size and, of small files, the content of each."""

    def __init__(self, bytes_a_second: float) -> None:
        self.bytes_a_second = bytes_a_second
        self.keys: dict[str, tuple[int, bytes | None]] = {}
        self.parts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, size: int) -> None:
        """Wait until *size* more bytes may have come."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self.bytes_a_second
            wait = self._free_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)


class StoreHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def do_PUT(self) -> None:
        key, query = self._target()
        size, body = self._read()
        if "uploadId" in query:
            self.store.parts[query["uploadId"][0]] += size
        elif not self._create(key, size, body):
            return
        self._answer(200, headers={"ETag": '"etag"'})

    def do_POST(self) -> None:
        key, query = self._target()
        self._read()
        if "uploads" in query:
            upload = f"upload-{time.monotonic_ns()}"
            self.store.parts[upload] = 0
            self._answer(200, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        elif self._create(key, self.store.parts[query["uploadId"][0]], None):
            self._answer(200, "<CompleteMultipartUploadResult><ETag>etag</ETag></CompleteMultipartUploadResult>")

    def do_GET(self) -> None:
        key, query = self._target()
        if "list-type" in query:
            found = sorted(each for each in self.store.keys if each.startswith(query.get("prefix", [""])[0]))
            contents = "".join(f"<Contents><Key>{escape(each)}</Key></Contents>" for each in found)
            self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>")
            return
        _, content = self.store.keys.get(key, (0, None))
        if content is None:
            self._answer(404, "<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._answer(200, content)

    def do_DELETE(self) -> None:
        self._answer(204)

    def _target(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        return key, parse_qs(parts.query, keep_blank_values=True)

    def _read(self) -> tuple[int, bytes | None]:
        """Return the size of the body and, if it is small, what it is."""
        size = left = int(self.headers.get("Content-Length", 0))
        kept = bytearray()
        while left:
            chunk = self.rfile.read(min(left, 1 << 16))
            if not chunk:
                raise ConnectionError
            left -= len(chunk)
            self.store.take(len(chunk))
            if size <= KEPT_BYTES:
                kept += chunk
        return size, bytes(kept) if size <= KEPT_BYTES else None

    def _create(self, key: str, size: int, body: bytes | None) -> bool:
        if key in self.store.keys and self.headers.get("If-None-Match") == "*":
            self._answer(412, "<Error><Code>PreconditionFailed</Code></Error>")
            return False
        self.store.keys[key] = size, body
        return True

    def _answer(self, status: int, body: str | bytes = b"", headers: dict[str, str] | None = None) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class SiteHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    items: int
    text: str

    def do_GET(self) -> None:
        page = int(re.search(r"\d+", self.path)[0])  # type: ignore[index]
        # The items differ, so that no two share their memory.
        body = json.dumps([{"key": page * self.items + n, "text": self.text} for n in range(self.items)]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main() -> None:
    if sys.argv[1] == "store":
        StoreHandler.store = Store(float(sys.argv[2]))
    else:
        SiteHandler.items = int(sys.argv[2])
        SiteHandler.text = "some text " * (int(sys.argv[3]) // 10)
    server = Server(("127.0.0.1", 0), StoreHandler if sys.argv[1] == "store" else SiteHandler)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
