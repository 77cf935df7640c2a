"""Which files of some folders are opened while a block runs, whoever opens them: Python, Rust or a memory map."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_OPEN, _IN_ISDIR, _IN_NONBLOCK = 0x20, 0x40000000, 0x800
_EVENT = struct.Struct("iIII")


@contextmanager
def files_opened(*roots: Path) -> Iterator[set[Path]]:
    """Fill the set that it yields with the files below ``roots`` that the block has opened (Linux: inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    watcher = libc.inotify_init1(_IN_NONBLOCK)
    assert watcher >= 0, os.strerror(ctypes.get_errno())
    folders = {}
    for root in roots:
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            folders[libc.inotify_add_watch(watcher, os.fsencode(folder), _IN_OPEN)] = folder
    found: set[Path] = set()
    try:
        yield found
        while data := _read(watcher):
            at = 0
            while at < len(data):
                watched, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
                at += length
                if name and not mask & _IN_ISDIR:
                    found.add(folders[watched] / name)
    finally:
        os.close(watcher)


def _read(watcher: int) -> bytes:
    try:
        return os.read(watcher, 1 << 16)
    except BlockingIOError:
        return b""
