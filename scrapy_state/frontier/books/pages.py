"""The books about pages: what is under way, what checkpoints may mention, and what is settled. Pure: knows no Scrapy.

A page is a request with all that follows from it: redirects and retries, its callback, its items. It is *open*, then *over*.
It is *known* once checkpoints may mention it, and *settled* once it is known and over. Then its items join those of the next
checkpoint, and the children that were waiting for it become known. docs/requests.md explains why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from ...barrier.tickets import Side
from .page import Items, Journal, Page, Start, form_of, start_form_of, with_one
from .under_way import UnderWay


class Pages:
    """The pages of one run.

    :param number: the number of the newest page
    :param pending: how many pages the segments have as pending
    :param held: the numbers of those that have failed, and that the next run tries again
    :param failed: how many pages of the crawl have failed and were skipped
    :param forms: the forms of the requests that ``start()`` has sent in earlier runs, how many of each
    :ivar under_way: which page each request belongs to
    """

    def __init__(
        self, journal: Journal, items: Items, start: Start, number: int = 0, pending: int = 0, held: Iterable[int] = (),
        failed: int = 0, forms: Mapping[str, int] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.journal = journal
        self.start = start
        self.number = number
        self.pending = pending
        self.held = set(held)
        self.failed = failed
        self._items = items
        #: how many pages are not settled, known or not; without start()
        self.open = pending
        self.under_way = UnderWay()
        #: where the next run would begin if it began anew: start(), or the page that has yielded the last clean state item.
        #: None once that is settled
        self.beginning: Page | None = Page(0, known=True, left_out=Counter(forms))
        self._start_forms = self.beginning.left_out

    @property
    def has_failed(self) -> bool:
        """Whether, now that nothing is under way, something has failed that the next run tries again."""
        return self.pending > 0 or bool(self.held) or self.beginning is not None

    # The requests of a page, on their way

    def add_known(self, encoded: bytes, priority: int, is_start: bool, parent: Page | None) -> int:
        """Begin a page that is known at once; return its number. Its request is for :attr:`under_way`, or the backlog."""
        self.number += 1
        self.journal.add(self.number, priority, is_start, encoded)
        self.pending += 1
        self._begun(parent, encoded)
        return self.number

    def try_again(self, request: Hashable, number: int, forms: Sequence[str]) -> None:
        """*request* waits in the scheduler; an earlier run has held its page, which had sent children of these *forms*."""
        self.under_way.wait(request, Page(number, known=True, stored=True, forms=forms, left_out=Counter(forms)))

    def add_unknown(self, request: Hashable, encoded: bytes, priority: int, is_start: bool, parent: Page) -> None:
        """Begin a page that becomes known once *parent* is settled. *request* waits in the scheduler."""
        self.number += 1
        page = Page(self.number, encoded, priority, is_start, parent, parent)
        parent.children = parent.children or {}
        parent.children[page] = None
        self._begun(parent, encoded)
        self.under_way.wait(request, page)

    def add_unstored(self, request: Hashable, in_every_run: bool = False) -> None:
        """Begin a page that can't be stored, and that no page has sent: it is lost if the process dies.

        :param in_every_run: whether each run sends it, so that it need not be stored
        """
        self.number += 1
        self._begun(None, b"")
        left_out = self._start_forms if in_every_run else None
        self.under_way.wait(request, Page(self.number, known=True, in_every_run=in_every_run, left_out=left_out))

    def join(self, request: Hashable, page: Page, fingerprint: bytes = b"", form: str = "") -> None:
        """Let *request* be a part of *page*: a stand-in, or a child that can't be stored.

        :param fingerprint: what becomes seen once *page* is settled; b"" for nothing
        :param form: the form of a child of ``start()``, by which the next run leaves it out once *page* is settled
        """
        page.out += 1
        self.under_way.wait(request, page)
        if fingerprint:
            page.fingerprints = with_one(page.fingerprints, fingerprint)
        if form:
            page.forms = with_one(page.forms, form)

    def end(self, request: Hashable) -> None:
        """The engine is done with *request*: its callback has ended, and its items have left the pipelines."""
        page = self.under_way.end(request)
        if page is not None:
            self.look(page)

    def start_ended(self) -> None:
        """``start()`` has yielded all."""
        if self.beginning is not None:  # number 0: a state item of another page is clean only once start() has ended
            self.beginning.out -= 1
            self.look(self.beginning)

    # How a page ends

    def hold(self, page: Page, reason: str) -> None:
        """*page* has failed; none of its items is kept, and the next run tries it again."""
        if page is self.beginning:
            self.leave_pending(page)
        elif not page.held:
            page.held = reason
            self._drop_items(page)

    def give_up(self, number: int, url: str, reason: str) -> None:
        """The page *number*, which waits outside the books, has failed for good."""
        self.failed += 1
        self.pending -= 1
        self.open -= 1
        self.held.discard(number)
        self.journal.failed(url, reason)
        self.journal.settle(number)

    def leave_pending(self, page: Page) -> None:
        """*page* can't be finished in this run, but has not failed: the next run begins it again."""
        page.hopeless = True
        self._drop_items(page)
        if page.folded is not None:
            page.folded.hopeless = True
            self._drop_items(page.folded)

    def release_all(self) -> list[Side]:
        """Keep the items of all pages, finished or not. Return their sides: some of the items may still be in the pipelines."""
        sides: list[Side] = []
        pages = self.under_way.pages()
        pages += [] if self.beginning is None else [self.beginning]
        while pages:
            page = pages.pop()
            pages += page.children or ()
            pages += [] if page.folded is None else [page.folded]
            if page.ticket is not None and not page.ticket.side.failed:
                self._items.release(page.ticket.side)
                sides.append(page.ticket.side)
                page.ticket = None
        return sides

    def _begun(self, parent: Page | None, encoded: bytes) -> None:
        self.open += 1
        if parent is None:
            return
        if not parent.open_children:
            parent.first_sent = encoded
        parent.open_children += 1
        if parent is self.beginning or parent.in_every_run:
            self.note_form(parent, encoded)

    def note_form(self, page: Page, encoded: bytes) -> None:
        """The next run's ``start()`` is not to send a request of *page* again."""
        is_clean = page is self.beginning and page.number  # it has yielded a clean state item, from which start() continues
        self.journal.form(partial(start_form_of, encoded) if is_clean else form_of(encoded))

    def look(self, page: Page) -> None:
        """See whether *page* is over, and what follows."""
        if page.out or page.over:
            return
        if page.ticket is not None and page.ticket.side.out:  # a pipeline has submitted items that it still processes
            page.ticket.side.when_settled = lambda: self.look(page)
            return
        self.under_way.over(page)
        if page.hopeless:
            return
        page.over = True
        if page.held:
            self._hold(page)
        elif page.known:
            self._settle(page)
        else:
            self._fold(page)

    def _settle(self, page: Page) -> None:
        if page is self.beginning:
            self.beginning = None
            self.start.ended = True
            for form in page.forms:
                self.journal.form(form)
        self._keep(page)
        self.keep_folded(page)
        self.forget(page)
        self._gone(page)
        self.let_children_go(page)

    def _keep(self, page: Page) -> None:
        """What has come of *page* counts from now on."""
        if page.ticket is not None:
            self._items.release(page.ticket.side)
        for fingerprint in page.fingerprints:
            self.journal.saw(fingerprint)
        for url, reason in page.failures:
            self.failed += 1
            self.journal.failed(url, reason)

    def keep_folded(self, page: Page) -> None:
        """What has come of the pages that *page* has taken in counts from now on."""
        folded, page.folded = page.folded, None
        if folded is not None:
            self._keep(folded)

    def _fold(self, page: Page) -> None:
        """*page* is over before it is known. It will be settled together with the page it waits for, so let that take it in."""
        by = page.by
        assert by is not None
        into = by.folded = by.folded or Page(0, hopeless=by.hopeless)
        if page.parent is by:
            into.forms = with_one(into.forms, form_of(page.request))
        for each in (page, page.folded):
            if each is not None:
                self._take_in(each, into)
        children = by.children or {}
        children.pop(page, None)
        for child in page.children or ():
            child.by = by
            children[child] = None
        by.children = children
        self._gone(page)

    def _take_in(self, page: Page, into: Page) -> None:
        if page.ticket is not None:
            self._items.move(page.ticket.side, into.take_ticket().side)
        for fingerprint in page.fingerprints:
            into.fingerprints = with_one(into.fingerprints, fingerprint)
        for failure in page.failures:
            into.failures = with_one(into.failures, failure)

    def _hold(self, page: Page) -> None:
        """*page* is for the next run; what it has sent is not. As long as nobody knows of it, that waits, too."""
        if page.known:
            self._note_held(page)
            self.let_children_go(page)

    def _note_held(self, page: Page) -> None:
        self.held.add(page.number)
        forms = [*page.forms, *(page.folded.forms if page.folded is not None else ())]
        forms += (form_of(child.request) for child in page.children or () if child.parent is page)
        if page.stored:  # otherwise each run sends it, or it can't be stored
            self.journal.held(page.number, page.held, forms)
        self.keep_folded(page)

    def let_children_go(self, page: Page) -> None:
        """The children that wait for *page* become known. None of them is over, unless it is held: it would be folded."""
        pages = [page]
        while pages:
            page = pages.pop()
            children, page.children = page.children, None
            for child in children or ():
                if child.held and child.over:
                    pages.append(child)
                self._let_go(child)

    def _let_go(self, child: Page) -> None:
        request, child.known, child.by = child.request, True, None
        self.journal.add(child.number, child.priority, child.is_start, request)
        self.pending += 1
        child.stored = True
        if child.held and child.over:
            self._note_held(child)
        child.request = b""

    def _drop_items(self, page: Page) -> None:
        if page.ticket is not None:
            self._items.drop(page.ticket.side)

    def forget(self, page: Page) -> None:
        """*page* is not pending any more."""
        if page.stored:
            page.stored = False
            self.pending -= 1
            self.held.discard(page.number)
            self.journal.settle(page.number)

    def _gone(self, page: Page) -> None:
        self.open -= bool(page.number)
        if page.parent is not None:
            page.parent.open_children -= 1
            page.parent = None  # or a chain of pages, each sent by the one before, would stay in memory
