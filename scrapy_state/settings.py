"""The STATE_* settings: names, defaults, units, checks. :func:`get_settings` reads them once per crawl."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy.settings import SETTINGS_PRIORITIES, BaseSettings
from scrapy.utils.misc import load_object

from .exceptions import StateSettingsError
from .model.json_values import json_object
from .model.setting_names import is_misspelt, names_close_to_ours
from .model.times import in_seconds, parse_time
from .model.values import from_json, get_bool, get_choice, get_http_url, get_seconds, get_source, size_in_bytes, wrong_value
from .scrapy_internals import typed

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

#: The values of the settings ITEM_PROCESSOR and DOWNLOADER when the add-on is enabled
ITEM_PROCESSOR = "scrapy_state.barrier.BarrierItemProcessor"
DOWNLOADER = "scrapy_state.downloader.TrackingDownloader"
#: The crawler's attribute that keeps them
_ATTRIBUTE = "_scrapy_state_settings"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)?")
_STORES = "a dict (or JSON text), URI scheme -> import path of a store, or None"
_STATE = "a JSON object, as in -s STATE='{\"t\": 1}'"


@dataclass(frozen=True)
class StateSettings:
    """The settings of scrapy_state for one crawl.

    :param state: STATE, a JSON object: where to start
    :param state_priority: the priority of STATE, None if STATE was not given
    :param explicit: whether STATE was given for this run alone (on the command line; on Scrapy Cloud in the job's own
        settings), so that it takes precedence over every checkpoint
    :param enabled: STATE_ENABLED
    :param read_from: STATE_FROM: a URI template or prefix, or the dict that :func:`scrapy_state.resume.sources.find` takes;
        None: read the state feed
    :param at: STATE_AT, which checkpoint: "latest", "none", an id (1 and up), -n along the lineage, a time with its zone
    :param at_explicit: whether STATE_AT was given on the command line
    :param lag: STATE_LAG: field of the state -> how much to subtract, a number, or seconds from a date-time
    :param readonly: STATE_READONLY
    :param interval_seconds: STATE_INTERVAL, the shortest time between two cuts; 0: cut at every state item, unless a commit
        is under way
    :param on_item_error: STATE_ON_ITEM_ERROR, "stop" or "skip"
    :param on_unit_error: STATE_ON_UNIT_ERROR: "hold" (the state stays before a failed unit), "skip" (it passes the unit) or
        "stop"
    :param requests: STATE_REQUESTS: whether checkpoints contain the requests that are not done
    :param requests_explicit: whether STATE_REQUESTS was given on the command line
    :param requests_on_disk: STATE_REQUESTS_ON_DISK: whether most pending requests are kept in a temporary file
    :param on_page_error: STATE_ON_PAGE_ERROR: "skip" (a failed page counts as done), "hold" (the next run tries it again) or
        "stop"
    :param on_crawl_error: STATE_ON_CRAWL_ERROR, "ignore" or "fail": what a crawl is whose every request, or whose ``start()``,
        has failed
    :param orphans: STATE_ORPHANS, "keep" or "delete": what to do with item files of a killed run that no checkpoint names
    :param spool_bytes: STATE_SPOOL_SIZE, the limit on the local disk for open batches and batches that wait for upload
    :param retry_seconds: STATE_RETRY_TIMEOUT, for how long a failed upload is retried
    :param close_seconds: STATE_CLOSE_TIMEOUT, the same while the crawl is closing; after a signal, how long uploads may take
    :param selfcheck: STATE_SELFCHECK, whether to try out the request queues before the first request
    :param requests_uri: STATE_REQUESTS_URI, a URI template: the folder with the segments; None: next to the state files
    :param metrics_file: STATE_METRICS_FILE, the path of the file for Prometheus; "%(name)s" in it is the spider's name
    :param notify_url: STATE_NOTIFY_URL, where to send messages about checkpoints; *notify_secret*: STATE_NOTIFY_SECRET
    :param notify_on: STATE_NOTIFY_ON, "checkpoint" (a message about each) or "end" (only about the last one of a run)
    :param fallback_item_processor: STATE_FALLBACK_ITEM_PROCESSOR, the one the project would have without scrapy_state
    :param fallback_downloader: STATE_FALLBACK_DOWNLOADER, likewise
    """

    state: dict[str, Any]
    state_priority: int | None
    explicit: bool
    enabled: bool
    read_from: str | dict[str, Any] | None
    at: str | int | datetime
    at_explicit: bool
    lag: Mapping[str, float]
    readonly: bool
    interval_seconds: float
    on_item_error: str
    on_unit_error: str
    requests: bool
    requests_explicit: bool
    requests_on_disk: bool
    on_page_error: str
    on_crawl_error: str
    orphans: str
    spool_bytes: int
    retry_seconds: float
    close_seconds: float
    selfcheck: bool
    requests_uri: str | None
    metrics_file: str | None
    notify_url: str | None
    notify_secret: str
    notify_on: str
    fallback_item_processor: Any
    fallback_downloader: Any

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> StateSettings:
        """Read them all. Where there is a crawler, call :func:`get_settings` instead.

        :raises StateSettingsError: if a value is of the wrong kind, or the name of a STATE_* setting is misspelt
        """
        _check_names(settings)
        stores_by_scheme(settings)
        state = _state(settings)
        return cls(
            state={} if state is None else state,
            state_priority=None if state is None else settings.getpriority("STATE"),
            explicit=state is not None and _is_explicit(settings),
            enabled=get_bool(settings, "STATE_ENABLED", True),
            read_from=get_source(settings, "STATE_FROM"),
            at=_at(settings.get("STATE_AT", "latest")),
            at_explicit=_is_cmdline(settings, "STATE_AT"),
            lag=_lag(settings),
            readonly=get_bool(settings, "STATE_READONLY", False),
            interval_seconds=get_seconds(settings, "STATE_INTERVAL", 60),
            on_item_error=get_choice(settings, "STATE_ON_ITEM_ERROR", "stop", "skip"),
            on_unit_error=get_choice(settings, "STATE_ON_UNIT_ERROR", "hold", "skip", "stop"),
            requests=get_bool(settings, "STATE_REQUESTS", True),
            requests_explicit=_is_cmdline(settings, "STATE_REQUESTS"),
            requests_on_disk=get_bool(settings, "STATE_REQUESTS_ON_DISK", False),
            on_page_error=get_choice(settings, "STATE_ON_PAGE_ERROR", "skip", "hold", "stop"),
            on_crawl_error=get_choice(settings, "STATE_ON_CRAWL_ERROR", "ignore", "fail"),
            orphans=get_choice(settings, "STATE_ORPHANS", "keep", "delete"),
            spool_bytes=size_in_bytes("STATE_SPOOL_SIZE", settings.get("STATE_SPOOL_SIZE", "512MiB")),
            retry_seconds=get_seconds(settings, "STATE_RETRY_TIMEOUT", 900),
            close_seconds=get_seconds(settings, "STATE_CLOSE_TIMEOUT", 25),
            selfcheck=get_bool(settings, "STATE_SELFCHECK", True),
            requests_uri=folder_uri(settings, "STATE_REQUESTS_URI"),
            metrics_file=str(settings.get("STATE_METRICS_FILE") or "") or None,
            notify_url=get_http_url(settings, "STATE_NOTIFY_URL", secret="STATE_NOTIFY_SECRET"),
            notify_secret=str(settings.get("STATE_NOTIFY_SECRET") or ""),
            notify_on=get_choice(settings, "STATE_NOTIFY_ON", "checkpoint", "end"),
            fallback_item_processor=_fallback(settings, "STATE_FALLBACK_ITEM_PROCESSOR", ITEM_PROCESSOR),
            fallback_downloader=_fallback(settings, "STATE_FALLBACK_DOWNLOADER", DOWNLOADER),
        )


def get_settings(crawler: Crawler) -> StateSettings:
    """Return the STATE_* settings of *crawler*. The first call reads them; all later ones return the same object.

    :raises StateSettingsError: as :meth:`StateSettings.from_settings`
    """
    attributes = vars(crawler)
    if _ATTRIBUTE not in attributes:
        attributes[_ATTRIBUTE] = StateSettings.from_settings(crawler.settings)
    settings: StateSettings = attributes[_ATTRIBUTE]
    return settings


def set_state(settings: BaseSettings, state: dict[str, Any]) -> None:
    """Set STATE to *state*. It keeps its priority, or gets that of an add-on if its own is lower."""
    settings.set("STATE", state, priority=max(settings.getpriority("STATE") or 0, SETTINGS_PRIORITIES["addon"]))


def names_class(value: Any, ours: str | type) -> bool:
    """Whether *value*, an object or its import path, is *ours* or a subclass of it. False if it can't be loaded.

    *ours* may be a function, too: then only the function itself counts.
    """
    try:
        loaded = load_object(value)
    except (ImportError, NameError, TypeError, ValueError):
        return False  # Scrapy reports it.
    wanted = load_object(ours)
    return loaded is wanted or (isinstance(loaded, type) and isinstance(wanted, type) and issubclass(loaded, wanted))


def stores_by_scheme(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return STATE_STORES: URI scheme ("" for paths) -> a store, its import path, or None to have no store for the scheme.

    :raises StateSettingsError: for a value of the wrong kind
    """
    value = settings.get("STATE_STORES")
    if value is None or value == "":
        return {}
    stores = from_json("STATE_STORES", value, _STORES)
    if not all(isinstance(scheme, str) and _SCHEME.fullmatch(scheme) for scheme in stores):
        raise wrong_value("STATE_STORES", value, f"{_STORES}; a scheme is the part before the colon, in lower case")
    return stores


