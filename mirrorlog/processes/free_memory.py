"""What a process has freed, given back to the system."""

from __future__ import annotations

import ctypes


def release_free_memory() -> None:
    """Give the free memory of the C library's allocator back, where it can do that (glibc).

    glibc keeps freed memory for later (malloc_trim(3)). After work that needs far more than all
    other work does, that is too much to keep.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
