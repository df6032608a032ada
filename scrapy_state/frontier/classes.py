"""Classes by their import paths, without importing modules that are not allowed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any


class Classes:
    """Finds classes by their names, and imports nothing that it was not allowed to.

    :param packages: top-level packages that may be imported from; elsewhere a class is found only if its module had been
        imported before this object was made, as it will have been in the next process
    """

    def __init__(self, packages: Iterable[str]) -> None:
        self._packages = frozenset(packages)
        self._loaded = frozenset(sys.modules)
        self._paths: dict[type, str] = {}

    def find(self, path: Any) -> type:
        """Return the class that *path* names.

        :raises ValueError: if there is none, if it is within another class, or its module must not be imported
        """
        module_name, _, name = str(path).rpartition(".")
        if not (module_name in self._loaded or module_name.partition(".")[0] in self._packages):
            raise ValueError(f"there is no class {path!r} in the project, in Scrapy, or in what they import")
        try:
            found = vars(sys.modules.get(module_name) or import_module(module_name))[name]
        except Exception as error:  # importing runs the module's own code, which raises what it likes
            raise ValueError(f"there is no class {path!r}") from error
        if not isinstance(found, type):
            raise ValueError(f"{path!r} is not a class")
        return found

    def path_of(self, cls: type) -> str:
        """Return the name by which :meth:`find` finds *cls*.

        :raises ValueError: if there is none: for a class within another one, or within a function
        """
        if cls not in self._paths:
            path = f"{cls.__module__}.{cls.__qualname__}"
            if self.find(path) is not cls:
                raise ValueError(f"{path} is another class")
            self._paths[cls] = path
        return self._paths[cls]
