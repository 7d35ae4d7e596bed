"""One suite for every device that does several writes with one call, as if one after the other."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TypeAlias

import pytest
from new_files import created_file

from mirrorlog.adapters import range_transfers
from mirrorlog.adapters.direct_device import DirectDevice
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.kernel_aio import AioCommand, AioQueue
from mirrorlog.domain.range_columns import Integers, RangeColumns
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import WritesInOrder

SIZE = 1 << 20
BLOCK = 4096
Create: TypeAlias = Callable[[], FileDevice]


@pytest.fixture(params=[FileDevice, DirectDevice])
def create(request: pytest.FixtureRequest, tmp_path: Path) -> Create:
    return lambda: created_file(request.param, tmp_path / "volume", SIZE)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FileDevice]:
    with FileDevice.create(tmp_path / "volume", SIZE) as device:
        yield device


def kernel(
    patch: pytest.MonkeyPatch, answer: Callable[[Integers], Integers] = lambda results: results
) -> list[int]:
    """Let the kernel do what it is given last first, and answer something else.

    Return a list of how many writes it is given together; it grows.
    """
    real, given = AioQueue.run, list[int]()

    def run(
        self: AioQueue, command: AioCommand, fd: int, ranges: RangeColumns, address: int
    ) -> Integers:
        given.append(len(ranges))
        backwards = RangeColumns(ranges.offsets[::-1], ranges.lengths[::-1], ranges.places[::-1])
        return answer(real(self, command, fd, backwards, address)[::-1])

    patch.setattr(AioQueue, "run", run)
    return given


def draw(random: Random, *, unit: int, units: int) -> list[tuple[int, bytes]]:
    """Return 100 writes of one to three units. All lie in the first `units` units."""
    return [
        (random.randrange(units - 2) * unit, random.randbytes(random.randint(1, 3) * unit))
        for _ in range(100)
    ]


@pytest.mark.parametrize("unit, units", [(BLOCK, 250), (BLOCK, 8), (512, 500), (1, 5000)])
def test_where_writes_overlap_the_last_one_stands(
    create: Create, monkeypatch: pytest.MonkeyPatch, unit: int, units: int
) -> None:
    random, model = Random(unit + units), bytearray(SIZE)
    kernel(monkeypatch)
    with create() as device:
        assert isinstance(device, WritesInOrder)
        for _ in range(5):
            writes = draw(random, unit=unit, units=units)
            device.pwrite_in_order(writes)
            for offset, data in writes:
                model[offset : offset + len(data)] = data
            assert device.pread(offset=0, length=SIZE) == model


def test_writes_of_which_no_two_overlap_are_given_to_the_kernel_together(
    file: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = kernel(monkeypatch)
    file.pwrite_in_order([(number * BLOCK, b"x" * BLOCK) for number in range(100)])
    assert given == [100]
    file.pwrite_in_order([(number % 50 * BLOCK, bytes([number]) * BLOCK) for number in range(100)])
    assert given[1:] == [50, 50]
    assert file.pread(offset=0, length=BLOCK) == bytes([50]) * BLOCK


def too_short(results: Integers) -> Integers:
    results[::3] -= 1
    return results


def unable(results: Integers) -> Integers:
    results[1::2] = -errno.EAGAIN
    return results


@pytest.mark.parametrize("answer", [too_short, unable])
def test_what_the_kernel_did_not_do_is_done_one_by_one(
    file: FileDevice, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Integers], Integers]
) -> None:
    writes = [(number * 10, bytes([number]) * 10) for number in range(100)]
    again: list[int] = []
    real = file.pwrite
    kernel(monkeypatch, answer)
    monkeypatch.setattr(
        file, "pwrite", lambda offset, data: (again.append(offset), real(offset, data))
    )
    file.pwrite_in_order(writes)
    assert again == [offset for offset, _ in (writes[::3] if answer is too_short else writes[1::2])]
    assert file.pread(offset=0, length=1000) == b"".join(data for _, data in writes)


def test_without_asynchronous_writes_all_are_done_one_by_one(
    file: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def none() -> Iterator[None]:
        yield None

    monkeypatch.setattr(range_transfers, "lent_queue", none)
    writes = [(number * 10, bytes([number]) * 10) for number in range(100)]
    file.pwrite_in_order(writes)
    assert file.pread(offset=0, length=1000) == b"".join(data for _, data in writes)


@pytest.mark.parametrize("bad", [-1, SIZE, SIZE - 5])
def test_a_write_outside_is_refused(create: Create, bad: int) -> None:
    writes = [(number * 10, b"x" * 10) for number in range(20)]
    writes[15] = (bad, b"x" * 10)
    with create() as device:
        with pytest.raises(DeviceFailed, match=f"offset {bad}"):
            device.pwrite_in_order(writes)
        assert device.size_bytes == SIZE
        assert (device.real_path()).stat().st_size == SIZE


def test_a_closed_device_and_one_for_reading_refuse_writes(create: Create) -> None:
    writes = [(number * 10, b"x" * 10) for number in range(20)]
    with create() as device:
        path = device.real_path()
        with type(device)(path, writable=False) as reader, pytest.raises(DeviceFailed):
            reader.pwrite_in_order(writes)
    with pytest.raises(DeviceFailed):
        device.pwrite_in_order(writes)
