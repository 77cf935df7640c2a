"""What came from outside, opened so that it can do no harm: paths, files and JSON."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SPECIAL: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def expanded(text: str) -> Path:
    """The path that a text means, ``~`` written out.

    Raises:
        ValueError: no file can be called so, or ``~`` is a home folder that is not there.
    """
    if "\0" in text:
        raise ValueError(f"{text!r} holds a NUL character, which no path can")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text!r}: {Path(text).parts[0]} is no home folder here; write the path out") from error


def special_kind(path: Path) -> str | None:
    """What stands at ``path`` where it is neither a file nor a folder: reading it may never end; else ``None``.

    Raises:
        OSError: nothing is there, or it cannot be asked for.
    """
    return _kind(path.stat().st_mode)


def _kind(mode: int) -> str | None:
    return next((kind for is_kind, kind in _SPECIAL if is_kind(mode)), None)


def read_outside(path: Path) -> bytes:
    """The content of a file that the user named, or that lies in a folder that the user named.

    Raises:
        OSError: it cannot be read, or is a pipe, a device or a socket.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name holds a NUL character", str(path))
    # Asked before it is opened, as opening some devices does something; not waiting, as it may be replaced in between.
    _refuse_special(path, path.stat())
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        _refuse_special(path, os.fstat(handle))
        return file.read()


def _refuse_special(path: Path, found: os.stat_result) -> None:
    if (kind := _kind(found.st_mode)) is not None:
        raise OSError(errno.EINVAL, f"it is {kind} and no file", str(path))


def read_outside_text(path: Path) -> str:
    """As :func:`read_outside`, decoded from UTF-8.

    Raises:
        OSError: as there.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_outside(path).decode("utf-8")


def parse_json(text: str | bytes, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What a text of JSON means; whatever is wrong with it is a ``ValueError``, however deep or long it is.

    Raises:
        ValueError: it is none, too deep, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except json.JSONDecodeError:
        raise
    except RecursionError as error:
        raise ValueError("too many lists and objects within one another") from error
    except UnicodeDecodeError:
        raise
    except ValueError as error:  # Python's own words would have the user change a setting of the interpreter
        raise ValueError("a number of thousands of digits") from error
