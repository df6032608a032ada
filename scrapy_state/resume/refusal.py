"""Why a crawl must not start: kept until the item processor can say so in one line, without a trace."""

from __future__ import annotations

from scrapy.crawler import Crawler

from ..exceptions import StateError
from ..settings import ITEM_PROCESSOR, names_class


def refuse(crawler: Crawler, error: StateError) -> None:
    """Have BarrierItemProcessor refuse to start because of *error*; the first one counts.

    :raises StateError: *error*, where that processor is not in place
    """
    if not names_class(crawler.settings["ITEM_PROCESSOR"], ITEM_PROCESSOR):
        raise error
    set_refusal(crawler, error)


def set_refusal(crawler: Crawler, error: StateError) -> None:
    """Note that *crawler* does not start, so that nothing of it is stored; the first one counts."""
    vars(crawler).setdefault("_scrapy_state_refusal", error)


def get_refusal(crawler: Crawler) -> StateError | None:
    """Return why *crawler* must not start; None: it may."""
    found: StateError | None = vars(crawler).get("_scrapy_state_refusal")
    return found
