"""The state item: what a spider yields to say "all I yielded before this is done; resume from here"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .model.json_values import json_object


@dataclass(init=False)
class StateItem:
    """Says that everything the spider has yielded before this item is done, and that a later run resumes from *state*.

    :class:`~scrapy_state.barrier.StateMiddleware` keeps it: no pipeline, no ``item_scraped`` handler and no item feed
    ever sees it.

    :param state: a JSON object: a dict with text keys, of dicts, lists, text, numbers, True, False and None. It is copied
        at once, so you may change the original. Without it: a deep copy of ``spider.state`` when the item is yielded.
    :raises TypeError: at once, if *state* is not a JSON object; the message has the path to the offending value.
    """

    state: dict[str, Any] | None = None

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.state = None if state is None else json_object(state)
