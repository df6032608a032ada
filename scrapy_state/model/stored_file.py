"""A file that a checkpoint names beside its item files, in a folder next to the state files. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: A name leads to no other folder: prune deletes what it names.
_NAME = re.compile(r"[^/\\.][^/\\]*")


@dataclass(frozen=True)
class StoredFile:
    """A file that never changes once it is stored.

    :param name: its name, without the folder
    :param bytes: its size
    :param digest: ``sha256:`` and the SHA-256 of its bytes, in hex
    """

    name: str
    bytes: int
    digest: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StoredFile:
        """Read the attributes as an object; raise KeyError, TypeError or ValueError for anything else."""
        file = cls(str(data["name"]), int(data["bytes"]), str(data["digest"]))
        if not _NAME.fullmatch(file.name):
            raise ValueError("name")
        return file
