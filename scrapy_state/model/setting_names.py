"""The names of the STATE_* settings, and names that look like them. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

#: All names; the redis and delta folders read the STATE_REDIS_* and STATE_DELTA_* ones
KNOWN = (
    *("STATE", "STATE_ENABLED", "STATE_FROM", "STATE_AT", "STATE_LAG", "STATE_READONLY"),
    *("STATE_INTERVAL", "STATE_ON_ITEM_ERROR", "STATE_ON_UNIT_ERROR", "STATE_ORPHANS"),
    *("STATE_REQUESTS", "STATE_ON_PAGE_ERROR", "STATE_REQUESTS_ON_DISK", "STATE_ON_CRAWL_ERROR"),
    *("STATE_DELTA", "STATE_DELTA_RESET", "STATE_DELTA_MAX_AGE", "STATE_DELTA_START", "STATE_DELTA_ITEMS"),
    *("STATE_METRICS_FILE", "STATE_NOTIFY_URL", "STATE_NOTIFY_SECRET", "STATE_NOTIFY_ON"),
    *("STATE_SPOOL_SIZE", "STATE_RETRY_TIMEOUT", "STATE_CLOSE_TIMEOUT", "STATE_FALLBACK_ITEM_PROCESSOR"),
    *("STATE_FALLBACK_DOWNLOADER", "STATE_STORES", "STATE_REQUESTS_URI"),
    *("STATE_FILES", "STATE_FILES_INTERVAL", "STATE_FILES_MAX_SIZE", "STATE_FILES_DIR"),
    *("STATE_SELFCHECK", "STATE_REDIS_URL", "STATE_REDIS_KEY", "STATE_REDIS_LEASE_TIMEOUT", "STATE_REDIS_PREFETCH"),
    *("STATE_REDIS_KEEP_OPEN", "STATE_REDIS_ACKNOWLEDGE", "STATE_REDIS_FILTER_START", "STATE_REDIS_PICKLE"),
    *("STATE_REDIS_MAX_DELIVERIES", "STATE_REDIS_URLS_KEY", "STATE_REDIS_IDLE_TIMEOUT", "STATE_REDIS_CLEAR"),
)
#: A name with at least this many letters, not counting underscores, is misspelt if one letter is wrong: it is no other word.
_LONG_NAME_LETTERS = 12


def names_close_to_ours(names: Iterable[object]) -> Iterator[tuple[str, str]]:
    """Yield the name of each setting that is not ours but looks like one of ours, and the name that it looks like."""
    for name in names:
        if isinstance(name, str) and name.startswith("STATE") and name not in KNOWN:
            for near in difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.85):
                yield name, near


def doubtful_names(names: Iterable[object]) -> Iterator[tuple[str, str]]:
    """Yield those of :func:`names_close_to_ours` that may be a project's own; the others are errors."""
    return ((name, near) for name, near in names_close_to_ours(names) if not is_misspelt(name, near))


def is_misspelt(name: str, meant: str) -> bool:
    """Whether *name* can hardly be a project's own: it equals *meant*, or *meant* is long and a letter within it is wrong.

    STATES, STATE_PATH and STATE_ENABLE are words, and may be a project's own.
    """
    name, meant = name.replace("_", ""), meant.replace("_", "")
    return name == meant or (len(meant) >= _LONG_NAME_LETTERS and not _variants(name).isdisjoint(_variants(meant)))


def _variants(word: str) -> set[str]:
    """Return *word*, and *word* without one letter. Two words that differ in one letter, or swap two, share a variant."""
    return {word, *(word[:index] + word[index + 1 :] for index in range(len(word) - 1))}
