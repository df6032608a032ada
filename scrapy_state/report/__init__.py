"""One page for people who would rather look than read: how a crawl is, and how it came there. Knows no stores."""

from .html import render
from .page import Page
from .series import Series

__all__ = ["Page", "Series", "render"]
