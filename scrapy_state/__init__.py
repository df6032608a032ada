"""Long Scrapy crawls that survive ``kill -9``: checkpoints are stored beside the items, and never run ahead of them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .addon import Addon

if TYPE_CHECKING:
    from .exceptions import StateError
    from .extension import SpiderSettingsState, StateResolver, get_extension, get_settings_priority_name
    from .feedexport import CheckpointFeedExporter
    from .items import StateItem
    from .kept.collections import KeptCounter, KeptDict, KeptSet
    from .model.checkpoint import Checkpoint
    from .resume import sources
    from .resume.sources import last_state
    from .signals import checkpoint_stored

__all__ = [
    "Addon",
    "Checkpoint",
    "CheckpointFeedExporter",
    "KeptCounter",
    "KeptDict",
    "KeptSet",
    "SpiderSettingsState",
    "StateError",
    "StateItem",
    "StateResolver",
    "checkpoint_stored",
    "get_extension",
    "get_settings_priority_name",
    "last_state",
    "sources",
]
__version__ = "0.1.0"

#: public name -> its module
_MODULES = {
    "Checkpoint": "model.checkpoint",
    "CheckpointFeedExporter": "feedexport",
    "KeptCounter": "kept.collections",
    "KeptDict": "kept.collections",
    "KeptSet": "kept.collections",
    "SpiderSettingsState": "extension",
    "StateError": "exceptions",
    "StateItem": "items",
    "StateResolver": "extension",
    "checkpoint_stored": "signals",
    "get_extension": "extension",
    "get_settings_priority_name": "extension",
    "last_state": "resume.sources",
}


def __getattr__(name: str) -> Any:
    # Lazily: scrapy's exporters must not be imported before a reactor is chosen, nor with an older Scrapy.
    if name == "sources":
        return import_module(f"{__name__}.resume.sources")
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
