"""MemoryDevice beyond the contract of BlockDevice: lost writes and planned failures."""

from __future__ import annotations

from random import Random

import pytest

from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.memory_devices import MemoryDevice, failing

SIZE = 8192


def test_a_crash_loses_unflushed_writes_and_nothing_else() -> None:
    device = MemoryDevice(SIZE)
    device.pwrite(0, b"kept" * 2000)
    device.flush()
    device.pwrite(0, b"lost")
    device.zero(offset=4096, length=4096)
    device.crash()
    with pytest.raises(DeviceFailed):
        device.pread(offset=0, length=1)
    assert device.reopen().pread(offset=0, length=SIZE) == (b"kept" * 2000).ljust(SIZE, b"\0")


def test_a_crash_may_keep_any_version_of_each_sector() -> None:
    seen = set()
    for seed in range(200):
        device = MemoryDevice(SIZE)
        device.pwrite(0, b"a" * SIZE)
        device.flush()
        device.pwrite(0, b"b" * SIZE)
        device.zero(offset=4096, length=1024)
        device.crash(Random(seed))
        content = device.reopen().pread(offset=0, length=SIZE)
        sectors = [content[start : start + 512] for start in range(0, SIZE, 512)]
        assert all(sector == sector[:1] * 512 for sector in sectors)
        seen.add((sectors[0][:1], sectors[8][:1]))
    assert seen == {(first, second) for first in (b"a", b"b") for second in (b"a", b"b", b"\0")}


def test_only_the_nth_operation_fails() -> None:
    device = MemoryDevice(SIZE)
    device.hook = failing(2, "pwrite")
    device.pwrite(0, b"1")
    device.pread(offset=0, length=1)
    with pytest.raises(DeviceFailed):
        device.pwrite(1, b"2")
    device.pwrite(2, b"3")
    assert device.pread(offset=0, length=3) == b"1\x003"


def test_writes_that_a_failed_flush_dropped_never_become_durable() -> None:
    device = MemoryDevice(SIZE)
    other = device.reopen()
    device.pwrite(0, b"x")
    device.hook = failing(1, "flush")
    with pytest.raises(DeviceFailed):
        device.flush()
    with pytest.raises(DeviceFailed):
        other.flush()
    assert device.pread(offset=0, length=1) == b"x"
    device.reopen().flush()
    device.crash()
    assert device.reopen().pread(offset=0, length=1) == b"\0"
