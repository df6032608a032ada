"""What a run continues with: the requests of its checkpoint, read from their segments."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import StateSettingsError
from .backlog import Backlog
from .codec import Codec
from .seen import SeenSet
from .segments.lines import PageLine

#: A page that was in flight in this many processes which died is taken for what kills them.
MOST_DEATHS = 5


@dataclass
class Restored:
    """Takes in segments, oldest first (segments.read_segments calls its methods), and has the crawl as of the newest.

    :param backlog: the pending requests
    :param forms: the forms of the requests that ``start()`` has sent, how many of each
    :param page_deaths: through how many deaths of a process a page has been in flight
    :param held_pages: pages that have failed and are tried again, with the forms of the children that they had sent
    :param failed_pages: how many pages have failed and were skipped
    :param jars: the cookie jars, by their keys
    :param names: callbacks, errbacks and classes that the requests use
    :param suspects: the pages that were in flight
    :param number: the number of the newest page
    """

    backlog: Backlog
    seen: SeenSet = field(default_factory=SeenSet)
    forms: Counter[str] = field(default_factory=Counter)
    page_deaths: dict[int, int] = field(default_factory=dict)
    held_pages: dict[int, list[str]] = field(default_factory=dict)
    failed_pages: int = 0
    jars: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: set[tuple[str, str]] = field(default_factory=set)
    suspects: set[int] = field(default_factory=set)
    number: int = 0

    def add(self, pages: Sequence[PageLine]) -> None:
        """See :class:`~scrapy_state.frontier.segments.Target`, also for the other methods."""
        self.backlog.push(pages)
        self.number = max(self.number, max(pages)[0])

    def remove(self, pages: Sequence[int]) -> None:
        """These pages are settled."""
        self.backlog.remove(pages)
        for page in pages:
            self.page_deaths.pop(page, None)
            self.held_pages.pop(page, None)
        self.number = max(self.number, *pages)

    def saw(self, packed: bytes) -> None:
        """Fingerprints, 12 bytes each."""
        self.seen.update(packed)

    def form(self, hash: str, count: int) -> None:
        """``start()`` has sent requests of this form."""
        self.forms[hash] += count

    def forget_forms(self) -> None:
        """``start()`` began anew."""
        self.forms.clear()

    def deaths(self, page: int, number: int) -> None:
        """The page has been in flight through that many deaths."""
        self.page_deaths[page] = number

    def failed(self, info: dict[str, Any]) -> None:
        """A page failed and was skipped."""
        self.failed_pages += 1

    def held(self, page: int, info: dict[str, Any]) -> None:
        """A page failed and is tried again."""
        self.held_pages[page] = list(info["sent"])

    def cookies(self, info: dict[str, Any]) -> None:
        """A cookie jar."""
        self.jars[json.dumps(info["jar"], sort_keys=True)] = info

    def name(self, kind: str, name: str) -> None:
        """A callback, an errback or a class that a request names."""
        self.names.add((kind, name))

    def in_flight(self, pages: Sequence[int]) -> None:
        """The pages in flight at the newest checkpoint."""
        self.suspects = set(pages)

    def check_names(self, codec: Codec) -> None:
        """Make sure that the requests can be decoded.

        :raises StateSettingsError: if a callback or a class no longer exists
        """
        for kind, name in sorted(self.names):
            try:
                codec.check(kind, name)
            except ValueError as error:
                raise StateSettingsError(
                    f"the requests of the last run use a {kind} that is gone: {error}",
                    remedy=f"restore a {kind} of that name, or start without these requests (-s STATE_REQUESTS=False)",
                ) from error

    def count_deaths(self, concurrency: int) -> dict[int, int]:
        """The last run was killed: count its death for the pages in flight, and return the new counts.

        If fewer requests are pending than may be sent at once, any of them may have been in flight when it died.
        """
        if len(self.backlog) <= concurrency:
            entries = self.backlog.pop(len(self.backlog))
            self.suspects |= {entry.page for entry in entries}
            self.backlog.push(entries)
        for page in self.suspects:
            self.page_deaths[page] = self.page_deaths.get(page, 0) + 1
        return {page: self.page_deaths[page] for page in sorted(self.suspects)}
