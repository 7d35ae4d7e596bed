"""Free memory goes back to the system, that of Arrow too."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from collections.abc import Mapping

import pytest
from deadlines import DEADLINE_S, wait_until

from mirrorlog.processes import free_memory
from mirrorlog.settings import inherited_environment

VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"
needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="no other C library has these settings"
)


def output_of(code: str, environment: Mapping[str, str] | None = None) -> str:
    """Return what another Python prints that runs this. None: it inherits the environment."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    ).stdout


@pytest.mark.parametrize(("said", "used"), [("", "system"), ("jemalloc", "jemalloc")])
def test_an_archivers_arrow_takes_memory_from_the_c_library_unless_told_otherwise(
    said: str, used: str
) -> None:
    code = (
        "import sys, mirrorlog.cli.commands.archive\n"
        "assert 'pyarrow' not in sys.modules\n"
        "from mirrorlog.processes.free_memory import use_system_memory\n"
        "use_system_memory()\n"
        "import pyarrow as pa\n"
        "print(pa.default_memory_pool().backend_name)"
    )
    environment = dict(inherited_environment())
    environment.pop(VARIABLE, None)
    if said:
        environment[VARIABLE] = said
    assert output_of(code, environment).strip() == used


def test_free_memory_is_released_again_and_again_until_it_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released: list[int] = []
    monkeypatch.setattr(free_memory, "release_free_memory", lambda: released.append(1))
    # Tests that ran in this process before may have left a thread of a command that lasts.
    others = set(threading.enumerate())
    end = free_memory.keep_memory_low(every_s=0.001)
    threads = [
        thread
        for thread in threading.enumerate()
        if thread.name == "free memory" and thread not in others
    ]
    try:
        wait_until(lambda: len(released) > 2, every_s=0.001)
    finally:
        end()
    (thread,) = threads
    thread.join(DEADLINE_S)
    assert thread.daemon and not thread.is_alive()


@needs_glibc
def test_memory_that_was_freed_is_given_back() -> None:
    """A process that frees all but the last of many blocks keeps them until it is told."""
    code = (
        "import os\n"
        "from mirrorlog.processes.free_memory import release_free_memory\n"
        "def resident():\n"
        "    pages = int(open('/proc/self/statm').read().split()[1])\n"
        "    return pages * os.sysconf('SC_PAGESIZE')\n"
        "blocks = [bytearray(60_000) for _ in range(2_000)]\n"
        "last = bytearray(60_000)\n"
        "blocks.clear()\n"
        "kept = resident()\n"
        "release_free_memory()\n"
        "print(kept - resident())"
    )
    assert int(output_of(code)) > 50 << 20


@needs_glibc
def test_all_threads_of_what_runs_for_years_share_two_arenas() -> None:
    code = (
        "import ctypes, threading\n"
        "from mirrorlog.processes.free_memory import keep_memory_low\n"
        "keep_memory_low()\n"
        "all_have = threading.Barrier(13)\n"
        "def hold():\n"
        "    block = bytearray(10_000)\n"
        "    all_have.wait()\n"
        "    all_have.wait()\n"
        "for _ in range(12): threading.Thread(target=hold).start()\n"
        "all_have.wait()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.fdopen.restype = ctypes.c_void_p\n"
        "out = ctypes.c_void_p(libc.fdopen(1, b'w'))\n"
        "libc.malloc_info(0, out)\n"
        "libc.fflush(out)\n"
        "all_have.wait()\n"
    )
    assert output_of(code).count("<heap nr=") == 2


@needs_glibc
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    code = (
        "import resource\n"
        "from mirrorlog.processes.free_memory import reuse_freed_memory\n"
        "reuse_freed_memory()\n"
        "def faults():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def use():\n"
        "    before = faults()\n"
        "    blocks = [bytearray(b'x' * (10 << 20)) for _ in range(8)]\n"
        "    return faults() - before\n"
        "first = use()\n"
        "print(first, sum(use() for _ in range(5)))"
    )
    first, further = map(int, output_of(code).split())
    assert further < first
