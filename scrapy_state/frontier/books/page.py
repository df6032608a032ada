"""A page, what is known of ``start()``, and what the books about pages need: a journal, and a place for items. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

from ...barrier.tickets import Side, Ticket

T = TypeVar("T")


class Journal(Protocol):
    """Takes down what changes until the next checkpoint (frontier/segments/)."""

    @property
    def empty(self) -> bool:
        """Whether nothing has changed."""

    def deaths(self, page: int, number: int) -> None:
        """Page *page* has been in flight through that many deaths of a process."""

    def add(self, page: int, priority: int, is_start: bool, request: bytes) -> None:
        """Page *page* is known and pending."""

    def settle(self, page: int) -> None:
        """Page *page* is settled, or gone."""

    def saw(self, fingerprint: bytes) -> None:
        """The filter has let *fingerprint* pass."""

    def form(self, hash: str | Callable[[], str]) -> None:
        """``start()`` has sent a request of this form. A function returns the form, if it is needed at all."""

    def forget_forms(self) -> None:
        """``start()`` begins anew."""

    def failed(self, url: str, reason: str) -> None:
        """A page has failed and is skipped."""

    def held(self, page: int, reason: str, sent: list[str]) -> None:
        """Page *page* has failed, and the next run tries it again, but leaves out the children of the forms *sent*."""


class Items(Protocol):
    """Keeps the items of pages until these are settled (units/held_items.py)."""

    def release(self, side: Side) -> None:
        """Export the items of *side* now."""

    def move(self, side: Side, to: Side) -> None:
        """Keep the items of *side* with those of *to*."""

    def drop(self, side: Side) -> None:
        """Discard the items of *side*, and those that still come."""


@dataclass(eq=False, slots=True)
class Page:
    """A page that is under way, or that is over and waits to become known.

    :param number: its number in the segments; 0 for ``start()``
    :param request: the encoded request, until the journal has it
    :param parent: the page that has sent it, until this one is settled; *by*: the page that it waits for: once that is settled,
        it becomes known
    :param known: whether checkpoints may mention it; *stored*: whether it is pending in the segments
    :param in_every_run: whether each run sends it, as it sends what ``start()`` yields, so that it isn't stored
    :param out: how many of its requests are under way: itself, stand-ins, and children that can't be stored
    :param idle: how many of these requests have no more to yield: their callbacks have ended
    :param sent: how many requests it has yielded since its last clean state item; *on_way*: how many of them have not reached
        the scheduler; *first_sent*: the first that the scheduler has taken, encoded
    :param open_children: how many of the pages that it has sent are not settled
    :param over: whether nothing of it is under way
    :param hopeless: whether it stays pending, because the crawl is being closed
    :param held: why it has failed, if the next run is to try it again
    :param failures: URL and reason of its failures, if these are skipped
    :param fingerprints: what becomes seen once it is settled: those of stand-ins, and of children that can't be stored
    :param children: the pages that wait for it, in their order
    :param folded: what remains of those that were over before it was settled, and the forms of its own among them
    :param forms: the forms of the children that earlier tries have sent; *left_out*: how many of each may still come again
    :param ticket: the ticket of its items; None if it has yielded none since its last clean state item
    """

    number: int
    request: bytes = b""
    priority: int = 0
    is_start: bool = False
    parent: Page | None = None
    by: Page | None = None
    known: bool = False
    stored: bool = False
    in_every_run: bool = False
    out: int = 1
    idle: int = 0
    sent: int = 0
    on_way: int = 0
    first_sent: bytes = b""
    open_children: int = 0
    over: bool = False
    hopeless: bool = False
    held: str = ""
    failures: Sequence[tuple[str, str]] = ()
    fingerprints: Sequence[bytes] = ()
    children: dict[Page, None] | None = None
    folded: Page | None = None
    forms: Sequence[str] = ()
    left_out: Counter[str] | None = None
    ticket: Ticket | None = None

    def yielded_request(self) -> None:
        """It yields a request. Scrapy may keep that in a queue before it reaches the scheduler."""
        self.sent += 1
        self.on_way += 1

    def request_arrived(self) -> None:
        """A request of it has reached the scheduler."""
        if self.on_way:
            self.on_way -= 1
        else:  # it was not yielded, but sent with engine.crawl()
            self.sent += 1

    def take_ticket(self) -> Ticket:
        """Return the ticket for one of its items."""
        if self.ticket is None:
            self.ticket = Ticket(Side(is_held=True, owner=self, failed=bool(self.held) or self.hopeless), 0)
        return self.ticket

    def leaves_out(self, encoded: bytes) -> bool:
        """Whether an earlier try of it (or an earlier run's ``start()``) has sent this request. Counts it.

        :param encoded: the request, or the fingerprint of one that can't be stored
        """
        if not self.left_out:
            return False
        form = form_of(encoded)
        if not self.left_out[form]:
            return False
        self.left_out[form] -= 1
        return True

    def skip(self, url: str, reason: str) -> None:
        """It has failed; what it has yielded is kept."""
        self.failures = with_one(self.failures, (url, reason))


@dataclass(slots=True)
class Waiting:
    """A known page that waits in the scheduler. There may be a million of them, so it is small."""

    number: int
    parent: Page | None = None


@dataclass
class Start:
    """What the next run's ``start()`` gets.

    :param state: what ``start()`` began with
    :param ended: whether it has yielded all, so that it gets the state of the checkpoint instead
    """

    state: dict[str, Any]
    ended: bool = False


def form_of(request: bytes) -> str:
    """Return the form of an encoded request: equal requests have equal forms."""
    return blake2b(request, digest_size=8).hexdigest()


def start_form_of(request: bytes) -> str:
    """Return the form that an encoded request, which a callback has sent, would have if ``start()`` sent it.

    Scrapy's middlewares mark requests of callbacks and of ``start()`` differently.
    """
    values = json.loads(request)
    if "headers" in values:
        values["headers"].pop("Referer", None)
        if not values["headers"]:
            del values["headers"]
    if "meta" in values:
        values["meta"].pop("depth", None)
        values["meta"]["is_start_request"] = True
    return form_of(json.dumps(values, separators=(",", ":")).encode())


def with_one(some: Sequence[T], one: T) -> list[T]:
    """Return *some* with *one* more. Most pages have none, so they share an empty tuple."""
    if isinstance(some, list):
        some.append(one)
        return some
    return [*some, one]
