"""Incremental crawls: a request whose page gave items in an earlier crawl is not sent again. See docs/delta.md."""

from .delta import Delta

__all__ = ["Delta"]