def folder_uri(settings: BaseSettings, name: str) -> str | None:
    """Return the setting *name*, a URI (template) or path of a folder, with a slash at its end; None if it is not set.

    :raises StateSettingsError: for a value of the wrong kind
    """
    value = settings.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, (str, Path)):
        raise wrong_value(name, value, "a folder's URI, as in FEEDS, or a path")
    return f"{str(value).rstrip('/')}/"


def _check_names(settings: BaseSettings) -> None:
    for name, near in names_close_to_ours(settings):
        if is_misspelt(name, near):
            raise StateSettingsError(
                f"there is no setting {name}", remedy=f"correct the name if you meant {near}, else remove it"
            )


def _state(settings: BaseSettings) -> dict[str, Any] | None:
    return _object(settings, "STATE", _STATE)


def _lag(settings: BaseSettings) -> dict[str, float]:
    expected = 'a JSON object of lengths of time, or of numbers, 0 or more, as in {"t": "1h"} or {"page": 3}'
    lag = _object(settings, "STATE_LAG", expected) or {}
    try:
        return {field: in_seconds(value) for field, value in lag.items()}
    except ValueError as error:
        raise wrong_value("STATE_LAG", lag, expected) from error


def _at(value: Any) -> str | int | datetime:
    text = "" if value is None else str(value).strip()
    if text in ("latest", "none", ""):
        return text or "latest"
    if re.fullmatch(r"-?0*[1-9][0-9]*", text):
        return int(text)
    time = parse_time(text)
    if time is None:
        expected = '"latest", "none", an id, -n for n checkpoints back, or a time like 2026-11-20T10:00 (UTC) or …T10:00+02:00'
        raise wrong_value("STATE_AT", value, expected)
    return time


