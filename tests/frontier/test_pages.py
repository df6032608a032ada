"""The books about pages, against random histories with crashes. No Scrapy, no store."""

from __future__ import annotations

import gc
import random
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest

from scrapy_state.barrier.tickets import Side
from scrapy_state.frontier.books.page import Page, Start, Waiting, form_of
from scrapy_state.frontier.books.pages import Pages


@dataclass
class Stored:
    """What a reader of the segments knows at a cut, and the items that the checkpoints name."""

    pending: dict[int, bytes] = field(default_factory=dict)
    seen: set[bytes] = field(default_factory=set)
    forms: Counter[str] = field(default_factory=Counter)
    held: dict[int, list[str]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    start_ended: bool = False
    number: int = 0


class Log:
    """A journal that applies each change to what the next cut stores."""

    empty = False

    def __init__(self, stored: Stored) -> None:
        self.now = stored

    def add(self, page: int, priority: int, is_start: bool, request: bytes) -> None:
        assert page not in self.now.pending
        self.now.pending[page] = request

    def settle(self, page: int) -> None:
        del self.now.pending[page]
        self.now.held.pop(page, None)

    def saw(self, fingerprint: bytes) -> None:
        self.now.seen.add(fingerprint)

    def form(self, hash: str) -> None:
        self.now.forms[hash] += 1

    def forget_forms(self) -> None:
        self.now.forms.clear()

    def deaths(self, page: int, number: int) -> None: ...

    def failed(self, url: str, reason: str) -> None:
        self.now.failed.append(url)

    def held(self, page: int, reason: str, sent: list[str]) -> None:
        assert page in self.now.pending
        self.now.held[page] = sent


class Kept:
    """Keeps the items of pages."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.of: dict[Side, list[str]] = {}

    def hold(self, page: str, side: Side) -> None:
        if not side.failed:
            self.of.setdefault(side, []).append(page)

    def release(self, side: Side) -> None:
        self.stored.items += self.of.pop(side, [])

    def move(self, side: Side, to: Side) -> None:
        for page in self.of.pop(side, []):
            self.hold(page, to)

    def drop(self, side: Side) -> None:
        side.failed = True
        self.of.pop(side, None)


class Request:
    """A request for *page* of the site; *dont_filter*: as in Scrapy; *is_storable*: whether it can be encoded."""

    def __init__(self, page: str, dont_filter: bool = False, is_storable: bool = True) -> None:
        self.page, self.dont_filter, self.is_storable = page, dont_filter, is_storable

    @property
    def encoded(self) -> bytes:
        return f"{self.page} {self.dont_filter}".encode()

    @classmethod
    def decode(cls, data: bytes) -> Request:
        page, dont_filter = data.decode().split()
        return cls(page, dont_filter == "True")


class Site:
    """Pages that link to one another, made by chance. Every page gives two items.

    Some links are sent with dont_filter: those form trees, so that each such page has one parent only.

    :param is_deep: whether most links are, and many pages fail
    """

    def __init__(self, chance: random.Random, is_deep: bool = False) -> None:
        count = chance.randrange(2, 25)
        names = [f"p{number}" for number in range(count)]
        self.links: dict[str, list[Request]] = {name: [] for name in names}
        self.redirects: dict[str, str] = {}
        self.failing = {name for name in names if chance.random() < (0.3 if is_deep else 0.1)}
        dont_filter = 0.85 if is_deep else 0.35
        self.start = [Request(names[0])]
        for number, name in enumerate(names[1:], 1):
            parent = chance.choice(names[:number])
            kind = chance.random()
            request = Request(name, dont_filter=kind < dont_filter, is_storable=not 0.25 <= kind <= 0.4)
            (self.start if chance.random() < 0.2 else self.links[parent]).append(request)
            if not request.dont_filter:  # others link to it, too
                for other in chance.sample(names, chance.randrange(0, 2)):
                    self.links[other].append(Request(name))
            elif chance.random() < 0.3:
                self.redirects[name] = f"{name}-moved"
                self.links[f"{name}-moved"] = self.links[name]
        self.names = [name for name in self.links if name not in self.redirects]


class Crawl:
    """One run: a scheduler, an engine and a spider, whose steps happen in random order."""

    def __init__(self, site: Site, stored: Stored, chance: random.Random, policy: str) -> None:
        self.site, self.chance, self.policy = site, chance, policy
        self.now = deepcopy(stored)
        self.items = Kept(self.now)
        had_ended = stored.start_ended
        self.pages = Pages(
            Log(self.now), self.items, Start({}, had_ended), stored.number, len(stored.pending), stored.held,
            forms=stored.forms,
        )  # fmt: skip
        self.seen, self.had_ended = set(stored.seen), had_ended
        self.queue: list[Request] = []
        self.running: dict[Request, list[Any]] = {}
        self.to_start = list(site.start)
        self.has_started = False
        for number, data in stored.pending.items():
            request = Request.decode(data)
            if number in stored.held:
                self.pages.try_again(request, number, stored.held[number])
            else:
                self.pages.under_way.wait(request, Waiting(number))
            self.queue.append(request)

    @property
    def stored(self) -> Stored:
        found = deepcopy(self.now)
        found.start_ended, found.number = self.pages.start.ended, self.pages.number
        return found

    def send(self, request: Request, page: Page, is_start: bool = False, stand_in: bool = False) -> None:
        own = Request(request.page, request.dont_filter, request.is_storable)
        fingerprint = own.page.encode()
        is_part_of_start = is_start and not own.is_storable
        if is_part_of_start and page.leaves_out(fingerprint):
            return
        form = form_of(fingerprint) if is_part_of_start else ""
        if stand_in or not own.is_storable:
            if own.dont_filter or fingerprint not in self.seen:
                self.seen |= set() if own.dont_filter else {fingerprint}
                self.pages.join(own, page, b"" if own.dont_filter else fingerprint, form)
                self.queue.append(own)
            return
        if page.leaves_out(own.encoded) or (is_start and self.had_ended and fingerprint in self.seen):
            return
        if not own.dont_filter:
            if fingerprint in self.seen:
                return
            self.seen.add(fingerprint)
            self.pages.journal.saw(fingerprint)
        elif page is not self.pages.beginning:
            self.pages.add_unknown(own, own.encoded, 0, False, page)
            self.queue.append(own)
            return
        self.pages.under_way.wait(own, Waiting(self.pages.add_known(own.encoded, 0, is_start, page), page))
        self.queue.append(own)

    def step(self) -> bool:
        """Let something happen. Return whether anything was left to happen."""
        choices = [self.read_start] * (not self.has_started) + [self.download] * bool(self.queue)
        choices += [self.work] * bool(self.running)
        if choices:
            self.chance.choice(choices)()
        return bool(choices)

    def read_start(self) -> None:
        beginning = self.pages.beginning
        assert beginning is not None
        if self.to_start:
            self.send(self.to_start.pop(0), beginning, is_start=True)
        else:
            self.has_started = True
            self.pages.start_ended()

    def download(self) -> None:
        request = self.queue.pop(self.chance.randrange(len(self.queue)))
        page = self.pages.under_way.take(request)
        assert page is not None
        target = self.site.redirects.get(request.page)
        if target is not None:
            self.send(Request(target, dont_filter=True), page, stand_in=True)
            self.pages.end(request)
            return
        self.running[request] = ["item", "item", *self.site.links[request.page]]
        self.chance.shuffle(self.running[request])

    def work(self) -> None:
        request = self.chance.choice(list(self.running))
        page = self.pages.under_way.of(request)
        assert page is not None
        if request.page in self.site.failing and self.chance.random() < 0.3:
            self.fail(request, page)
            return
        if not self.running[request]:
            del self.running[request]
            self.pages.end(request)
            return
        output = self.running[request].pop()
        if output == "item":
            self.items.hold(request.page, page.take_ticket().side)
        else:
            self.send(output, page)

    def fail(self, request: Request, page: Page) -> None:
        if self.policy == "hold":
            self.pages.hold(page, "ValueError")
        else:
            page.skip(request.page, "ValueError")
            while self.running[request]:  # here it fails after its last output, so that the expected items are known
                self.work_off(request, page)
        del self.running[request]
        self.pages.end(request)

    def work_off(self, request: Request, page: Page) -> None:
        output = self.running[request].pop()
        if output == "item":
            self.items.hold(request.page, page.take_ticket().side)
        else:
            self.send(output, page)


def test_a_pending_page_keeps_the_crawl_from_being_over() -> None:
    """A known page that never came back from a queue is for the next run: the crawl is not over, whatever the engine says."""
    stored = Stored()
    pages = Pages(Log(stored), Kept(stored), Start({}))
    pages.add_known(b"request", 0, False, pages.beginning)
    pages.start_ended()
    assert pages.has_failed


@pytest.mark.parametrize("dont_filter", [False, True])
def test_a_chain_of_pages_leaves_memory(dont_filter: bool) -> None:
    """If each page is sent by the one before, as in a pagination, pages that are settled don't stay in memory."""
    stored = Stored()
    pages = Pages(Log(stored), Kept(stored), Start({}))
    page = pages.beginning
    assert page is not None
    before, previous = number_of_pages(), None
    for number in range(100):
        request = Request(str(number))
        page.yielded_request()
        if dont_filter:
            pages.add_unknown(request, request.encoded, 0, False, page)
        else:
            pages.under_way.wait(request, Waiting(pages.add_known(request.encoded, 0, False, page), page))
        page.request_arrived()
        if previous is None:
            pages.start_ended()
        else:
            pages.end(previous)
        taken = pages.under_way.take(request)
        assert taken is not None
        page, previous = taken, request
        page.take_ticket()
    assert list(stored.pending) == [page.number]
    assert number_of_pages() <= before + 3


def number_of_pages() -> int:
    gc.collect()
    return sum(isinstance(each, Page) for each in gc.get_objects())


def check(stored: Stored) -> None:
    """No page's items are there twice or in part, and no pending page has any."""
    counts = Counter(stored.items)
    assert set(counts.values()) <= {2}, counts
    assert not set(counts) & {Request.decode(data).page for data in stored.pending.values()}
    assert set(stored.held) <= set(stored.pending)


@pytest.mark.parametrize("is_deep", [False, True])
@pytest.mark.parametrize("policy", ["skip", "hold"])
@pytest.mark.parametrize("seeds", [range(start, start + 150) for start in range(0, 600, 150)], ids=lambda seeds: f"{seeds[0]}-")
def test_random_histories(policy: str, seeds: range, is_deep: bool) -> None:
    """Whatever happens in whatever order, with crashes and cuts at any moment: at each cut each page's items are there once or
    not at all, and in the end every page's items are there exactly once."""
    for seed in seeds:
        chance = random.Random(seed)
        site = Site(chance, is_deep)
        stored = Stored()
        for run in range(100):
            crawl = Crawl(site, stored, chance, policy)
            crash_at = chance.randrange(1, 60) if run < 8 else 10**9
            for step in range(10**6):
                if chance.random() < 0.2 and crawl.chance.random() < 0.5:
                    stored = crawl.stored
                    check(stored)
                if step == crash_at or not crawl.step():
                    break
            if step < crash_at:
                stored = crawl.stored
                check(stored)
                if not stored.pending and stored.start_ended:
                    break
                assert set(stored.held) == set(stored.pending), seed
                assert policy == "hold"
                assert crawl.pages.has_failed, seed
                if run > 8:
                    site.failing = set()
        assert not stored.pending, seed
        assert not crawl.pages.has_failed, seed
        assert Counter(stored.items) == dict.fromkeys(site.names, 2), seed
        assert stored.start_ended
