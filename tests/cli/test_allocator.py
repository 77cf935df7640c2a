from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Page faults of allocating, writing and freeing 64 MB, a hundred times over.
FAULTS = """
import resource
import sys
if sys.argv[1] == "keep":
    from rfbench.cli.allocator import keep_freed_memory
    assert keep_freed_memory()
def work():
    bytearray(2**26)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_that_was_freed_is_not_asked_for_anew() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True, text=True).stdout)
        for how in ("keep", "give")
    }
    assert faults["keep"] < 0.2 * faults["give"]
