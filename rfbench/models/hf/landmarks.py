"""Lengths at which a configuration says that something changes: windows, chunks, first contexts, sparse selections."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

NEAR = 128
"""Lengths up to this are crossed by real rows."""
SIGNS = ("window", "chunk", "local", "original_max", "floor_scale", "topk", "block_size", "block_length")
"""Parts of a setting's name that indicate a length in tokens."""


def landmarks(config: Any, max_context: int) -> list[tuple[str, int]]:
    """Settings by name and value that may be lengths below ``max_context``, shortest first.

    The names only say where to look: what happens there is measured.
    """
    found = {(name, n) for name, n in _numbers(config.to_dict()) if 2 <= n < max_context}
    return sorted(found, key=lambda mark: (mark[1], mark[0]))


def _numbers(values: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _numbers(value, str(key))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _numbers(value, name)
    elif isinstance(values, int | float) and not isinstance(values, bool) and _is_length(name, values):
        yield name, int(values)


def _is_length(name: str, value: float) -> bool:
    return math.isfinite(value) and "layers" not in name and any(sign in name for sign in SIGNS)
