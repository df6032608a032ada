"""Scrapy Cloud: which settings were typed into its web interface, and at which level."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..exceptions import StateSettingsError

#: From the widest to the narrowest, in the order in which the runner merges them
LEVELS = ("project_settings", "organization_settings", "spider_settings", "job_settings")


def typed(name: str, levels: tuple[str, ...] = LEVELS) -> Any:
    """Return what was typed as setting *name* on one of *levels*, the narrowest first; None outside Scrapy Cloud.

    The platform's runner (sh_scrapy/settings.py in the package scrapinghub-entrypoint-scrapy) gives every typed setting the
    priority of the command line if its value is text, and the priority of the project otherwise, whatever its level. So the
    priority does not tell what was typed for one job alone. The runner's input does: the variable SHUB_SETTINGS.

    Blocks only to read a local file, if the platform has put the settings into one.

    :raises StateSettingsError: if SHUB_SETTINGS can't be read
    """
    if not os.environ.get("SHUB_SETTINGS"):
        return None
    try:
        from sh_scrapy.env import decode_uri
    except ImportError:  # another runner
        return None
    try:
        by_level = decode_uri(envvar="SHUB_SETTINGS") or {}
    except (OSError, ValueError) as error:
        # The error's text is left out: the settings in it may be secret.
        problem = f"the environment variable SHUB_SETTINGS can't be read ({type(error).__name__})"
        raise StateSettingsError(problem, remedy="unset it if this is not Scrapy Cloud") from None
    candidates: list[Mapping[str, Any]] = [by_level.get(level) or {} for level in reversed(levels)]
    return next((settings[name] for settings in candidates if settings.get(name) is not None), None)
