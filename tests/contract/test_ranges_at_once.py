"""One suite for every device that reads and writes many ranges with one call."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import TypeAlias

import numpy as np
import pytest
from new_files import created_file

from mirrorlog.adapters import kernel_aio, range_transfers
from mirrorlog.adapters.direct_device import DirectDevice
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.kernel_aio import AioCommand, AioQueue, lent_queue
from mirrorlog.consumers.range_reads import PageMemory
from mirrorlog.domain.range_columns import Integers, RangeColumns
from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.memory_devices import MemoryDevice

SIZE = 4 << 20
BLOCK = 4096
Create: TypeAlias = Callable[[], FileDevice | MemoryDevice]


def memory_of(data: bytes) -> memoryview:
    memory = memoryview(mmap.mmap(-1, len(data)))
    memory[:] = data
    return memory


def draw(random: Random, *, unit: int, size_bytes: int = SIZE) -> RangeColumns:
    """Return ranges of multiples of `unit` bytes; none overlap."""
    cuts = sorted(random.sample(range(size_bytes // unit + 1), 400))
    ranges = [
        (start * unit, (end - start) * unit)
        for start, end in zip(cuts[::2], cuts[1::2], strict=True)
    ]
    return RangeColumns.of(ranges)


@pytest.fixture(params=["file", "direct", "memory"])
def create(request: pytest.FixtureRequest, tmp_path: Path) -> Create:
    def device() -> FileDevice | MemoryDevice:
        if request.param == "memory":
            return MemoryDevice(SIZE)
        kind = {"file": FileDevice, "direct": DirectDevice}[request.param]
        return created_file(kind, tmp_path / "volume", SIZE)

    return device


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FileDevice]:
    with FileDevice.create(tmp_path / "volume", SIZE) as device:
        device.pwrite(0, b"\xaa" * SIZE)
        device.flush()
        yield device


def answering(patch: pytest.MonkeyPatch, change: Callable[[AioCommand, Integers], None]) -> None:
    """Let `change` change what the kernel answers, in place. It does nothing for these ranges."""
    real = AioQueue.run

    def run(
        self: AioQueue, command: AioCommand, fd: int, ranges: RangeColumns, address: int
    ) -> Integers:
        results = ranges.lengths.copy()
        change(command, results)
        real(self, command, fd, ranges.where(results == ranges.lengths), address)
        return results

    patch.setattr(AioQueue, "run", run)


def without_aio(patch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def none() -> Iterator[None]:
        yield None

    patch.setattr(range_transfers, "lent_queue", none)


@pytest.mark.parametrize("is_only_writer", [False, True])
@pytest.mark.parametrize("unit", [BLOCK, 512, 1])
def test_ranges_at_once_are_the_same_as_one_by_one(
    create: Create, unit: int, is_only_writer: bool
) -> None:
    random = Random(unit)
    with create() as device:
        model = bytearray(random.randbytes(SIZE))
        device.pwrite(0, bytes(model))  # stays in the page cache
        for _ in range(3):
            ranges = draw(random, unit=unit)
            memory = memory_of(random.randbytes(ranges.size_bytes))
            device.pwrite_ranges(ranges, memory, is_only_writer=is_only_writer)
            for offset, length, place in ranges:
                model[offset : offset + length] = memory[place : place + length]
            memory[:] = bytes(len(memory))  # the memory is the caller's again
            assert device.pread(offset=0, length=SIZE) == model
            device.pread_ranges(ranges, memory)
            for offset, length, place in ranges:
                assert memory[place : place + length] == model[offset : offset + length]
        device.flush()
        assert device.pread(offset=0, length=SIZE) == model


def test_a_range_outside_is_refused_before_anything_is_written(create: Create) -> None:
    with create() as device:
        for bad in (SIZE - BLOCK + 1, -BLOCK, SIZE):
            ranges = RangeColumns.of([(0, BLOCK), (bad, BLOCK)])
            if isinstance(device, MemoryDevice):
                continue  # it writes range by range
            with pytest.raises(DeviceFailed, match=f"offset {bad}\\)"):
                device.pwrite_ranges(ranges, memory_of(b"x" * 2 * BLOCK), is_only_writer=True)
            with pytest.raises(DeviceFailed, match=f"offset {bad}\\)"):
                device.pread_ranges(ranges, memory_of(b"x" * 2 * BLOCK))
        assert device.size_bytes == SIZE and device.pread(offset=0, length=SIZE) == bytes(SIZE)


def test_a_closed_device_and_one_for_reading_write_nothing(create: Create, tmp_path: Path) -> None:
    device, ranges = create(), RangeColumns.of([(0, BLOCK), (2 * BLOCK, BLOCK)])
    device.pwrite_ranges(ranges, memory_of(b"x" * 2 * BLOCK), is_only_writer=True)
    if isinstance(device, FileDevice):
        reader = FileDevice(tmp_path / "volume", writable=False)
        with reader, pytest.raises(DeviceFailed, match="reading only"):
            reader.pwrite_ranges(ranges, memory_of(b"y" * 2 * BLOCK), is_only_writer=True)
    device.close()
    files = (tmp_path / "bystander").open("wb"), (tmp_path / "another").open("wb")
    with files[0], files[1], pytest.raises(DeviceFailed):
        device.pwrite_ranges(ranges, memory_of(b"y" * 2 * BLOCK), is_only_writer=True)
    assert not (tmp_path / "bystander").stat().st_size + (tmp_path / "another").stat().st_size


@pytest.mark.parametrize("is_only_writer", [False, True])
def test_a_range_that_fails_is_named(
    file: FileDevice, monkeypatch: pytest.MonkeyPatch, is_only_writer: bool
) -> None:
    ranges = RangeColumns.of([(index * 2 * BLOCK, BLOCK) for index in range(300)])
    memory = memory_of(b"x" * ranges.size_bytes)

    def two_fail(_command: AioCommand, results: Integers) -> None:
        results[[270, 290]] = -errno.EIO

    answering(monkeypatch, two_fail)
    with pytest.raises(DeviceFailed, match="writing failed") as caught:
        file.pwrite_ranges(ranges, memory, is_only_writer=is_only_writer)
    assert caught.value.where.endswith(f", offset {270 * 2 * BLOCK}")
    with pytest.raises(DeviceFailed, match="reading failed") as caught:
        file.pread_ranges(ranges, memory)
    assert caught.value.where.endswith(f", offset {270 * 2 * BLOCK}")


@pytest.mark.parametrize("answer", [0, 512, -errno.EINVAL, -errno.EAGAIN, -errno.EOPNOTSUPP])
def test_what_the_kernel_leaves_is_repeated_one_by_one(
    file: FileDevice, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    random = Random(answer)
    ranges = draw(random, unit=BLOCK)
    data = random.randbytes(ranges.size_bytes)

    def some_are_left(_command: AioCommand, results: Integers) -> None:
        results[::7] = answer

    answering(monkeypatch, some_are_left)
    for _ in range(2):
        file.pwrite(0, b"\xaa" * SIZE)
        file.flush()
        file.pwrite_ranges(ranges, memory_of(data), is_only_writer=True)
        memory = memory_of(bytes(len(data)))
        file.pread_ranges(ranges, memory)
        assert memory == data


def test_a_system_without_such_calls_and_a_file_system_without_o_direct_do_without(
    tmp_path: Path, file: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(7)
    monkeypatch.setattr(range_transfers, "os", _NoDirect)
    for _ in range(2):
        ranges = draw(random, unit=BLOCK)
        data = random.randbytes(ranges.size_bytes)
        file.pwrite_ranges(ranges, memory_of(data), is_only_writer=True)
        memory = memory_of(bytes(len(data)))
        file.pread_ranges(ranges, memory)
        assert memory == data
        without_aio(monkeypatch)


def test_few_ranges_are_not_worth_a_queue(
    file: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small cycle took four times as long as its calls: most cycles of idle volumes are small."""
    asked = list[int]()

    def none(_command: AioCommand, results: Integers) -> None:
        asked.append(len(results))

    answering(monkeypatch, none)
    for count in (3, 8, 9):
        ranges = RangeColumns.of([(index * 2 * BLOCK, BLOCK) for index in range(count)])
        memory = memory_of(Random(count).randbytes(ranges.size_bytes))
        file.pwrite_ranges(ranges, memory, is_only_writer=False)
        again = memory_of(bytes(len(memory)))
        file.pread_ranges(ranges, again)
        assert again == memory
    assert asked in ([9, 9], [])  # none where the system has no such queue


