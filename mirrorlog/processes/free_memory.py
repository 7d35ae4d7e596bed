"""What a process has freed, given back to the system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from threading import Event, Thread
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""malloc.h of glibc."""
_ARENAS: Final = 2
_MMAP_BYTES: Final = 32 << 20
"""The largest threshold that glibc takes (mallopt(3), M_MMAP_THRESHOLD)."""
_KEPT_BYTES: Final = 512 << 20


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
    _call_allocator("malloc_trim", 0)


def limit_arenas() -> None:
    """Let all threads share two arenas of the C library's allocator, where it has some (glibc).

    glibc gives threads up to 8 arenas a core (mallopt(3), M_ARENA_MAX), and each keeps what the
    largest work of any of its threads left behind. So a process with many threads grows by a step
    whenever a rare piece of work meets another arena. Call this before threads are started.
    """
    _call_allocator("mallopt", _M_ARENA_MAX, _ARENAS)


def reuse_freed_memory() -> None:
    """Let freed memory be used again before it goes back to the system, where that can be (glibc).

    For a process that makes and drops arrays of megabytes all the time: their pages would come
    from the system each time, one page fault after the other. `keep_memory_low` still gives back
    what is free once in a while.
    """
    _call_allocator("mallopt", _M_MMAP_THRESHOLD, _MMAP_BYTES)
    _call_allocator("mallopt", _M_TRIM_THRESHOLD, _KEPT_BYTES)


def keep_memory_low(every_s: float = 60.0) -> Callable[[], None]:
    """Limit the arenas, and release free memory again and again, for what runs for years.

    The C library keeps what a burst needed (malloc(3)). So a process would grow a little with each
    burst that is larger than those before. A thread of its own gives that back.
    The thread lasts until the process ends. Return a function that ends it earlier.
    """
    limit_arenas()
    ended = Event()

    def run() -> None:
        while not ended.wait(every_s):
            release_free_memory()

    Thread(target=run, name="free memory", daemon=True).start()
    return ended.set


def _call_allocator(name: str, *numbers: int) -> None:
    """Call this function of the C library's allocator, if it has one."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*numbers)
