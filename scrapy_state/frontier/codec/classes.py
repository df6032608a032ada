"""Classes by their import paths, without importing modules that are not allowed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from scrapy import Spider

if TYPE_CHECKING:
    from typing_extensions import Self


class Classes:
    """Finds classes by their names, and imports only from packages that are allowed.

    :param packages: top-level packages that may be imported from; elsewhere, a class is found only if its module was
        imported before this object was made, since it will be imported in the next process, too
    """

    def __init__(self, packages: Iterable[str]) -> None:
        self._packages = frozenset(packages)
        self._loaded = frozenset(sys.modules)
        self._paths: dict[type, str] = {}
        #: the paths that :meth:`path_of` has given; whoever reads it empties it
        self.used: set[str] = set()

    @classmethod
    def of(cls, spider: Spider) -> Self:
        """Return those of Scrapy and of the packages that define *spider*."""
        return cls({"scrapy", *(each.__module__.partition(".")[0] for each in type(spider).__mro__ if each is not object)})

    def find(self, path: Any) -> type:
        """Return the class that *path* names.

        :raises ValueError: if no such class exists, it is nested, or its module must not be imported
        """
        module_name, _, name = str(path).rpartition(".")
        parts = module_name.split(".")
        # A package's __main__ is a program: importing it may run it.
        if not (module_name in self._loaded or (parts[0] in self._packages and "__main__" not in parts)):
            raise ValueError(f"there is no class {path!r} in the project, in Scrapy, or in what they import")
        try:
            cls = vars(sys.modules.get(module_name) or import_module(module_name))[name]
        except Exception as error:  # importing runs the module's own code, which may raise anything
            raise ValueError(f"there is no class {path!r}") from error
        if not isinstance(cls, type):
            raise ValueError(f"{path!r} is not a class")
        return cls

    def path_of(self, cls: type) -> str:
        """Return the name by which :meth:`find` finds *cls*.

        :raises ValueError: if there is none: the class is nested in a class or a function
        """
        if cls not in self._paths:
            path = f"{cls.__module__}.{cls.__qualname__}"
            if self.find(path) is not cls:
                raise ValueError(f"{path} is another class")
            self._paths[cls] = path
        self.used.add(self._paths[cls])
        return self._paths[cls]
