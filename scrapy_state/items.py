"""The state item, which a spider yields to say "everything I yielded before this is done; resume from here"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .model.json_values import json_object


@dataclass(init=False)
class StateItem:
    """Says that everything the spider has yielded before this item is done, and that a later run resumes from *state*.

    :class:`~scrapy_state.barrier.StateMiddleware` takes it out of the spider's output: no pipeline, no ``item_scraped`` handler
    and no item feed ever sees it.

    :param state: a JSON object: a dict with text keys that contains dicts, lists, text, numbers, True, False and None. It is
        copied at once, so you may change the original. If you leave it out, the item stands for ``spider.state`` as it is when
        the spider yields the item.
    :raises TypeError: at once, if *state* is not a JSON object; the message names the path to the offending value
    """

    state: dict[str, Any] | None = None

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.state = None if state is None else json_object(state)
