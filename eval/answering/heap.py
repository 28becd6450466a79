"""How the C library holds memory between batches: what tensors free is kept for the next batch."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # malloc.h
LARGEST = 1 << 30  # blocks above this are mapped for themselves; older glibc takes no more than 32 MiB


def keep() -> bool:
    """Have freed memory kept; False where the C library has no such setting, or the user has set it.

    By default, glibc maps large blocks anew and gives back what is free at the heap's end, and the kernel clears the
    pages each time: a tenth of a batch's time on the CPU.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is None:
        return False
    mapped = option(MMAP_THRESHOLD, LARGEST) or option(MMAP_THRESHOLD, 32 << 20)
    return bool(mapped and option(TRIM_THRESHOLD, LARGEST) and option(TOP_PAD, 64 << 20))
