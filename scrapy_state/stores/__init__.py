"""Stores, opened by URI scheme: S3 and the local disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from w3lib.url import file_uri_to_path

from ..exceptions import StateSettingsError
from ..keys import without_credentials
from . import s3
from .base import StoreReader, StoreWriter
from .local import LocalReader, LocalWriter, path_prefix

__all__ = ["StoreReader", "StoreWriter", "open_reader", "open_writer"]


def open_reader(uri: str, settings: Mapping[str, Any]) -> tuple[StoreReader, str]:
    """Return the read side of the store that *uri* lies in, and the key there. Does no input or output.

    :param uri: a whole URI or the beginning of one: ``s3://…``, ``file://…`` or a path
    :param settings: Scrapy's AWS_* settings are read from it
    :raises StateSettingsError: for another scheme
    """
    if _is_s3(uri):
        bucket, key = s3.split(uri)
        return s3.S3Reader(bucket, s3.S3Options.from_settings(settings, uri)), key
    return LocalReader(), _path(uri)


def open_writer(uri: str, settings: Mapping[str, Any]) -> tuple[StoreWriter, str]:
    """As :func:`open_reader`, with the write side."""
    if _is_s3(uri):
        bucket, key = s3.split(uri)
        acl = settings.get("FEED_STORAGE_S3_ACL")
        return s3.S3Writer(bucket, s3.S3Options.from_settings(settings, uri), acl), key
    return LocalWriter(), _path(uri)


def _is_s3(uri: str) -> bool:
    scheme = urlsplit(uri).scheme
    if scheme not in ("s3", "file", "") and len(scheme) > 1:  # one letter: a Windows drive
        raise StateSettingsError(f"no store for {without_credentials(uri)!r}: a state feed lies on s3://, file:// or a path")
    return scheme == "s3"


def _path(uri: str) -> str:
    if uri.startswith("file:"):
        # "#" and "?" end a path in a URI. Here they came in with a spider's name or argument, and belong to it, as on S3.
        uri = file_uri_to_path(uri.replace("#", "%23").replace("?", "%3F"))
    return path_prefix(uri)
