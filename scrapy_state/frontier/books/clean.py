"""Clean state items: places to resume from with the state alone. Pure."""

from __future__ import annotations

from typing import Any

from ...barrier.tickets import Side
from .page import Page, Start
from .pages import Pages


def begin_anew(pages: Pages, page: Page, state: dict[str, Any]) -> list[Side] | None:
    """*page* has yielded *state*. If that is clean, the next run would begin with it from here on.

    It is clean if nothing else is under way now, and *page* has sent one request at most.

    :returns: the sides of all items that have been yielded before it; None if it is not clean
    """
    beginning, ending = pages.beginning, _ending(pages)
    if not (_is_alone(pages, page, ending) and (beginning in (None, page) or _only_items(beginning))):
        return None
    pages.start = Start(state)
    ended = ending - {page}
    if beginning is not None and beginning is not page:
        ended.add(beginning)
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


def _is_alone(pages: Pages, page: Page, ending: set[Page]) -> bool:
    """Whether nothing is open but *page*, one page that it has sent at most, and the pages that are *ending*."""
    if not page.open_children <= page.sent <= 1:
        return False
    others = pages.open - bool(page.number) - (len(ending) - (page in ending))
    return others == page.open_children - sum(each.parent is page for each in ending)


def _ending(pages: Pages) -> set[Page]:
    """Return the known pages of which only items are left, in the pipelines."""
    return {page for page in pages.under_way.idle_pages() if page.known and page.number and _only_items(page)}


def _only_items(page: Page) -> bool:
    return page.out == page.idle and not (page.children or page.on_way)
