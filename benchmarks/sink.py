"""A store for benchmarks that is slow and keeps nothing large.

``python sink.py BYTES_A_SECOND``: enough of S3 for scrapy_state (PUT with ``If-None-Match``, parts, GET, LIST). It counts and
drops files above 1 MiB, and keeps smaller ones. It reads all uploads together no faster than BYTES_A_SECOND. It prints its
port, and ends when its standard input is closed.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from servers import ends_with_stdin

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from loopback import Handler, Server

KEPT_BYTES = 1 << 20


class Store:
    """What is stored. *keys*: from keys to sizes and, for small files, contents."""

    def __init__(self, bytes_a_second: float) -> None:
        self.bytes_a_second = bytes_a_second
        self.keys: dict[str, tuple[int, bytes | None]] = {}
        self.parts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, size: int) -> None:
        """Wait until *size* more bytes may be read."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self.bytes_a_second
            wait = self._free_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)


class StoreHandler(Handler):
    store: Store

    def do_PUT(self) -> None:
        key, query = self._target()
        size, body = self._read()
        if "uploadId" in query:
            self.store.parts[query["uploadId"][0]] += size
        elif not self._create(key, size, body):
            return
        self.reply(200, headers={"ETag": '"etag"'})

    def do_POST(self) -> None:
        key, query = self._target()
        self._read()
        if "uploads" in query:
            upload = f"upload-{time.monotonic_ns()}"
            self.store.parts[upload] = 0
            self.reply(200, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        elif self._create(key, self.store.parts[query["uploadId"][0]], None):
            self.reply(200, "<CompleteMultipartUploadResult><ETag>etag</ETag></CompleteMultipartUploadResult>")

    def do_GET(self) -> None:
        key, query = self._target()
        if "list-type" in query:
            found = sorted(each for each in self.store.keys if each.startswith(query.get("prefix", [""])[0]))
            contents = "".join(f"<Contents><Key>{escape(each)}</Key></Contents>" for each in found)
            self.reply(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>")
            return
        _, content = self.store.keys.get(key, (0, None))
        if content is None:
            self.reply(404, "<Error><Code>NoSuchKey</Code></Error>")
        else:
            self.reply(200, content)

    def do_DELETE(self) -> None:
        self.reply(204)

    def _target(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        return key, parse_qs(parts.query, keep_blank_values=True)

    def _read(self) -> tuple[int, bytes | None]:
        """Return the size of the body and, if it is small, the body."""
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
            self.reply(412, "<Error><Code>PreconditionFailed</Code></Error>")
            return False
        self.store.keys[key] = size, body
        return True


def main() -> None:
    StoreHandler.store = Store(float(sys.argv[1]))
    server = Server(StoreHandler)
    ends_with_stdin(server.server_port)
    server.serve_forever()


if __name__ == "__main__":
    main()
