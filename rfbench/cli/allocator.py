"""One setting of the C library's allocator, for processes that multiply matrices on CPUs."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of ``mallopt`` (glibc, malloc.h)."""
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, rather than give it back and ask for it anew.

    glibc returns large blocks to the system at once, and every new one then costs a page fault per 4 KiB: logits over
    a large vocabulary, allocated and freed at each step, spend a twentieth of a forward pass in the kernel. For the
    entry points of programs: a library does not decide this for its host.

    Returns:
        Whether the setting was made; elsewhere than on glibc there is none.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
