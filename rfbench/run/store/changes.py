"""What makes a run another one: differences between two configurations and plans, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rfbench.errors import ConfigError
from rfbench.files.problems import key_path
from rfbench.records import canonical_json
from rfbench.run.store.reader import planned_measures, planned_units


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations of JSON values, as ``generation.max_new_tokens: 32 -> 64``."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key_path('', path)}: {_brief(before.get(path))} -> {_brief(after.get(path))}"
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]


def _leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, Mapping | list) and value:
        for name, child in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(child, (*path, name))
    else:
        yield path, canonical_json(value)


def _brief(leaf: str | None, width: int = 80) -> str:
    if leaf is None:
        return "absent"
    return leaf if len(leaf) <= width else f"{leaf[:width]}... ({len(leaf)} characters)"


def refuse_changes(root: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Nothing where both headers are of the same run.

    Raises:
        ConfigError: they are not; the message names the first changes.
    """
    before, after = ({"schema_version": header["schema_version"], **header["configuration"]} for header in (old, new))
    changes = config_changes(before, after)
    old_plan, new_plan = ((*planned_units(header), *planned_measures(header)) for header in (old, new))
    if not changes and old_plan != new_plan:
        n_same = len(set(old_plan) & set(new_plan))
        changes = [f"plan: {len(old_plan)} units -> {len(new_plan)} units, {n_same} of them the same"]
    if changes:
        more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise ConfigError(
            f"{root} holds a run of another configuration ({'; '.join(changes[:3])}{more}): "
            "choose another --out, or --fresh to move that run aside"
        )
