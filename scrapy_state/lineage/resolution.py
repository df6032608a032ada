"""What was found under a prefix, and what STATE_AT asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from ..model.checkpoint import Checkpoint
from ..model.key_template import KeyTemplate

#: What STATE_AT says: "latest", "none", an id (1 and up), -n along the lineage, or a time with its zone
At: TypeAlias = "str | int | datetime"


@dataclass(frozen=True)
class Resolution:
    """What was found under a prefix.

    :param checkpoint: the checkpoint to start from, with its ``id`` and ``digest`` where they are known; None if there is none
    :param uri: its URI
    :param newest_id: the id in the newest key, whether its file is valid or not; 0 if there are no keys
    :param skipped: newer files that are not valid checkpoints: for each reason the first URI, and the reason
    :param newest: the newest valid checkpoint: *checkpoint*, unless an older one was asked for
    :param template: the keys; for a bare prefix, as far as the name of the newest file tells
    :param skipped_count: how many files were skipped
    """

    checkpoint: Checkpoint | None = None
    uri: str | None = None
    newest_id: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    newest: Checkpoint | None = None
    template: KeyTemplate | None = field(default=None, compare=False)
    skipped_count: int = 0
