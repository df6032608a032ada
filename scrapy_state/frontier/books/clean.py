"""Clean state items: places to resume from with the state alone. Pure."""

from __future__ import annotations

from typing import Any

from ...barrier.tickets import Side
from .page import Page, Start
from .pages import Pages


def is_clean(pages: Pages, page: Page) -> bool:
    """Whether a state item of *page* is clean now: nothing else is under way, and *page* has sent one request at most."""
    if not page.open_children <= page.sent <= 1 or not (pages.beginning in (None, page) or _only_items(pages.beginning)):
        return False
    ending = _ending(pages)
    others = pages.open - bool(page.number) - (len(ending) - (page in ending))
    return others == page.open_children - sum(each.parent is page for each in ending)


def _ending(pages: Pages) -> set[Page]:
    """Return the known pages of which only items are left, in the pipelines."""
    return {page for page in pages.under_way.idle_pages() if page.known and page.number and _only_items(page)}


def _only_items(page: Page) -> bool:
    return page.out == page.idle and not (page.children or page.on_way)


def begin_anew(pages: Pages, page: Page, state: dict[str, Any]) -> list[Side]:
    """*page* has yielded a clean state item: from here on the next run would begin with its *state*.

    :returns: the sides of all items that have been yielded before it
    """
    pages.start = Start(state)
    ended = _ending(pages) - {page}
    if pages.beginning is not None and pages.beginning is not page:
        ended.add(pages.beginning)
    pages.beginning = page
    pages.journal.forget_forms()
    if page.open_children:
        pages.note_form(page, page.first_sent)
    pages.forget(page)
    pages.keep_folded(page)
    pages.let_children_go(page)
    page.left_out, page.sent, page.first_sent = None, 0, b""
    tickets = [each.ticket for each in (page, *ended)]
    page.ticket = None
    for other in ended:
        other.ticket = None
        pages.forget(other)
        pages.look(other)
    return [ticket.side for ticket in tickets if ticket is not None]
