"""The folder for what can be made again: converted models, hashes of large files, answers for training."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import sys
import time
from pathlib import Path

from rfbench.errors import ModelError
from rfbench.files.atomic import write_atomically
from rfbench.records import digest

log = logging.getLogger(__name__)

_REMEMBERED_BYTES = 1 << 20
_MEMO_FORMAT = 2
_SETTLED_NS = 2_000_000_000
"""A change older than this shows in the time stamps of every file system (FAT: two seconds)."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_root() -> Path:
    """The folder for what can be made again: ``RFBENCH_CACHE``, else the platform's cache folder.

    Raises:
        ModelError: there is no home folder and the variable is not set.
    """
    try:
        if configured := os.environ.get("RFBENCH_CACHE"):
            return Path(configured).expanduser().absolute()
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "rfbench/Cache"
        if sys.platform == "darwin":
            return Path.home() / "Library/Caches/rfbench"
        xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "rfbench"
    except RuntimeError as error:
        raise ModelError("there is no home folder to cache in; set RFBENCH_CACHE to a folder") from error


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file. That of one larger than 1 MiB is remembered, for as long as the file was not written.

    Size and modification time do not show that: both can be kept by whoever writes. The system's own note of the last
    change cannot be set, so it decides, with the device and the inode; and as clocks are coarse, no hash is kept of a
    file that was changed less than two seconds before. On Windows, which has no such note, nothing is remembered.

    Raises:
        OSError: the file cannot be read, or is written at this moment.
    """
    stat = path.stat()
    if stat.st_size < _REMEMBERED_BYTES:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    state = _state(stat)
    key = digest([_MEMO_FORMAT, str(path.resolve()), *state])
    entry = cache_root() / "sha256" / key
    try:
        known = entry.read_text(encoding="ascii") if sys.platform != "win32" else ""
    except (OSError, UnicodeDecodeError):
        known = ""
    if _SHA256.fullmatch(known):
        return known
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    if _state(path.stat()) != state:
        raise OSError(errno.EBUSY, "it changed while it was read; wait until it is written", str(path))
    if sys.platform == "win32" or time.time_ns() - max(stat.st_ctime_ns, stat.st_mtime_ns) < _SETTLED_NS:
        return value
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(entry, value.encode())
    except OSError as error:
        # A shared cache may be read-only: the hash is right all the same, it only costs time again.
        log.debug("hash of %s is not remembered: %s", path, error)
    return value


def _state(stat: os.stat_result) -> list[int]:
    """What the system says of a file and cannot be the same after it was written."""
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
