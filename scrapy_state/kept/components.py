"""Components of the project that say themselves what is to be kept: the spider, pipelines, middlewares and extensions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from scrapy.crawler import Crawler

from ..exceptions import StateError, StateSettingsError
from ..model.web_docs import docs_url
from ..scrapy_internals import components, extensions

_METHODS = ("state_snapshot", "state_restore")


class KeepsState(Protocol):
    """What a component has if its state is to be in the checkpoints. Both methods are called in the event loop's thread."""

    def state_snapshot(self) -> Any:
        """Return the state at a cut, as JSON or bytes; None: nothing is to be kept."""

    def state_restore(self, data: Any, /) -> None:
        """Take *data*, which is what :meth:`state_snapshot` returned. Called before pipelines are opened, if there is any."""


def find_components(crawler: Crawler) -> dict[str, KeepsState]:
    """Return the components with both methods, by the import path of their class.

    :raises StateSettingsError: if one has only one of the methods, or two are of the same class
    """
    assert crawler.engine is not None
    found: dict[str, KeepsState] = {}
    seen: set[int] = set()
    for component in (crawler.spider, *components(crawler.engine), *extensions(crawler)):
        if id(component) in seen:
            continue
        seen.add(id(component))
        cls = type(component)
        path = f"{cls.__module__}.{cls.__qualname__}"
        has = [name for name in _METHODS if callable(getattr(cls, name, None))]
        if len(has) == 1:
            missing = next(name for name in _METHODS if name not in has)
            remedy = f"add it: see {docs_url('kept', 'anything-else-two-methods')}"
            raise StateSettingsError(f"{path} has {has[0]}(), but no {missing}()", remedy=remedy)
        if has and path in found:
            raise StateSettingsError(
                f"two components of this crawl are of the class {path}, so nobody can tell whose state is whose",
                remedy="make a subclass for one of them",
            )
        if has:
            found[path] = component
    return found


def snapshots(found: Mapping[str, KeepsState]) -> dict[str, tuple[str, bytes]]:
    """Return the state of each component, by the path of its class: "json" or "bytes", and the data.

    :raises StateError: if a component raises, or returns something else
    """
    taken = {}
    for path, component in found.items():
        try:
            state = component.state_snapshot()
            if isinstance(state, bytes):
                taken[path] = "bytes", state
            elif state is not None:
                taken[path] = "json", json.dumps(state, ensure_ascii=False, allow_nan=False).encode()
        except Exception as error:  # Whatever a method of the project's raises, no checkpoint may be without its state.
            raise StateError(f"{path}.state_snapshot(): {type(error).__name__}: {error}") from error
    return taken


def restore(path: str, component: KeepsState, data: Any) -> None:
    """Give *component* the *data* of the checkpoint.

    :raises StateError: if it raises
    """
    try:
        component.state_restore(data)
    except Exception as error:  # Whatever a method of the project's raises, the crawl does not start.
        raise StateError(
            f"{path}.state_restore(): {type(error).__name__}: {error}", remedy="correct the method, or STATE_AT"
        ) from error
