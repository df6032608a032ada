"""Local files that are replaced while others read them."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Write *text* to *path* in one step: whoever reads it sees the old file or the new one. Blocks.

    :raises OSError: if that is impossible
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")  # the collectors of Prometheus read names that end in .prom
    try:
        beside.write_text(text, "utf-8")
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
