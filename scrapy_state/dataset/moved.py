"""Where item files are now, if someone has moved them since a checkpoint named them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..exceptions import StateSettingsError
from ..model.item_file import ItemFile


class Moved:
    """The new URIs of item files that someone has moved.

    :param pairs: ``OLD=NEW`` texts: a URI that began with OLD begins with NEW now. Either may be a path
    :raises StateSettingsError: if a text has no ``=``
    """

    def __init__(self, pairs: Sequence[str]) -> None:
        self._pairs = [_pair(text) for text in pairs]

    def uri(self, uri: str) -> str:
        """Return the URI at which the file *uri* is now."""
        return next((new + uri[len(old) :] for old, new in self._pairs if uri.startswith(old)), uri)

    def file(self, file: ItemFile) -> ItemFile:
        """Return *file* with the URI at which it is now."""
        return replace(file, uri=self.uri(file.uri)) if self._pairs else file


def _pair(text: str) -> tuple[str, str]:
    # URIs may contain "=" (dt=2026-11-20/), so split where the rest looks like a URI or a path.
    signs = [at for at, sign in enumerate(text) if sign == "="]
    at = next((at for at in signs if text[at + 1 :].startswith(("/", ".")) or "://" in text[at + 1 :]), (signs or [0])[0])
    if not at:
        raise StateSettingsError(f"--map {text!r} is not OLD=NEW", remedy="write it as in s3://bucket/items/=/mnt/items/")
    return _as_uri(text[:at]), _as_uri(text[at + 1 :])


def _as_uri(text: str) -> str:
    if "://" in text:
        return text
    return Path(text).absolute().as_uri() + ("/" if text.endswith("/") else "")
