"""Segments: the files with a crawl's requests. Their format, and where they are stored."""

from .merging import merge, to_merge
from .segment import OpenSegment, Target, read_lines, read_segments

__all__ = ["OpenSegment", "Target", "merge", "read_lines", "read_segments", "to_merge"]
