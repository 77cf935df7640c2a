"""What an attack is, and how attacks are found.

An attack proposes, the runner decides: an attack never generates final completions, scores, times,
logs or stores. A new attack is one file under ``attacks/`` that holds one public subclass of
``PromptAttack`` or ``WeightAttack``; its module name is its name, its fields are its YAML schema and
the only home of its defaults. Nothing is registered anywhere.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from rfbench.errors import ConfigError
from rfbench.files.text import did_you_mean
from rfbench.models.base import Capability, ChatModel
from rfbench.records import Attempt, Behavior, canonical_json

if TYPE_CHECKING:
    import numpy as np

PACKAGE = "rfbench.attacks"


class Attack(BaseModel, ABC):
    """Fields shared by both threat models. Subclass ``PromptAttack`` or ``WeightAttack`` instead."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: ClassVar[int]
    """Raised whenever the attack's results could change."""
    needs: ClassVar[frozenset[Capability]] = frozenset()
    """What the backend must offer; checked before anything loads."""
    source: ClassVar[str]
    """URL of the paper that the attack comes from."""
    only_how: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how something is computed and not what: whatever they are, the same is drawn."""

    @property
    def name(self) -> str:
        """Module name for attacks of this package, ``package.module:Class`` for those from elsewhere."""
        module, cls = type(self).__module__, type(self).__name__
        return module.rpartition(".")[2] if module.startswith(PACKAGE + ".") else f"{module}:{cls}"

    @property
    def params(self) -> str:
        """Canonical JSON of the fields: the identity of a configuration."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def stream(self) -> tuple[str, str]:
        """What names the random numbers of this configuration, beside seed and behavior.

        Attacks of one stream draw the same: one that is to be paired with another names the other's.
        """
        defaults = {name: type(self).model_fields[name].default for name in self.only_how}
        return self.name, canonical_json(json.loads(self.params) | defaults)

    def further_models(self) -> tuple[str, ...]:
        """Models that are loaded beside the one under attack, as :func:`rfbench.models.load.load_model` takes them.

        They are checked with the suite, and identified before the run: another model of that name is other work.
        """
        return ()

    def learns_from(self, *, offline: bool = False) -> Sequence[Behavior]:
        """All requests that the attacker may use. A run that would evaluate one of them is refused before it starts.

        Args:
            offline: never reach for the network.

        Raises:
            DataError: they cannot be read.
        """
        return ()


class PromptAttack(Attack):
    """An attack that changes what the model reads."""

    @abstractmethod
    def craft(self, model: ChatModel, behavior: Behavior, rng: np.random.Generator) -> Iterator[Attempt]:
        """Yield attempts on one behavior.

        Args:
            model: the system under attack, with the capabilities named in ``needs``.
            behavior: the request.
            rng: derived from (seed, attack, behavior): the only source of randomness allowed.

        Raises:
            AttackError: this behavior cannot be attacked so; it is recorded as unscored.
        """

    def craft_many(
        self, model: ChatModel, behaviors: Sequence[Behavior], rngs: Sequence[np.random.Generator]
    ) -> Iterator[Attempt]:
        """Yield attempts on several behaviors; an optimiser overrides this to batch over them."""
        for behavior, rng in zip(behaviors, rngs, strict=True):
            yield from self.craft(model, behavior, rng)


class WeightAttack(Attack):
    """An attack that changes the model's weights, and is then measured by a prompt attack."""

    then: str = Field(default="direct", description="prompt attack, at its defaults, that measures the tampered model")

    def then_attack(self) -> PromptAttack:
        """The prompt attack named by ``then``.

        Raises:
            ConfigError: there is none of this name, or it is no prompt attack.
        """
        cls = find_attack(self.then)
        if not issubclass(cls, PromptAttack):
            raise ConfigError(f"then: {self.then!r} is no prompt attack")
        try:
            return cls()
        except ValidationError as error:
            raise ConfigError(f"then: {self.then!r} cannot run at its defaults alone; choose another") from error

    @abstractmethod
    def tamper(
        self, model: ChatModel, rng: np.random.Generator
    ) -> AbstractContextManager[Iterator[tuple[int, ChatModel]]]:
        """Train once and yield ``(step, model)`` at each checkpoint; leaving restores the original bit for bit."""


