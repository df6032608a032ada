"""The frontier outside the process: pending requests and seen fingerprints in Redis, shared by several workers.

``SCHEDULER = "scrapy_state.redis.Scheduler"`` and ``STATE_REDIS_URL``. Needs redis-py: ``pip install 'redis>=5'``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inspect import Frontier, SetAside, clear_frontier, put_back, read_frontier, read_set_aside
    from .scheduler import Scheduler

__all__ = ["Frontier", "Scheduler", "SetAside", "clear_frontier", "put_back", "read_frontier", "read_set_aside"]

_MODULES = dict.fromkeys(__all__, "inspect") | {"Scheduler": "scheduler"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from ..exceptions import StateSettingsError

    try:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
        raise StateSettingsError(
            f"scrapy_state.redis.{name} needs redis-py, which is not installed", remedy="pip install 'redis>=5'"
        ) from error
