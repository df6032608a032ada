"""What was typed on Scrapy Cloud, and at which level.

That platform's runner (package scrapinghub-entrypoint-scrapy, sh_scrapy/settings.py) gives every setting that was typed
there, at whatever level, the command line's priority if it is text, and the project's if it is an object. So priorities
don't tell what was given for one job alone; what the runner started from does: the variable SHUB_SETTINGS.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .exceptions import StateSettingsError

#: From the widest to the narrowest, as the runner merges them
LEVELS = ("project_settings", "organization_settings", "spider_settings", "job_settings")


def typed(name: str, levels: tuple[str, ...] = LEVELS) -> Any:
    """Return what was typed as setting *name* on one of *levels*, the narrowest first; None elsewhere than on Scrapy Cloud.

    Only a file is read, if the platform has put the settings into one.

    :raises StateSettingsError: if what the platform says can't be read
    """
    if not os.environ.get("SHUB_SETTINGS"):
        return None
    try:
        from sh_scrapy.env import decode_uri
    except ImportError:  # not that runner
        return None
    try:
        found = decode_uri(envvar="SHUB_SETTINGS") or {}
    except (OSError, ValueError) as error:
        # Without its text: the settings in it may be secret.
        problem = f"the environment variable SHUB_SETTINGS can't be read ({type(error).__name__})"
        raise StateSettingsError(f"{problem}: unset it if this is not Scrapy Cloud") from None
    settings: list[Mapping[str, Any]] = [found.get(level) or {} for level in reversed(levels)]
    return next((each[name] for each in settings if each.get(name) is not None), None)
