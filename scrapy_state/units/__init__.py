"""Units: which requests and items belong together, and up to which unit all are done (docs/units.md)."""

from .watermark import what_is_missing

__all__ = ["what_is_missing"]
