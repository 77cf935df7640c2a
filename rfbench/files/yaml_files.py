"""YAML files that ship with rfbench or belong to the user: found by name or path, parsed, overridden."""

from __future__ import annotations

import re
from collections.abc import Hashable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from rfbench.errors import ConfigError, SuiteError
from rfbench.files.text import did_you_mean

KEYS = {"suite": "`name`, `models`, `datasets`, `attacks`", "recipe": "`kind`, `data` and more"}


class _Loader(yaml.SafeLoader):
    """``SafeLoader`` that refuses a key given twice: of two values YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = "a list or mapping cannot be a key; put {{ }} and the like in quotes"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key.value!r} stands there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def shipped_names(package: str, folder: str = "") -> tuple[str, ...]:
    """Names of the YAML files in a package (or in a folder of it), sorted."""
    files = (resources.files(package) / folder).iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml")))


def read_yaml(name: str, what: str, package: str, folder: str = "") -> tuple[str, dict[str, Any], Path]:
    """How the file is called in messages, its content, and the folder that its relative paths start from.

    Args:
        name: a shipped name, or a path (anything with ``/`` or ending in ``.yaml``).
        what: ``suite`` or ``recipe``, for messages.
        package: where the shipped ones are.
        folder: below the package.

    Raises:
        ConfigError: no such file, or one that cannot be read.
        SuiteError: not a YAML mapping.
    """
    where, text, base = _read(name, what, package, folder)
    return where, _parse(where, text, what), base


def _read(name: str, what: str, package: str, folder: str) -> tuple[str, str, Path]:
    shipped = shipped_names(package, folder)
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        if name not in shipped:
            raise ConfigError(f"no {what} called {name!r}; {did_you_mean(name, shipped)} (a path has / or .yaml)")
        text = (resources.files(package) / folder / f"{name}.yaml").read_text("utf-8")
        return f"{what}s/{name}.yaml", text, Path()
    path = Path(name).expanduser()
    try:
        return name, path.read_text(encoding="utf-8"), path.resolve().parent
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{name}: cannot be read ({reason}); shipped {what}s: {', '.join(shipped)}") from error


def _parse(where: str, text: str, what: str) -> dict[str, Any]:
    try:
        raw = yaml.load(text, Loader=_Loader)  # a SafeLoader  # nosec B506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SuiteError([f"{where}:{line} not usable as YAML: {problem}"]) from error
    if not isinstance(raw, dict):
        raise SuiteError([f"{where}: a {what} is a mapping with {KEYS[what]}"])
    return {str(key): value for key, value in raw.items()}


def override(raw: dict[str, Any], assignment: str, example: str = "generation.max_new_tokens=64") -> None:
    """Carry out one ``path=value`` on ``raw``, in place.

    The path is written with dots or as error messages write it: ``attacks.2.n_samples``, ``attacks[2].n_samples``;
    an entry of a list may also be named by its label, name or spec: ``attacks.prefill.words=3``.

    Raises:
        ConfigError: not of this form, not YAML, or there is nothing at that path.
    """
    path, found, value = assignment.partition("=")
    if not found or not path.strip("."):
        raise ConfigError(f"--set {assignment!r}: write path=value, e.g. {example}")
    try:
        parsed = yaml.load(value, Loader=_Loader)  # a SafeLoader  # nosec B506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {assignment!r}: the value is not YAML") from error
    *parents, last = re.sub(r"\[(\d+)\]", r".\1", path.strip()).split(".")
    node: Any = raw
    for depth, key in enumerate(parents):
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[_step(node, key, assignment, parents[:depth])]
    node[_step(node, last, assignment, parents)] = parsed


def _step(node: Any, key: str, assignment: str, before: list[str]) -> int | str:
    """What leads from ``node`` to its child ``key``."""
    at = ".".join(before) or "the file"
    if isinstance(node, dict):
        return key
    if not isinstance(node, list):
        raise ConfigError(f"--set {assignment!r}: {at} is {node!r}, which has nothing below it")
    if key.isdecimal() and int(key) < len(node):
        return int(key)
    names = [_names(entry) for entry in node]
    matches = [i for i, entry in enumerate(names) if key in entry]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"--set {assignment!r}: {key!r} is more than one entry of {at}; use its number")
    known = [name for entry in names for name in entry]
    raise ConfigError(f"--set {assignment!r}: {at} has {len(node)} entries, no {key!r}; {did_you_mean(key, known)}")


def _names(entry: Any) -> list[str]:
    given = [entry.get(key) for key in ("label", "name", "spec")] if isinstance(entry, dict) else []
    return [name for name in given if isinstance(name, str)]
