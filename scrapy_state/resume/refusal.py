"""Why a crawl must not start: kept until the item processor can log it in one line, without a traceback."""

from __future__ import annotations

from scrapy.crawler import Crawler

from ..exceptions import StateError
from ..settings import ITEM_PROCESSOR, names_class


def refuse(crawler: Crawler, error: StateError) -> None:
    """Let BarrierItemProcessor refuse to start because of *error*; the first error counts.

    :raises StateError: *error*, if that processor is not in use
    """
    if not names_class(crawler.settings["ITEM_PROCESSOR"], ITEM_PROCESSOR):
        raise error
    set_refusal(crawler, error)


def set_refusal(crawler: Crawler, error: StateError) -> None:
    """Note that *crawler* must not start, so that it stores nothing; the first error counts."""
    vars(crawler).setdefault("_scrapy_state_refusal", error)


def get_refusal(crawler: Crawler) -> StateError | None:
    """Return why *crawler* must not start; None if it may."""
    error: StateError | None = vars(crawler).get("_scrapy_state_refusal")
    return error
