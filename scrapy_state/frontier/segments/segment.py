"""Segments: what changes in a crawl's requests between two cuts, as files. docs/format.md describes them for users.

Pure: it writes binary files that it is given, and nothing else.
"""

from __future__ import annotations

import io
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from tempfile import TemporaryFile
from typing import IO, Any

from ...stores.stored_files import temporary_file_errors
from .lines import (
    A_LINE,
    SEEN_BYTES,
    VERSION,
    Writer,
    form_line,
    json_bytes,
    page_lines,
    seen_line,
)

#: What waits to be compressed: pages that are settled soon never get that far.
_WAITING_LINES, _WAITING_BYTES = 5000, 2 << 20
#: What is compressed at once: 2 ms of work
_SLICE_LINES, _SLICE_BYTES = 500, 256 << 10


class OpenSegment:
    """What changes until the next cut. Every method but :meth:`finish` takes at most some milliseconds.

    :param run: the run's id; *spider*: the spider's name
    :param open_file: returns a new temporary file; called only if more changes than memory should hold
    """

    def __init__(self, run: str, spider: str | None, open_file: Callable[[], IO[bytes]] = TemporaryFile) -> None:
        self._header = {"version": VERSION, "run": run, "spider": spider}
        self._open_file = open_file
        self._writer: Writer | None = None
        self._lines: list[bytes] = []
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        #: lines about pages, which follow those of the pages themselves
        self._deaths: OrderedDict[int, bytes] = OrderedDict()
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0
        self._gone: dict[int, None] = {}
        #: pages that may be in the file, or in an earlier segment, although they are in *_pages*
        self._again: set[int] = set()
        self._seen = bytearray()
        self._forms: list[str | Callable[[], str]] = []
        #: why lines are lost: :meth:`finish` raises it, so that nobody has to look out for it before
        self._error: OSError | MemoryError | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing has changed."""
        waiting = (self._lines, self._pages, self._deaths, self._held, self._gone, self._seen, self._forms)
        return self._writer is None and not any(waiting)

    def add(self, page: int, priority: int, is_start: bool, request: str | bytes, again: bool = False) -> None:
        """Note a pending page.

        :param page: its number, unique in the crawl
        :param request: one line of JSON
        :param again: whether a page of this number was noted before, maybe in an earlier segment: this one replaces it
        """
        data = request if isinstance(request, bytes) else request.encode("utf-8", "surrogatepass")
        if b"\n" in data or b"\t" in data:
            raise ValueError("a request must be JSON without line breaks and tabs")
        if again or page in self._gone:
            self._again.add(page)
            self._gone.pop(page, None)
        self._wait_for(self._pages, page, b"+\t%d\t%d\t%s\t%s" % (page, priority, b"s" if is_start else b"", data))

    def settle(self, page: int) -> None:
        """Note that *page* is not pending any more. If it was first noted only just now, it leaves no trace."""
        known = self._pages.pop(page, None)
        lines = (known, self._deaths.pop(page, None), self._held.pop(page, None))
        self._bytes -= sum(len(line) for line in lines if line is not None)
        if known is None or page in self._again:
            self._again.discard(page)
            self._gone[page] = None
            if len(self._gone) >= A_LINE:
                self._write_gone()

    def saw(self, fingerprint: bytes) -> None:
        """Note a fingerprint that the filter let pass; the first 12 bytes count."""
        self._seen += fingerprint[:SEEN_BYTES].ljust(SEEN_BYTES, b"\0")
        if len(self._seen) >= A_LINE * SEEN_BYTES:
            self._write_seen()

    def form(self, hash: str | Callable[[], str]) -> None:
        """Note the form of a request that ``start()`` has sent: 16 hex digits, or what returns them once they are needed."""
        self._forms.append(hash)
        if len(self._forms) >= A_LINE:
            self._write_forms()

    def forget_forms(self) -> None:
        """Note that the forms so far don't count any more."""
        self._forms.clear()
        if self._lines[-1:] != [b"O"]:
            self._line(b"O")

    def deaths(self, page: int, number: int) -> None:
        """Note through how many deaths of a process *page* has been."""
        self._wait_for(self._deaths, page, b"d\t%d\t%d" % (page, number))

    def failed(self, url: str, reason: str) -> None:
        """Note a page that failed and was skipped."""
        self._line(b"f\t%s" % json_bytes({"url": url, "reason": reason}))

    def held(self, page: int, reason: str, sent: Iterable[str]) -> None:
        """Note a page that failed and stays pending. *sent*: the forms of its children that the next try leaves out."""
        self._wait_for(self._held, page, b"h\t%d\t%s" % (page, json_bytes({"reason": reason, "sent": list(sent)})))

    def cookies(self, jar: Mapping[str, Any]) -> None:
        """Note a cookie jar that has changed: ``{"jar": key, "cookies": […]}``."""
        cookies = b",".join(map(json_bytes, jar["cookies"]))  # one json.dumps() of them all would hold the GIL
        self._line(b'c\t{"jar":%s,"cookies":[%s]}' % (json_bytes(jar["jar"]), cookies))

    def name(self, kind: str, name: str) -> None:
        """Note a name in use; *kind*: "callback", "errback" or "class"."""
        self._line(f"n\t{kind}\t{name}".encode())

    def finish(self, in_flight: Iterable[int]) -> tuple[IO[bytes], int, str]:
        """Write what is left. Blocks for some 20 ms; may run in a thread, if nothing else is called then.

        :param in_flight: the pages that are in flight at this cut
        :return: the file, at its beginning, its size in bytes, and its digest as checkpoints have it
        :raises StoreError: if some of the changes could not be written to the temporary file
        """
        with temporary_file_errors("requests"):
            if self._error is not None:
                raise self._error
            return self._finish(in_flight)

    def _finish(self, in_flight: Iterable[int]) -> tuple[IO[bytes], int, str]:
        self._write_gone()
        self._write_seen()
        self._write_forms()
        if self._writer is None:
            self._writer = Writer(io.BytesIO(), self._header)
        while lines := self._slice():
            self._writer.write(lines)
        self._writer.write([*page_lines(b"i", in_flight)])
        size, digest = self._writer.close()
        self._writer.file.seek(0)
        return self._writer.file, size, digest

    def close(self) -> None:
        """Give up what was noted: nothing will be finished."""
        if self._writer is not None:
            self._writer.file.close()

    def _wait_for(self, waiting: OrderedDict[int, bytes], page: int, line: bytes) -> None:
        self._bytes += len(line) - len(waiting.pop(page, b""))
        waiting[page] = line
        self._spill()

    def _line(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)
        self._spill()

    def _write_gone(self) -> None:
        gone, self._gone = self._gone, {}
        for line in page_lines(b"-", gone):
            self._line(line)

    def _write_seen(self) -> None:
        if self._seen:
            seen, self._seen = self._seen, bytearray()
            self._line(seen_line(seen))

    def _write_forms(self) -> None:
        forms = Counter(form if isinstance(form, str) else form() for form in self._forms)
        self._forms.clear()
        for hash, count in forms.items():
            self._line(form_line(hash, count))

    def _spill(self) -> None:
        """Compress one slice if too much waits."""
        waiting = len(self._lines) + len(self._pages) + len(self._deaths) + len(self._held)
        if self._error is None and (waiting > _WAITING_LINES or self._bytes > _WAITING_BYTES):
            try:
                if self._writer is None:
                    self._writer = Writer(self._open_file(), self._header)
                self._writer.write(self._slice())
            except (OSError, MemoryError) as error:
                self._error = error

    def _slice(self) -> list[bytes]:
        """Take some lines from those that wait, oldest first; what is about a page follows the page."""
        taken: list[bytes] = []
        size = used = 0
        for line in self._lines[:_SLICE_LINES]:
            if size > _SLICE_BYTES:
                break
            taken.append(line)
            size, used = size + len(line), used + 1
        del self._lines[:used]
        for waiting in (self._pages, self._deaths, self._held):
            while waiting and len(taken) < _SLICE_LINES and size <= _SLICE_BYTES:
                taken.append(waiting.popitem(last=False)[1])
                size += len(taken[-1])
        self._bytes -= size
        return taken