@runtime_checkable
class Resumable(Protocol):
    """A long optimiser whose progress the runner saves and gives back.

    The runner works on a copy of the attack per behavior (per batch, where ``craft_many`` is overridden), so
    progress never leaks from one to the next.
    """

    def state(self) -> bytes:
        """Progress so far, self-contained; called after an attempt was yielded, and includes that attempt."""

    def load_state(self, state: bytes) -> None:
        """Go on from ``state``: the next ``craft`` yields only what is still to come."""


class ResumableAttack(PromptAttack):
    """A prompt attack that is :class:`Resumable`, one search on one behavior at a time.

    Its ``craft`` calls :meth:`_keep` before each attempt that it yields, and :meth:`_take_saved` when it begins. What
    was kept is only saved: an attack that is used again starts anew, unless progress is loaded into it.
    """

    _kept: Mapping[str, Any] | None = PrivateAttr(default=None)
    _saved: Mapping[str, Any] | None = PrivateAttr(default=None)

    def state(self) -> bytes:
        """Progress so far; see :class:`Resumable`."""
        return json.dumps(self._kept).encode()

    def load_state(self, state: bytes) -> None:
        """Go on from ``state``; see :class:`Resumable`."""
        self._saved = json.loads(state)

    def _keep(self, values: Mapping[str, Any]) -> None:
        """Remember where the search stands, as values that JSON can hold."""
        self._kept = values

    def _take_saved(self) -> Mapping[str, Any] | None:
        """Where the search is to go on, if progress was loaded: once, since it belongs to one search."""
        saved, self._saved = self._saved, None
        return saved


@lru_cache
def attack_names() -> tuple[str, ...]:
    """Names of the attacks that lie in the attacks folder, sorted."""
    package = importlib.import_module(PACKAGE)
    found = pkgutil.iter_modules(package.__path__)
    return tuple(sorted(m.name for m in found if not m.ispkg and not m.name.startswith("_")))


def find_attack(name: str) -> type[Attack]:
    """The attack class called ``name``: a module of the attacks folder, or ``package.module:Class``.

    Raises:
        ConfigError: there is no such attack, it cannot be imported, its module holds none or more than one, or
            its class is not finished.
    """
    if ":" in name:
        return _usable(_import_attack(name))
    if name not in attack_names():
        raise ConfigError(f"unknown attack {name!r}; {did_you_mean(name, attack_names())}")
    module = _import(f"{PACKAGE}.{name}", f"attack {name!r}")
    found = [
        cls
        for cls_name, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Attack) and cls.__module__ == module.__name__ and not cls_name.startswith("_")
    ]
    if len(found) != 1:
        raise ConfigError(f"{module.__name__} must hold exactly one public attack class, found {len(found)}")
    return _usable(found[0])


def _import(module: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a module that somebody is writing may raise
        detail = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        remedy = "; install it, or put its folder on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise ConfigError(f"{what} cannot be imported: {detail}{remedy}") from error


def _usable(cls: type[Attack]) -> type[Attack]:
    missing = sorted(getattr(cls, "__abstractmethods__", ())) + [
        n for n in ("version", "source") if not hasattr(cls, n)
    ]
    if missing:
        raise ConfigError(f"attack class {cls.__module__}:{cls.__name__} lacks {', '.join(missing)}")
    return cls


def _import_attack(path: str) -> type[Attack]:
    module_name, _, class_name = path.partition(":")
    module = _import(module_name, f"attack {path!r}")
    try:
        cls: Any = getattr(module, class_name)
    except AttributeError as error:
        raise ConfigError(f"attack {path!r} cannot be imported: {error}") from error
    if not (inspect.isclass(cls) and issubclass(cls, Attack)):
        raise ConfigError(f"attack {path!r} is not a subclass of rfbench.attack.PromptAttack or WeightAttack")
    return cls
