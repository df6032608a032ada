"""A year of checkpoints, made without a crawl; and an S3 server that has them, and counts the requests it gets.

``python year_store.py COUNT``: enough of S3 for scrapy_state (PUT with ``If-None-Match``, GET with a range, LIST, DELETE), in
memory, for the bucket ``bench``: checkpoints below ``state/``, and one item file for each below ``items/``, all with the same
content. It prints its port, answers ``GET /requests`` with the requests so far by kind, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import count
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from servers import run

from scrapy_state.model.checkpoint import Checkpoint
from scrapy_state.model.item_file import ItemFile
from scrapy_state.model.times import format_time

#: A run is a week of one checkpoint a minute.
RUN_CHECKPOINTS = 7 * 24 * 60
STATES, ITEMS = "state/", "items/"
ITEM_FILE = b'{"page": 1, "text": "some text"}\n' * 5
_BEGAN = datetime(2025, 1, 1, tzinfo=timezone.utc)
Answer = tuple[int, bytes, str]


def checkpoints(number: int, root: str) -> Iterator[tuple[str, bytes, str | None]]:
    """Yield *number* checkpoints of one lineage, oldest first: its name, its bytes, and the name of its item file, if any.

    :param root: the URI of the folder with the item files, with a slash at its end
    """
    parent = Checkpoint({"page": 0})
    for id in range(1, number + 1):
        of_run = (id - 1) % RUN_CHECKPOINTS
        week = _BEGAN + timedelta(minutes=id - 1 - of_run)
        run_id = f"{week:%Y%m%dT%H%M%S}-abcdef"
        is_last = of_run == RUN_CHECKPOINTS - 1
        name = f"{run_id}-{of_run:05d}.jsonl" if of_run else None
        parent = Checkpoint(
            {"page": id},
            id=id,
            parent=parent.id,
            parent_digest=parent.digest,
            spider="bench",
            run=run_id,
            time=format_time(_BEGAN + timedelta(minutes=id)),
            items=parent.items + (5 if name else 0),
            files=(ItemFile(root + name, 5, len(ITEM_FILE)),) if name else (),
            reason=None if of_run and not is_last else ("shutdown" if is_last else "opened"),
            crawl=1,
        )
        data = parent.to_bytes()
        parent = replace(parent, digest=json.loads(data)[0]["digest"])
        yield f"{id:010d}.json", data, name


class Bucket:
    """What is stored, by key."""

    def __init__(self, number: int) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        for name, data, item_file in checkpoints(number, f"s3://bench/{ITEMS}"):
            self.objects[STATES + name] = data
            if item_file:
                self.objects[ITEMS + item_file] = ITEM_FILE
        self._sorted: list[str] | None = None
        self._uploads = count(1)

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Return the status, the content, and further headers."""
        if target == "/requests":
            return 200, json.dumps(self.requests).encode(), ""
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        key = unquote(parts.path).partition("/bench")[2].removeprefix("/")
        kind = "LIST" if method == "GET" and not key else method
        self.requests[kind] += 1
        if "uploads" in query and method == "GET":
            return 200, b"<ListMultipartUploadsResult/>", ""
        if method == "POST":  # the probe begins an upload, and aborts it
            upload = f"<UploadId>{next(self._uploads)}</UploadId>"
            return 200, f"<InitiateMultipartUploadResult>{upload}</InitiateMultipartUploadResult>".encode(), ""
        if kind == "LIST":
            return 200, self._page(query), ""
        if method == "PUT":
            return self._put(key, body)
        if method == "DELETE":
            if "uploadId" not in query and self.objects.pop(key, None) is not None:
                self._sorted = None
            return 204, b"", ""
        return self._get(key, headers.get("range", ""))

    def _put(self, key: str, body: bytes) -> Answer:
        if key in self.objects:
            return 412, b"<Error><Code>PreconditionFailed</Code></Error>", ""
        self.objects[key] = body
        self._sorted = None
        return 200, b"", 'ETag: "etag"\r\n'

    def _get(self, key: str, wanted: str) -> Answer:
        data = self.objects.get(key)
        if data is None:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", ""
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", wanted):
            begin, end = match[1], match[2]
            part = data[-int(end) :] if not begin else data[int(begin) : int(end) + 1 if end else None]
            return (206, part, "") if part else (416, b"<Error><Code>InvalidRange</Code></Error>", "")
        return 200, data, ""

    def _page(self, query: dict[str, str]) -> bytes:
        if self._sorted is None:
            self._sorted = sorted(self.objects)
        prefix, most = query.get("prefix", ""), int(query.get("max-keys", 1000))
        after = max(query.get("continuation-token") or query.get("start-after") or "", prefix)
        at = bisect_right(self._sorted, after)
        keys = [key for key in self._sorted[at : at + most + 1] if key.startswith(prefix)]
        contents = "".join(f"<Contents><Key>{escape(key)}</Key><Size>1</Size></Contents>" for key in keys[:most])
        more = len(keys) > most
        token = f"<NextContinuationToken>{escape(keys[most - 1])}</NextContinuationToken>" if more else ""
        page = f"<ListBucketResult><IsTruncated>{json.dumps(more)}</IsTruncated>{token}{contents}</ListBucketResult>"
        return page.encode()


def serve(number: str):  # type: ignore[no-untyped-def]
    bucket = Bucket(int(number))

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                if headers.get("expect"):
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, target, _ = first.split()
                status, content, more = bucket.answer(method, target, headers, body)
                head = f"HTTP/1.1 {status} Any\r\nContent-Length: {len(content)}\r\n{more}\r\n".encode()
                writer.write(head + content)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return converse


if __name__ == "__main__":
    asyncio.run(run(serve, sys.argv[1]))
