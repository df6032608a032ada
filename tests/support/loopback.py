"""An HTTP server on 127.0.0.1, in a thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers requests with :meth:`reply`; logs nothing."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # the whole answer in one packet
    server: Any

    def reply(self, status: int = 200, body: str | bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()  # the client waits for it
        return True

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Serves while its context lasts.

    :param known: attributes of the server, for its handler
    """

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, handler: type[Handler], **known: Any) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._connections = 0
        self._closed = threading.Condition()
        vars(self).update(known)

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._closed:
            self._connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._closed:
            self._connections -= 1
            self._closed.notify_all()

    def wait_until_idle(self, seconds: float = 60) -> None:
        """Wait until no connection is open: what a killed client has sent may be answered some time later."""
        with self._closed:
            assert self._closed.wait_for(lambda: self._connections == 0, seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was killed, or gave up
            super().handle_error(request, client_address)