def _object(settings: BaseSettings, name: str, expected: str) -> dict[str, Any] | None:
    value = settings.get(name)
    if not _is_cmdline(settings, name):
        # Scrapy Cloud gives an object typed in the job's settings the project's priority, so custom_settings would hide it.
        in_job = typed(name, ("job_settings",))
        value = value if in_job is None else in_job
    if isinstance(value, BaseSettings):
        value = value.copy_to_dict()
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return json_object(json.loads(value) if isinstance(value, str) else value, "it")
    except (TypeError, ValueError) as error:
        raise wrong_value(name, value, f"{expected}: {error}") from error


def _is_explicit(settings: BaseSettings) -> bool:
    if typed("STATE", ("job_settings",)) is not None:
        return True
    # Scrapy Cloud gives text that was typed for all jobs the command line's priority, too. It counts as explicit only if its
    # value differs: then a script has run `scrapy crawl -s STATE=…`.
    return _is_cmdline(settings, "STATE") and settings.get("STATE") != typed("STATE")


def _is_cmdline(settings: BaseSettings, name: str) -> bool:
    return (settings.getpriority(name) or 0) >= SETTINGS_PRIORITIES["cmdline"]


def _fallback(settings: BaseSettings, name: str, ours: str) -> Any:
    value = settings.get(name)
    if value is not None and names_class(value, ours):
        raise wrong_value(name, value, "what the project would have without scrapy_state; leave it out for Scrapy's own")
    return value
