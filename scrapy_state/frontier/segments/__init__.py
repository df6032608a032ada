"""Segments: the files with a crawl's requests. Their format, and where they are stored."""

from .merging import merge, to_merge
from .reading import Target, read_lines, read_segments
from .segment import OpenSegment

__all__ = ["OpenSegment", "Target", "merge", "read_lines", "read_segments", "to_merge"]
