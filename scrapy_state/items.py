"""The state item: what a spider yields to say "all I yielded before this is done; resume from here"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .plain import json_object


@dataclass(init=False)
class StateItem:
    """All that the spider yielded before this item is done; a later run resumes from *state*.

    It goes no further than :class:`~scrapy_state.barrier.StateMiddleware`: no pipeline, no ``item_scraped``, no item
    feed ever sees it.

    :param state: a JSON object (a dict with text keys, of dicts, lists, text, numbers, True, False, None), copied
        here, so that it can be changed afterwards. Left out: a deep copy of ``spider.state`` at the time it is yielded.
    :raises TypeError: at once, if *state* is not a JSON object; the message has the path to the offending value.
    """

    state: dict[str, Any] | None = None

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.state = None if state is None else json_object(state)
