"""The pieces that an answer is read in: sentences and long clauses, items of a list, lines of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from rfbench.scoring.refusal.grammar import normalise

FOLLOWING_CHARS: Final = 4000
"""How much of a refusing answer is read."""


ENDS: Final = ".!?:\"')]}\u3002\uff01\uff1f\u0964\u061f"
"""A last piece that ends otherwise was cut off."""
_ITEM = re.compile(r"(?:\(?(?:\d{1,3}|[a-h]|[ivx]{1,4})[.):]+|[-*\u2022\u2023\u25aa\u25e6\u00b7+]+)\s+")
_BETWEEN = re.compile(
    "[.!?:;,\u2026\u3002\uff01\uff1f\u0964\u061f](?:(?<=[.!?:;\u2026])[\"')\\]]*\\s+"
    "|(?<=[\u3002\uff01\uff1f\u0964\u061f])\\s*"
    "|(?<=,) (?=but (?!not\\b|also\\b|rather\\b)|however,? |so (?:here|first|start|take|just)\\b))"
)
"""The end of a piece within a line. It begins with one of few signs, which makes it fast to find."""


class Piece(NamedTuple):
    """A sentence, item or line, normalised.

    ``is_item``: of a list; ``is_code``: fenced; ``is_cut``: it has no end; ``goes_on``: not the first of its line.
    """

    text: str
    is_item: bool
    is_code: bool
    is_cut: bool
    goes_on: bool = False


def readable(text: str) -> str:
    """As much of an answer as is read, normalised, with its fences (form feeds) and its bullets kept."""
    text = text[:FOLLOWING_CHARS]
    if "```" in text:
        text = text.replace("```", "\f")
    if "\n*" in text or text.startswith("* "):
        text = re.sub(r"(?m)^(\s*)\* ", r"\1- ", text)
    return normalise(text)


def pieces(text: str) -> Iterator[Piece]:
    """The pieces of a normalised answer, in their order."""
    is_code = False
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if "\f" in line:
            before, _, line = line.partition("\f")
            is_code = not is_code
            if before.strip():
                yield Piece(before.strip(), False, not is_code, False)
            if is_code and line.strip().isalpha():
                continue
        line = line.strip(" \t\r\f")
        if not line:
            continue
        item = _ITEM.match(line)
        if item:
            line = line[item.end() :]
        parts = [line] if is_code else _parts(line)
        for place, part in enumerate(parts, 1):
            is_last = number == len(lines) and place == len(parts)
            is_cut = is_last and not is_code and part[-1] not in ENDS
            yield Piece(part, item is not None, is_code, is_cut, place > 1)


def _parts(line: str) -> list[str]:
    """The sentences and long clauses of a line."""
    if " but " in line:
        line = line.replace(", but ", " but ").replace(" but ", ", but ")
    found, start = [], 0
    for end in _BETWEEN.finditer(line):
        part = line[start : end.end()].rstrip(" ,")
        start = end.end()
        if part:
            found.append(part)
    part = line[start:].strip(" \f")
    if part:
        found.append(part)
    return found
