"""How plug-ins are found: among the project's own, as entry points of installed packages, or by import path.

The project's own names win over entry points. Nothing is imported before somebody asks for it by name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from rfbench.errors import ConfigError, OutsideError, contained
from rfbench.files.text import did_you_mean

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seam:
    """A place where other packages can add something.

    ``kind`` is the word for messages (``"attack"``), ``group`` the group of entry points, ``own`` gives the names that
    the project itself has.
    """

    kind: str
    group: str
    own: Callable[[], Iterable[str]]

    def names(self) -> tuple[str, ...]:
        """The project's own names in their order, then those of entry points, sorted."""
        own = tuple(self.own())
        return (*own, *sorted({point.name for point in entry_points(group=self.group)} - set(own)))

    def origin(self, name: str) -> str:
        """The installed package, with its version, that brings what is called ``name``; empty for the project's own."""
        return "" if name in self.own() else " and ".join(map(_distribution, self._points(name)))

    def external(self, name: str) -> Any:
        """The object that the entry point ``name`` stands for.

        Raises:
            ConfigError: there is none and the project has none of this name either, there are several, or it cannot be
                imported.
        """
        points = self._points(name)
        if not points:
            raise ConfigError(f"unknown {self.kind} {name!r}; {did_you_mean(name, self.names())}")
        if len(points) > 1:
            both = " and ".join(map(_distribution, points))
            raise ConfigError(f"{self.kind} {name!r} comes from {both}; uninstall one, or give package.module:Name")
        module, _, attributes = points[0].value.partition(":")
        what = f"{self.kind} {name!r} of {_distribution(points[0])}"
        found = _import(module.strip(), what)
        return _attribute(found, attributes.partition("[")[0].strip(), what) if attributes else found

    def by_path(self, path: str) -> Any:
        """The object at ``package.module:Name``.

        Raises:
            ConfigError: it cannot be imported.
        """
        module, _, attributes = path.partition(":")
        what = f"{self.kind} {path!r}"
        return _attribute(_import(module, what), attributes, what)

    def _points(self, name: str) -> Sequence[EntryPoint]:
        """Entry points of this name, one for each distribution that has it."""
        return sorted(entry_points(group=self.group, name=name), key=_distribution)


@dataclass(frozen=True, slots=True)
class Classes(Generic[T]):
    """A seam for classes, of which the project's own are the modules of a package's folder, one public class in each.

    ``base`` is what they derive from, ``contract`` names it in messages, and ``required`` are attributes that a class
    must have beside its abstract methods.
    """

    kind: str
    group: str
    package: str
    base: type[T]
    contract: str
    required: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    """Modules of the folder that hold no class of this kind."""

    @property
    def _seam(self) -> Seam:
        return Seam(self.kind, self.group, self.own)

    def names(self) -> tuple[str, ...]:
        """See :meth:`Seam.names`."""
        return self._seam.names()

    def origin(self, name: str) -> str:
        """See :meth:`Seam.origin`."""
        return self._seam.origin(name)

    def own(self) -> tuple[str, ...]:
        """Names of the modules of the folder, sorted; one that begins with an underscore is no plug-in."""
        found = pkgutil.iter_modules(importlib.import_module(self.package).__path__)
        names = (module.name for module in found if not module.ispkg)
        return tuple(sorted(name for name in names if not name.startswith("_") and name not in self.helpers))

    def find(self, name: str) -> type[T]:
        """The class called ``name``: a module of the folder, an entry point, or ``package.module:Class``.

        Raises:
            ConfigError: there is none, it cannot be imported, its module holds none or more than one, or it is not
                finished.
        """
        if ":" in name:
            return self._usable(self._seam.by_path(name), f"{self.kind} {name!r}")
        if name not in self.own():
            found = self._seam.external(name)
            return self._usable(found, f"{self.kind} {name!r} of {self._seam.origin(name)}")
        module = _import(f"{self.package}.{name}", f"{self.kind} {name!r}")
        classes = [
            cls
            for cls_name, cls in inspect.getmembers(module, inspect.isclass)
            if issubclass(cls, self.base) and cls.__module__ == module.__name__ and not cls_name.startswith("_")
        ]
        if len(classes) != 1:
            raise ConfigError(f"{module.__name__} must hold exactly one public {self.kind} class, found {len(classes)}")
        return self._usable(classes[0], f"{self.kind} {name!r}")

    def name_of(self, cls: type[T]) -> str:
        """The module's name for a class of the package, ``package.module:Class`` for one from elsewhere."""
        module = cls.__module__
        return module.rpartition(".")[2] if module.startswith(self.package + ".") else f"{module}:{cls.__name__}"

    def _usable(self, found: Any, what: str) -> type[T]:
        if not (inspect.isclass(found) and issubclass(found, self.base)):
            raise ConfigError(f"{what} is not a subclass of {self.contract}")
        absent = [name for name in self.required if not hasattr(found, name)]
        if missing := sorted(getattr(found, "__abstractmethods__", ())) + absent:
            raise ConfigError(f"{self.kind} class {found.__module__}:{found.__name__} lacks {', '.join(missing)}")
        return found


def _import(module: str, what: str) -> ModuleType:
    try:
        with contained():
            return importlib.import_module(module)
    except Exception as error:  # whatever a module that somebody is writing may raise
        detail = str(error) if isinstance(error, ImportError | OutsideError) else f"{type(error).__name__}: {error}"
        remedy = "; install it, or put its folder on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise ConfigError(f"{what} cannot be imported: {detail}{remedy}") from error


def _attribute(module: ModuleType, path: str, what: str) -> Any:
    found: Any = module
    try:
        for name in path.split("."):
            found = getattr(found, name)
    except AttributeError as error:
        raise ConfigError(f"{what} cannot be imported: {error}") from error
    return found


def _distribution(point: EntryPoint) -> str:
    """Name and version of the package that an entry point comes from."""
    return "an unnamed package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
