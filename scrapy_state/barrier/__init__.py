"""Barriers in the stream of items: the tickets that say on which side each item is, and what the parts of a crawl share."""

from .item_processor import BarrierItemProcessor
from .middleware import StateMiddleware

__all__ = ["BarrierItemProcessor", "StateMiddleware"]
