"""The middlewares and pipelines of a running crawl."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy.utils.deprecate import method_is_overridden

if TYPE_CHECKING:
    from scrapy.core.engine import ExecutionEngine
    from scrapy.crawler import Crawler


def components(engine: ExecutionEngine) -> list[Any]:
    """Return the spider middlewares, downloader middlewares and pipelines in use.

    MiddlewareManager.middlewares (scrapy/middleware.py) has them; a project's own downloader need not have a manager.
    """
    managers = (engine.scraper.spidermw, getattr(engine.downloader, "middleware", None), engine.scraper.itemproc)
    return [component for manager in managers for component in getattr(manager, "middlewares", ())]


def extensions(crawler: Crawler) -> list[Any]:
    """Return the extensions in use: those of Crawler.extensions (scrapy/crawler.py), an ExtensionManager."""
    return [*(crawler.extensions.middlewares if crawler.extensions is not None else ())]


def nearest_spider_middleware(engine: ExecutionEngine) -> Any:
    """Return the spider middleware nearest the engine: the first of MiddlewareManager.middlewares (scrapy/middleware.py)."""
    return engine.scraper.spidermw.middlewares[0]


def has_async(processor: Any, method: str) -> bool:
    """Return whether Scrapy would call the asynchronous form of *method* of the item processor *processor*.

    Decides as Scraper._check_deprecated_itemproc_method() does (scrapy/core/scraper.py).
    """
    from scrapy.pipelines import ItemPipelineManager

    return hasattr(processor, f"{method}_async") and not (
        isinstance(processor, ItemPipelineManager)
        and method_is_overridden(type(processor), ItemPipelineManager, method)
        and not method_is_overridden(type(processor), ItemPipelineManager, f"{method}_async")
    )
