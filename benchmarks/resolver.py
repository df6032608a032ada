"""How many requests it takes to find where to start, among few and very many checkpoints.

``python benchmarks/resolver.py``: an S3 server on this machine makes up the requested checkpoints (ids 1 to n, 1,000 per page).
It compares the resolver with a plain listing of all keys: requests, and milliseconds without a network. Of the reads, one is
for the checkpoint, and one for its parent, whose digest must match.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from scrapy_state.lineage.resolve import resolve
from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.key_template import KeyTemplate
from scrapy_state.stores import open_reader

URI = "s3://bench/state/%(batch_id)010d.json"
PREFIX = "state/"


class Handler(BaseHTTPRequestHandler):
    """ListObjectsV2 and GetObject of ids 1 to *count*."""

    protocol_version = "HTTP/1.1"
    count = 0
    requests: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if "list-type" in query:
            self.requests["LIST"] += 1
            body = self._page(query).encode()
        else:
            self.requests["GET"] += 1
            id = int(unquote(parts.path).rpartition("/")[2].removesuffix(".json"))
            body = _checkpoint(id).to_bytes() if id <= self.count else b"<Error><Code>NoSuchKey</Code></Error>"
        self.send_response(404 if body.startswith(b"<Error>") else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _page(self, query: dict[str, str]) -> str:
        after = query.get("continuation-token") or query.get("start-after") or ""
        name = after.removeprefix(PREFIX).removesuffix(".json")
        first = int(name) + 1 if name else 1
        ids = range(first, min(first + int(query.get("max-keys", 1000)), self.count + 1))
        keys = "".join(f"<Contents><Key>{PREFIX}{id:010d}.json</Key><Size>100</Size></Contents>" for id in ids)
        more = bool(ids) and ids[-1] < self.count
        token = f"<NextContinuationToken>{PREFIX}{ids[-1]:010d}.json</NextContinuationToken>" if more else ""
        return f"<ListBucketResult><IsTruncated>{json.dumps(more)}</IsTruncated>{token}{keys}</ListBucketResult>"

    def log_message(self, *arguments: object) -> None:
        pass


def _checkpoint(id: int) -> Checkpoint:
    made = Checkpoint({"t": id}, id=id, parent=id - 1 or None, time=_time(id))
    # Every second one names its parent's digest, so that the newest does, and no digest goes back to the first one.
    return made if id % 2 else replace(made, parent_digest=_checkpoint(id - 1).to_json()["digest"])


def _time(id: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_700_000_000 + 60 * id))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1_000_000, help="checkpoints, in the last row")
    most = parser.parse_args().most
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION_NAME": "us-east-1"}
    settings["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{server.server_address[1]}"
    template = KeyTemplate.parse(URI, {})
    store, prefix = open_reader(template.prefix, settings)
    template = template.under(prefix)
    next(store.keys(prefix), None)  # the client is made
    print(f"{'':>11} | {'newest':>21} | {'by time':>21} | {'list all':>14}")
    print(f"{'checkpoints':>11} | {'LIST':>4} {'GET':>6} {'ms':>9} | {'LIST':>4} {'GET':>6} {'ms':>9} | {'LIST':>4} {'ms':>9}")
    counts = [count for count in (10**2, 998, 10**3, 10**4, 10**5, 10**6) if count < most]
    for count in [*counts, most]:
        Handler.count = count
        row = [f"{count:>11,}"]
        for at in ("latest", _at(count // 3)):
            requests, milliseconds = _measured(lambda at=at: resolve(store, template, None, at).newest_id)
            row.append(f"{requests['LIST']:>4} {requests['GET']:>6} {milliseconds:>9.0f}")
        requests, milliseconds = _measured(lambda: sum(1 for _ in store.keys(prefix)))
        print(" | ".join([*row, f"{requests['LIST']:>4} {milliseconds:>9.0f}"]))
    server.shutdown()
    return 0


def _at(id: int) -> datetime:
    return datetime.fromisoformat(_time(id).replace("Z", "+00:00"))


def _measured(function: Callable[[], int]) -> tuple[Counter[str], float]:
    Handler.requests.clear()
    began = time.perf_counter()
    found = function()
    assert found == Handler.count, f"{found} instead of {Handler.count}"
    return Counter(Handler.requests), 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    raise SystemExit(main())
