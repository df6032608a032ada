"""The STATE_DELTA_* settings, read once per crawl."""

from __future__ import annotations

from dataclasses import dataclass

from scrapy.settings import BaseSettings

from ..exceptions import StateSettingsError
from ..model.values import get_bool, get_choice, get_length_of_time
from ..settings import is_explicit


@dataclass(frozen=True)
class DeltaSettings:
    """The settings of an incremental crawl.

    :param reset: STATE_DELTA_RESET, given for this run alone: whether to forget the earlier crawls
    :param max_age_seconds: STATE_DELTA_MAX_AGE: pages that gave items longer ago are crawled again; None: none are
    :param start: STATE_DELTA_START: whether requests of ``start()`` are left out, too
    :param items: STATE_DELTA_ITEMS: which items make a page known, "stored" ones or "all"
    """

    reset: bool
    max_age_seconds: float | None
    start: bool
    items: str

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> DeltaSettings:
        """Read them all.

        :raises StateSettingsError: if a value is of the wrong kind, or STATE_DELTA_RESET is not for this run alone
        """
        reset = get_bool(settings, "STATE_DELTA_RESET", False)
        if reset and not is_explicit(settings, "STATE_DELTA_RESET"):
            raise StateSettingsError(
                "STATE_DELTA_RESET is in the settings, where it would forget the earlier crawls at each start",
                remedy="remove it there, and give it for one run: -s STATE_DELTA_RESET=True",
            )
        return cls(
            reset=reset,
            max_age_seconds=get_length_of_time(settings, "STATE_DELTA_MAX_AGE"),
            start=get_bool(settings, "STATE_DELTA_START", True),
            items=get_choice(settings, "STATE_DELTA_ITEMS", "stored", "all"),
        )
