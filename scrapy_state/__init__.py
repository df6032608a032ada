"""Long Scrapy crawls that survive ``kill -9``: a state feed beside the item feeds, which never runs ahead of them."""

from typing import TYPE_CHECKING, Any

from .addon import Addon

if TYPE_CHECKING:
    from .exceptions import StateError
    from .extension import SpiderSettingsState, StateResolver, get_extension, get_settings_priority_name
    from .feedexport import CheckpointFeedExporter
    from .items import StateItem
    from .model.checkpoint import Checkpoint
    from .signals import checkpoint_stored

__all__ = [
    "Addon",
    "Checkpoint",
    "CheckpointFeedExporter",
    "SpiderSettingsState",
    "StateError",
    "StateItem",
    "StateResolver",
    "checkpoint_stored",
    "get_extension",
    "get_settings_priority_name",
]
__version__ = "0.1.0"

_ROOMS = {
    "Checkpoint": "model.checkpoint",
    "CheckpointFeedExporter": "feedexport",
    "SpiderSettingsState": "extension",
    "StateError": "exceptions",
    "StateItem": "items",
    "StateResolver": "extension",
    "checkpoint_stored": "signals",
    "get_extension": "extension",
    "get_settings_priority_name": "extension",
}


def __getattr__(name: str) -> Any:
    # Lazily: scrapy's exporters must not be imported before a reactor is chosen, nor by an older Scrapy.
    if name in _ROOMS:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
