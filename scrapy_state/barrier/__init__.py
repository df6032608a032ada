"""Which side of a barrier every item is on, from the spider to the exporter."""

from .item_processor import BarrierItemProcessor
from .middleware import StateMiddleware

__all__ = ["BarrierItemProcessor", "StateMiddleware"]
