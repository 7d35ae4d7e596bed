"""The filter's threads for secondaries, at the moment when they have just been started.

The C code is that of nbdkit's filter (producers/nbd/forked_writes.c), in this process.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mirrorlog.producers.nbd.native import build_forked_writes
from mirrorlog.producers.nbd.ring_forks import MOST_FORKS, ForkFields

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"
)


def _number(value: int) -> ctypes.c_uint64:
    return ctypes.c_uint64(value)


def test_files_that_come_before_the_threads_run_are_taken(tmp_path: Path) -> None:
    """All is on one CPU, so the new threads wait until this one has called the functions.

    A file that isn't taken is never sent again: its secondary would never join the fork.
    """
    library: Any = ctypes.CDLL(str(build_forked_writes(tmp_path)))
    library.ml_ring_header_bytes.restype = ctypes.c_uint64
    # The threads have it until the process ends.
    ring = library.kept = ctypes.create_string_buffer(64 + int(library.ml_ring_header_bytes()))
    at = ctypes.c_void_p((ctypes.addressof(ring) + 63) // 64 * 64)
    limits = map(_number, (1, 1, 1 << 20, 100))
    assert library.ml_ring_fork(at, _number(MOST_FORKS), *limits) == 0
    cpus = os.sched_getaffinity(0)
    files = [os.memfd_create("secondary") for _ in range(MOST_FORKS)]
    send = library.ml_forked_file
    calls = [(_number(index), _number(index + 1), fd) for index, fd in enumerate(files)]
    os.sched_setaffinity(0, {min(cpus)})
    try:
        code = library.ml_forked_start(at)
        for call in calls:
            send(*call)
    finally:
        os.sched_setaffinity(0, cpus)
    assert code == 0
    taken = []
    for index in range(MOST_FORKS):
        fork, next_number = ForkFields(), ctypes.c_uint64()
        library.ml_forks_look(at, _number(index), ctypes.byref(fork), ctypes.byref(next_number))
        taken.append(fork.file)
    assert taken == list(range(1, MOST_FORKS + 1))
