"""The text of a suite as plain data: found by name or path, and with its shorthands written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rfbench.files.yaml_files import read_yaml, shipped_names

SUITES_PACKAGE = "rfbench.suites"
SHORTHANDS = {"models": "spec", "datasets": "name", "attacks": "name", "measures": "name", "judges": "name"}
"""Lists of a suite whose entries may be strings, and the key that such a string is short for."""


def suite_names() -> tuple[str, ...]:
    """Names of the shipped suites, sorted."""
    return shipped_names(SUITES_PACKAGE)


def read_suite(name: str) -> tuple[str, dict[str, Any], Path]:
    """As :func:`rfbench.files.yaml_files.read_yaml`, with entries that are strings made mappings."""
    where, raw, base = read_yaml(name, "suite", SUITES_PACKAGE)
    for section, key in SHORTHANDS.items():
        if isinstance(raw.get(section), list):
            raw[section] = [{key: entry} if isinstance(entry, str) else entry for entry in raw[section]]
    return where, raw, base
