"""Requests about neighbours: harmful ones, and beside each a benign twin. Both stand in one file."""

from __future__ import annotations

from pathlib import Path

from rfbench.data.registry import Entry, Form, PackagedSource

FILE = Path(__file__).parent / "neighbours.jsonl"


def _half(*, is_harmful: bool) -> Entry:
    rows = Form(where={"is_harmful": ("true" if is_harmful else "false",)})
    return Entry(
        is_harmful=is_harmful,
        source="written for this example",
        licence="Apache-2.0",
        file=PackagedSource(FILE, rows),
    )


HARMFUL = _half(is_harmful=True)
TWIN = _half(is_harmful=False)