def test_memory_is_kept_and_large_pieces_are_huge_pages() -> None:
    memory = PageMemory()
    for size_bytes in (BLOCK, 1 << 20, 3 << 20):
        with memory.lent(size_bytes) as first, memory.lent(size_bytes) as other:
            assert min(len(first), len(other)) >= size_bytes
            first[:], other[:] = b"a" * len(first), b"b" * len(other)
            assert first[-1] == ord("a") and other[0] == ord("b")
            address = np.frombuffer(first, np.uint8).ctypes.data
            assert address % (BLOCK if size_bytes < 1 << 20 else 2 << 20) == 0
        with memory.lent(size_bytes) as again:
            assert again is other or again is first


def test_not_all_memory_is_kept_that_was_lent_at_a_time() -> None:
    memory = PageMemory()
    with ExitStack() as lent:
        pieces = {id(lent.enter_context(memory.lent(BLOCK))) for _ in range(40)}
        assert len(pieces) == 40
    assert 0 < len(memory._idle) < 20


def test_on_btrfs_writes_go_through_the_page_cache(
    file: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, a write past the cache makes an extent of its own, and takes longer."""
    opened = list[str]()
    real = os.open

    def noting(path: str, flags: int) -> int:
        opened.append(path)
        return real(path, flags)

    monkeypatch.setattr(range_transfers.os, "open", noting)
    ranges = RangeColumns.of([(index * 2 * BLOCK, BLOCK) for index in range(20)])
    memory = memory_of(Random(3).randbytes(ranges.size_bytes))
    for magic, times in ((0x9123683E, 0), (0xEF53, 1)):
        monkeypatch.setattr(range_transfers, "_file_system", lambda _, magic=magic: magic)
        with FileDevice(Path(file.address), writable=True) as device:
            opened.clear()
            device.pwrite_ranges(ranges, memory, is_only_writer=True)
            again = memory_of(bytes(len(memory)))
            device.pread_ranges(ranges, again)
            assert again == memory and len(opened) == times


class _NoDirect:
    """The module os, where no file can be opened past the page cache."""

    O_RDWR = O_CLOEXEC = O_DIRECT = 0

    @staticmethod
    def open(*_arguments: object) -> int:
        raise OSError(errno.EINVAL, "planned")


def test_no_queue_is_lent_twice_at_a_time_or_while_the_kernel_works_on_it() -> None:
    with lent_queue() as first, lent_queue() as second:
        if first is None or second is None:
            pytest.skip("this system has no io_submit")
        assert first is not second
        first.under_way = 1  # as after an interruption
    with lent_queue() as third, lent_queue() as fourth:
        assert first not in (third, fourth)
    assert len(set(map(id, kernel_aio._idle))) == len(kernel_aio._idle)
