"""The values of settings, checked: each function returns a value, or raises an error that names the setting. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..exceptions import StateSettingsError
from .times import in_seconds

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

_FROM = (
    'a URI template or prefix, as in FEEDS, or {"items": URI template or prefix, "state": {state key: item field}}, or '
    '{"log": URI}'
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[kMGT]i?B|)", re.IGNORECASE)
_UNITS = {"": 1, "b": 1} | {f"{letter}b": 1000**n for n, letter in enumerate("kmgt", 1)}
_UNITS |= {f"{letter}ib": 1024**n for n, letter in enumerate("kmgt", 1)}


def wrong_value(name: str, value: Any, expected: str) -> StateSettingsError:
    """Return the error for the setting *name*, which has *value* and must be what *expected* describes."""
    return StateSettingsError(f"{name} is {value!r}", remedy=f"it must be {expected}")


def get_bool(settings: BaseSettings, name: str, default: bool) -> bool:
    """Return the setting *name*, True or False, also as 1, 0 or text; *default* if it is None or not set.

    :raises StateSettingsError: if it is something else
    """
    try:
        return settings.getbool(name, default)
    except (TypeError, ValueError) as error:
        raise wrong_value(name, settings.get(name), "True or False") from error


def get_number(settings: BaseSettings, name: str, default: float, *, minimum: float = 0, expected: str = "a number") -> float:
    """Return the setting *name*, a finite number or text of one; *default* if it is None or not set.

    :param expected: what the error calls the number
    :raises StateSettingsError: if it is something else, or below *minimum*
    """
    value = settings.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not minimum <= number < float("inf"):
        raise wrong_value(name, value, f"{expected}, {minimum:g} or more")
    return number


def get_seconds(settings: BaseSettings, name: str, default: float) -> float:
    """As :func:`get_number`, for a length of time in seconds."""
    return get_number(settings, name, default, expected="a number of seconds")


def get_length_of_time(settings: BaseSettings, name: str) -> float | None:
    """Return the setting *name*, a number of seconds or text like "30d", in seconds; None if it is not set.

    :raises StateSettingsError: if it is something else
    """
    value = settings.get(name)
    if value is None or value == "":
        return None
    try:
        return in_seconds(value)
    except ValueError as error:
        raise wrong_value(name, value, 'a length of time, like "30d"') from error


def get_text(settings: BaseSettings, name: str, default: str = "") -> str:
    """Return the setting *name* as text; *default* if it is None or not set."""
    return str(settings.get(name, default))


def get_choice(settings: BaseSettings, name: str, default: str, *others: str) -> str:
    """Return the setting *name*, one of these texts; *default* if it is None or not set.

    :raises StateSettingsError: if it is something else
    """
    value = settings.get(name, default)
    if value not in (default, *others):
        raise wrong_value(name, value, " or ".join(f'"{choice}"' for choice in (default, *others)))
    return str(value)


def size_in_bytes(name: str, value: Any) -> int:
    """Return *value*, a number of bytes or text like "64MiB" or "1.5 GB", in bytes, at least 1.

    :param name: what the error calls it
    :raises StateSettingsError: if it is something else
    """
    match = _SIZE.fullmatch(str(value).strip())
    size = 0.0 if match is None or isinstance(value, bool) else float(match[1]) * _UNITS[match[2].lower()]
    if size < 1:
        raise wrong_value(name, value, 'a number of bytes, or text like "64MiB"')
    return int(size)


def from_json(name: str, value: Any, expected: str) -> dict[str, Any]:
    """Return *value*, a dict or JSON text of one (as on the command line), as a dict.

    :param expected: what the error says it must be
    :raises StateSettingsError: if it is something else
    """
    try:
        data = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise wrong_value(name, value, f"{expected}: {error}") from error
    if not isinstance(data, Mapping):
        raise wrong_value(name, value, expected)
    return dict(data)


def get_paths(settings: BaseSettings, name: str) -> tuple[str, ...]:
    """Return the setting *name*, a list of paths and globs, JSON text of one, or text with commas; empty if it is not set.

    :raises StateSettingsError: if it is something else
    """
    value = paths = settings.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):
            paths = json.loads(value)
    elif isinstance(value, str):
        paths = [path.strip() for path in value.split(",") if path.strip()]
    paths = () if paths is None else paths
    if not isinstance(paths, (list, tuple, set)) or not all(isinstance(path, (str, Path)) and str(path) for path in paths):
        raise wrong_value(name, value, "a list of paths and globs in the project's folder")
    return tuple(map(str, paths))


def get_folder(settings: BaseSettings, name: str) -> Path | None:
    """Return the setting *name*, the path of a folder; None if it is None, empty or not set.

    :raises StateSettingsError: if it is something else
    """
    value = settings.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, (str, Path)):
        raise wrong_value(name, value, "the path of a folder")
    return Path(value)


def get_source(settings: BaseSettings, name: str) -> str | dict[str, Any] | None:
    """Return the setting *name*: where checkpoints are, as text, or items or a log, as a dict; None if it is not set.

    :raises StateSettingsError: if it is something else
    """
    value = settings.get(name)
    if isinstance(value, Path) or (isinstance(value, str) and not value.lstrip().startswith("{")):
        return str(value) or None
    if value is None:
        return None
    # No message shows the value: its URI may contain credentials.
    if not isinstance(value, str):
        source = from_json(name, value, _FROM)
    else:
        try:
            source = json.loads(value)
        except ValueError as error:
            raise _wrong_source(name, f"is not JSON ({error})") from error
    if source.keys() not in ({"items", "state"}, {"log"}):
        raise _wrong_source(name, f"has {sorted(map(str, source))}")
    kind = "log" if "log" in source else "items"
    if not isinstance(source[kind], (str, Path)) or not str(source[kind]):
        raise _wrong_source(name, f"has no URI as its {kind!r}")
    fields = source.get("state", {"": ""})
    if not fields or not isinstance(fields, Mapping) or not all(isinstance(each, str) for each in (*fields, *fields.values())):
        raise _wrong_source(name, f"has {fields!r} as its 'state'")
    return {**source, kind: str(source[kind])}


def _wrong_source(name: str, problem: str) -> StateSettingsError:
    return StateSettingsError(f"{name} {problem}", remedy=f"it must be {_FROM}")


def get_http_url(settings: BaseSettings, name: str, secret: str) -> str | None:
    """Return the setting *name*, the URL of an HTTP server; None if it is not set.

    :param secret: the setting that must be there, too
    :raises StateSettingsError: if it is something else. The error shows no URL, which may be secret
    """
    value = settings.get(name)
    if value is None or value == "":
        return None
    try:
        parts = urlsplit(str(value))
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number
        is_url = False
    if not is_url:
        raise StateSettingsError(f"{name} is not a URL", remedy="it must begin with https:// or http://")
    if not settings.get(secret):
        raise StateSettingsError(f"{name} is set, and {secret} is not", remedy="set it to the key that signs messages")
    return str(value)
