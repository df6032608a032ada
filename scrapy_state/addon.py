"""The add-on: what it changes in the settings, and nothing else.

This module imports nothing that an older Scrapy might lack, so that the add-on can ask for a newer one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import scrapy
from packaging.version import Version
from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object

from .exceptions import StateSettingsError

if TYPE_CHECKING:
    from scrapy.settings import Settings

    from .settings import StateSettings

logger = logging.getLogger("scrapy_state.state")
_NEEDED = "2.15.2"
_MIDDLEWARE = "scrapy_state.barrier.StateMiddleware"
#: Nearer the engine than any other middleware: Scrapy Cloud's DiskQuotaSpiderMiddleware has -10001
_NEAREST = -100_000
_RESOLVER = "scrapy_state.extension.StateResolver"
_SCHEDULER = "scrapy_state.frontier.Scheduler"
_SELFCHECK = "scrapy_state.selfcheck.SelfCheck"
_EXPORTER = "scrapy_state.feedexport.CheckpointFeedExporter"


class Addon:
    """``ADDONS = {"scrapy_state.Addon": 500}`` and FEEDS are the whole set-up. docs/setup.md lists what the add-on changes."""

    def update_settings(self, settings: Settings) -> None:
        """Put scrapy_state's components into the settings.

        :raises StateSettingsError: if Scrapy is too old, or the project has a FeedExporter of its own
        """
        if Version(scrapy.__version__) < Version(_NEEDED):
            raise StateSettingsError(
                f"scrapy_state needs Scrapy {_NEEDED} or later, not {scrapy.__version__}",
                remedy=f"pip install -U 'scrapy>={_NEEDED}'",
            )
        settings.setdefault_in_component_priority_dict("SPIDER_MIDDLEWARES", load_object(_MIDDLEWARE), _NEAREST)
        values = _values(settings)
        is_enabled = values is None or values.enabled
        _set_exporter(settings, is_enabled)
        _set_resolver(settings)
        settings.setdefault_in_component_priority_dict("EXTENSIONS", load_object(_SELFCHECK), 10)
        if values is not None:
            _set_scheduler(settings, values)
        if is_enabled:
            from .settings import DOWNLOADER, ITEM_PROCESSOR

            _put_around(settings, "ITEM_PROCESSOR", ITEM_PROCESSOR)
            _put_around(settings, "DOWNLOADER", DOWNLOADER)


def _put_around(settings: BaseSettings, name: str, ours: str) -> None:
    """Set *name* to *ours*, and STATE_FALLBACK_… to what it was, both at the priority of *name*.

    An add-on's own priority would be too low: the project's is above it.
    """
    from .settings import names_class

    if not names_class(settings[name], ours):
        priority = settings.getpriority(name) or 0
        settings.set(f"STATE_FALLBACK_{name}", settings[name], priority=priority)
        settings.set(name, ours, priority=priority)


def _set_exporter(settings: BaseSettings, is_enabled: bool) -> None:
    """Replace FeedExporter by CheckpointFeedExporter, unless EXTENSIONS has a subclass of that already."""
    from scrapy.extensions.feedexport import FeedExporter

    ours = load_object(_EXPORTER)
    for component, order in settings.get_component_priority_dict_with_base("EXTENSIONS").items():
        cls = load_object(component)
        if not isinstance(cls, type) or not issubclass(cls, FeedExporter):
            continue
        if cls is FeedExporter:
            settings.set_in_component_priority_dict("EXTENSIONS", FeedExporter, None)
            settings.set_in_component_priority_dict("EXTENSIONS", ours, order)
        elif not issubclass(cls, ours) and is_enabled:
            raise StateSettingsError(
                f"EXTENSIONS has {cls.__module__}.{cls.__qualname__}, a FeedExporter of the project's own: with a second "
                "exporter, both would write the feeds, and scrapy_state could not know which items are stored",
                remedy="derive it from scrapy_state.feedexport.CheckpointFeedExporter, or set STATE_ENABLED = False",
            )


def _set_resolver(settings: BaseSettings) -> None:
    """Enable StateResolver, unless EXTENSIONS has a subclass of SpiderSettingsState already."""
    from .extension import SpiderSettingsState

    for component in settings.get_component_priority_dict_with_base("EXTENSIONS"):
        cls = load_object(component)
        if isinstance(cls, type) and issubclass(cls, SpiderSettingsState):
            return
    # After the built-in extensions (0), because their SpiderState sets spider.state, too; before the project's own.
    settings.set_in_component_priority_dict("EXTENSIONS", load_object(_RESOLVER), 10)


def _set_scheduler(settings: BaseSettings, values: StateSettings) -> None:
    """Keep the requests in the checkpoints, if there are any: replace Scrapy's own scheduler, and no other."""
    from scrapy.core.scheduler import Scheduler

    from .feeds import StateFeed

    try:
        has_checkpoints = StateFeed.from_settings(settings) is not None or values.read_from is not None
    except StateSettingsError:
        return  # The item processor will report the error, in one line.
    if not (values.enabled and values.requests and has_checkpoints):
        return
    current = load_object(settings["SCHEDULER"])
    if current is Scheduler:
        settings.set("SCHEDULER", _SCHEDULER, priority=settings.getpriority("SCHEDULER") or 0)
    elif not hasattr(current, "keeps_pages") and not hasattr(current, "needs_durable_items"):
        logger.info(
            "SCHEDULER is %s, so checkpoints contain no requests: only state items and units count", current.__qualname__
        )


def _values(settings: BaseSettings) -> StateSettings | None:
    """Return the STATE_* settings; None if one can't be used. The item processor will report the error, in one line."""
    from .settings import StateSettings

    try:
        return StateSettings.from_settings(settings)
    except StateSettingsError:
        return None
