from __future__ import annotations

import mmap
import platform
import resource
import subprocess
import sys

import pytest

from s2vnet.utils.memory import resident_nbytes

CODE = """
import resource, sys
import numpy as np
if sys.argv[1] == "kept":
    from s2vnet.utils.memory import keep_freed_memory
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(2**22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tells glibc alone to keep its memory")
def test_memory_that_was_freed_is_used_again_without_asking_the_kernel() -> None:
    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, check=True).stdout)

    pages = 50 * 2**25 // resource.getpagesize()
    assert faults("kept") < pages / 10


HELD = """
from pathlib import Path
from s2vnet.utils.memory import release_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

held = [bytearray(b"x" * 100_000) for _ in range(2000)]
full = resident()
del held[:1990]
freed = resident()
release_freed_memory()
print(full, freed, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc alone to give memory back")
def test_memory_that_was_freed_is_given_back() -> None:
    told = subprocess.run([sys.executable, "-c", HELD], capture_output=True, check=True).stdout
    full, freed, back = (int(pages) * resource.getpagesize() for pages in told.split())
    assert freed > full - 1e8  # else there is nothing to do
    assert back < full - 1.5e8


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports it in /proc")
def test_resident_memory_counts_what_is_written() -> None:
    before = resident_nbytes()
    with mmap.mmap(-1, 2**25) as block:  # new pages, which an allocator might have at hand
        block.write(b"x" * 2**25)
        assert resident_nbytes() - before > 2**24
