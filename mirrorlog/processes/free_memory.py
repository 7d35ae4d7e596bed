"""What a process has freed, given back to the system."""

from __future__ import annotations

import ctypes
import os


def use_system_memory() -> None:
    """Let Arrow take its memory from the C library.

    Arrow's own allocator keeps a few MB more with each merge of an archive, and nothing gives them
    back (docs/reliability.md). Arrow looks into the environment when it is first used (Arrow's
    documentation, "Environment Variables"). Call this before, or it changes nothing. What the
    environment says of Arrow's allocator already is left as it is.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def release_free_memory() -> None:
    """Give the free memory of the C library's allocator back, where it can do that (glibc).

    glibc keeps freed memory for later (malloc_trim(3)). After work that needs far more than all
    other work does, that is too much to keep.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
