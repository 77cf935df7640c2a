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


def one_line(text: object, limit: int = 300) -> str:
    """What somebody else says, in one line that ends where a sentence does, or shows that it goes on."""
    whole = " ".join(str(text).split())
    if len(whole) <= limit:
        return whole
    end = whole.rfind(". ", 0, limit)
    return whole[: end + 1] if end > 0 else whole[: max(whole.rfind(" ", 0, limit), 0) or limit] + " ..."


def says(error: BaseException) -> str:
    """An error of a library in one line; its kind where it says nothing."""
    return one_line(error) or type(error).__name__


def write_text(path: Path, text: str) -> None:
    """Write a file that is made from a run, and can be made again.

    Raises:
        StorageError: it cannot be written.
    """
    with storage_errors(lambda error: f"cannot write {path}: {reason(error)}"):
        path.write_text(text, encoding="utf-8")
