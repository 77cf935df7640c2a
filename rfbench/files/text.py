"""Text: words for messages, and files that hold nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from rfbench.files.atomic import reason, storage_errors


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` where a known name is close to ``name``, else what there is."""
    known = tuple(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known) or 'none'}"


def write_text(path: Path, text: str) -> None:
    """Write a file that is made from a run, and can be made again.

    Raises:
        StorageError: it cannot be written.
    """
    with storage_errors(lambda error: f"cannot write {path}: {reason(error)}"):
        path.write_text(text, encoding="utf-8")
