"""The page of ``scrapy state report``: how a crawl is doing, and how it got there. Knows no stores."""

from .html import headline, render, troubles
from .page import FailedPage, Page
from .series import Series

__all__ = ["FailedPage", "Page", "Series", "headline", "render", "troubles"]
