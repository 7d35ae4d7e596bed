"""Many ranges of an NBD export are read and written with many requests under way at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import TypeAlias

import pytest
from nbd_servers import Nbdkit, NbdServer, QemuNbd, skip_without

from mirrorlog.adapters.nbd_client import export_calls
from mirrorlog.adapters.nbd_client.export_calls import EARLY_FLUSH_BYTES, ExportCalls
from mirrorlog.adapters.nbd_client.nbd_connection import NbdConnection, Request
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.adapters.nbd_client.request_lanes import IN_FLIGHT
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.memory_devices import MemoryDevice

BLOCK = 4096
SIZE = 2048 * BLOCK
BAD_BLOCK = 40
THREADS = 8
Target: TypeAlias = NbdDevice | MemoryDevice


def open_export(server: NbdServer, *, writable: bool = False, request_s: float = 60) -> NbdDevice:
    return NbdDevice(parse_nbd_uri(server.uri), writable=writable, request_s=request_s)


def memory_for(ranges: RangeColumns) -> memoryview:
    return memoryview(mmap.mmap(-1, ranges.size_bytes))


def draw(random: Random, unit: int) -> RangeColumns:
    """Return ranges of multiples of `unit` bytes; none overlap."""
    cuts = sorted(random.sample(range(SIZE // unit + 1), 2 * IN_FLIGHT + 200))
    return RangeColumns.of(
        (start * unit, (end - start) * unit)
        for start, end in zip(cuts[::2], cuts[1::2], strict=True)
    )


@pytest.fixture(params=[Nbdkit, QemuNbd])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NbdServer]:
    server = request.param(tmp_path)
    skip_without(type(server))
    server.image.write_bytes(Random(1).randbytes(SIZE))
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("unit", [BLOCK, 512, 1])
def test_ranges_at_once_are_the_same_as_one_by_one(server: NbdServer, unit: int) -> None:
    random, content = Random(unit), server.image.read_bytes()
    ranges = draw(random, unit)
    memory = memory_for(ranges)
    with open_export(server) as device:
        for _ in range(2):
            device.pread_ranges(ranges, memory)
            for offset, length, place in ranges:
                assert memory[place : place + length] == content[offset : offset + length]
            memory[:] = bytes(len(memory))


@pytest.fixture(params=["nbdkit", "nbdkit without zero", "qemu-nbd", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """Yield a device of zeros to write to. Where it is an export, it has one connection only."""
    if request.param == "memory":
        yield MemoryDevice(SIZE)
        return
    options, kind = (), QemuNbd
    if request.param.startswith("nbdkit"):
        options, kind = ("--filter=nozero",) if "without" in request.param else (), Nbdkit
    server = kind(tmp_path, *options)
    skip_without(kind)
    server.image.write_bytes(bytes(SIZE))
    server.start()
    with open_export(server, writable=True) as device:
        yield device
        device.flush()
        content = device.pread(offset=0, length=SIZE)
    assert server.image.read_bytes() == content
    server.kill()


@pytest.mark.parametrize("unit", [BLOCK, 512, 1])
def test_ranges_are_written_and_zeroed_at_once_and_nothing_else(target: Target, unit: int) -> None:
    random, model = Random(unit), bytearray(SIZE)
    for _ in range(2):
        written, zeroed = draw(random, unit), draw(random, unit)
        memory = memory_for(written)
        memory[:] = random.randbytes(len(memory))
        target.pwrite_ranges(written, memory, is_only_writer=False)
        for offset, length, place in written:
            model[offset : offset + length] = memory[place : place + length]
        memory[:] = bytes(len(memory))  # the memory is the caller's again
        target.zero_ranges(zeroed)
        for offset, length, _ in zeroed:
            model[offset : offset + length] = bytes(length)
        assert target.pread(offset=0, length=SIZE) == model


def test_threads_read_and_write_at_once_and_each_gets_its_own(target: Target) -> None:
    size_bytes, first = SIZE // THREADS, Random(7).randbytes(SIZE)
    target.pwrite(0, first)

    def run(thread: int) -> None:
        random, start = Random(thread), thread * size_bytes
        content = bytearray(first[start : start + size_bytes])
        for _ in range(3):
            blocks = sorted(random.sample(range(size_bytes // BLOCK), 100))
            ranges = RangeColumns.of([(start + block * BLOCK, BLOCK) for block in blocks])
            memory = memory_for(ranges)
            memory[:] = random.randbytes(len(memory))
            target.pwrite_ranges(ranges, memory, is_only_writer=False)
            for block, place in zip(blocks, ranges.places.tolist(), strict=True):
                content[block * BLOCK : (block + 1) * BLOCK] = memory[place : place + BLOCK]
            every = RangeColumns.of([(start + at, BLOCK) for at in range(0, size_bytes, BLOCK)])
            memory = memory_for(every)
            if isinstance(target, NbdDevice):
                target.pread_ranges(every, memory)
            else:
                memory[:] = target.pread(offset=start, length=size_bytes)
            assert memory == content

    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(run, range(THREADS))) == [None] * THREADS


def test_a_write_outside_or_to_an_export_for_reading_changes_nothing(server: NbdServer) -> None:
    content, before = server.image.read_bytes(), RangeColumns.of([(0, BLOCK)])
    outside = RangeColumns.of([(0, BLOCK), (SIZE - 1, BLOCK)])
    with open_export(server, writable=True) as device:
        for write in (
            lambda: device.pwrite_ranges(outside, memory_for(outside), is_only_writer=True),
            lambda: device.zero_ranges(outside),
        ):
            with pytest.raises(DeviceFailed, match="aren't all inside"):
                write()
    with open_export(server) as device:
        with pytest.raises(DeviceFailed, match="reading only"):
            device.pwrite_ranges(before, memory_for(before), is_only_writer=True)
        with pytest.raises(DeviceFailed, match="reading only"):
            device.zero_ranges(before)
    assert server.image.read_bytes() == content


@pytest.mark.parametrize("early_bytes", [1, EARLY_FLUSH_BYTES])
def test_after_a_server_died_with_ranges_unflushed_no_flush_succeeds(
    server: NbdServer, early_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_calls, "EARLY_FLUSH_BYTES", early_bytes)
    ranges = RangeColumns.of([(block * BLOCK, BLOCK) for block in range(2 * IN_FLIGHT)])
    for zeroes in (False, True):
        with open_export(server, writable=True) as device:
            if zeroes:
                device.zero_ranges(ranges)
            else:
                device.pwrite_ranges(ranges, memory_for(ranges), is_only_writer=False)
            server.kill()
            server.start()
            for call in (  # the first one finds the loss; no later one goes over a new connection
                lambda: device.pread(offset=0, length=1),
                lambda: device.pread(offset=0, length=1),
                device.flush,
            ):
                with pytest.raises(DeviceFailed):
                    call()


@pytest.mark.parametrize("kind", [Nbdkit, QemuNbd])
def test_long_ranges_that_the_server_says_are_zeros_are_not_read(
    kind: type[NbdServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = kind(tmp_path)
    skip_without(server)
    with server.image.open("wb") as image:
        image.truncate(8 * SIZE)
        for block in (3, 300, 301, 1800):
            image.seek(block * BLOCK)
            image.write(b"x" * BLOCK)
    content = server.image.read_bytes()
    read_bytes = 0
    send_read = NbdConnection.send_read

    def counted(self: NbdConnection, request: Request) -> int:
        nonlocal read_bytes
        read_bytes += request[2]
        return send_read(self, request)

    monkeypatch.setattr(NbdConnection, "send_read", counted)
    ranges = RangeColumns.of([(0, BLOCK), (2 * BLOCK, SIZE), (2 * SIZE, 5 * SIZE)])
    memory = memory_for(ranges)
    server.start()
    try:
        with open_export(server) as device:
            for _ in range(2):
                memory[:] = b"y" * len(memory)  # of an earlier batch
                device.pread_ranges(ranges, memory)
                for offset, length, place in ranges:
                    assert memory[place : place + length] == content[offset : offset + length]
    finally:
        server.kill()
    assert 0 < read_bytes < 2 * SIZE // 2


def test_a_server_that_is_never_right_about_zeros_is_rarely_asked(
    server: NbdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    extents_many = ExportCalls.extents_many

    def counted(self: ExportCalls, doing: str, ranges: Sequence[tuple[int, int]]) -> object:
        nonlocal asked
        asked += 1
        return extents_many(self, doing, ranges)

    monkeypatch.setattr(ExportCalls, "extents_many", counted)
    ranges = RangeColumns.of([(0, SIZE)])
    with open_export(server) as device:
        for _ in range(16):
            device.pread_ranges(ranges, memory_for(ranges))
    assert asked == 2


def test_a_range_outside_is_refused(server: NbdServer) -> None:
    ranges = RangeColumns.of([(0, BLOCK), (SIZE - 1, BLOCK)])
    with open_export(server) as device, pytest.raises(DeviceFailed) as caught:
        device.pread_ranges(ranges, memory_for(ranges))
    assert caught.value.where.endswith(f", offset {SIZE - 1}")


def test_a_server_that_is_gone_or_silent_fails_all_ranges(server: NbdServer) -> None:
    ranges = RangeColumns.of([(block * BLOCK, BLOCK) for block in range(2 * IN_FLIGHT)])
    with open_export(server, request_s=1) as device:
        device.pread_ranges(ranges, memory_for(ranges))
        server.pause()
        with pytest.raises(DeviceFailed, match="no answer"):
            device.pread_ranges(ranges, memory_for(ranges))
        server.kill()
        with pytest.raises(DeviceFailed):
            device.pread_ranges(ranges, memory_for(ranges))


def test_a_sector_that_fails_is_named_and_the_connection_goes_on(tmp_path: Path) -> None:
    server = FailingSector(tmp_path)
    skip_without(Nbdkit)
    server.start()
    try:
        bad = RangeColumns.of([(block * 8 * BLOCK, BLOCK) for block in range(10)])
        good = bad.where(bad.offsets != BAD_BLOCK * BLOCK)
        with open_export(server) as device:
            with pytest.raises(DeviceFailed) as caught:
                device.pread_ranges(bad, memory_for(bad))
            assert caught.value.where.endswith(f", offset {BAD_BLOCK * BLOCK}")
            memory = memory_for(bad)
            device.pread_ranges(good, memory)
            for _, length, place in good:
                assert memory[place : place + length] == b"x" * length
    finally:
        server.kill()


def test_a_sector_that_can_not_be_written_is_named_and_all_others_are_tried(
    tmp_path: Path,
) -> None:
    server = FailingSector(tmp_path)
    skip_without(Nbdkit)
    server.start()
    try:
        ranges = RangeColumns.of([(block * 8 * BLOCK, BLOCK) for block in range(10)])
        with open_export(server, writable=True) as device:
            for _ in range(2):  # the connection goes on
                with pytest.raises(DeviceFailed) as caught:
                    device.pwrite_ranges(ranges, memory_for(ranges), is_only_writer=False)
                assert caught.value.where.endswith(f", offset {BAD_BLOCK * BLOCK}")
            device.flush()
    finally:
        server.kill()


def test_an_early_flush_that_fails_is_the_end_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_calls, "EARLY_FLUSH_BYTES", 3 * BLOCK)
    server = FailingSector(tmp_path, flush="echo EIO planned >&2; exit 1")
    skip_without(Nbdkit)
    server.start()
    try:
        ranges = RangeColumns.of([(0, BLOCK), (2 * BLOCK, BLOCK)])
        with open_export(server, writable=True) as device:
            device.pwrite_ranges(ranges, memory_for(ranges), is_only_writer=False)
            with pytest.raises(DeviceFailed, match="flushing failed"):
                device.pwrite_ranges(ranges, memory_for(ranges), is_only_writer=False)
            for call in (device.flush, lambda: device.pread(offset=0, length=1)):
                with pytest.raises(DeviceFailed, match="an earlier flush failed"):
                    call()
    finally:
        server.kill()


class FailingSector(Nbdkit):
    """A server of `x` whose block BAD_BLOCK can't be read or written. flush: a shell script."""

    def __init__(self, folder: Path, *, flush: str = "exit 0") -> None:
        super().__init__(folder)
        self.flush = flush

    def _command(self) -> list[str]:
        read = (
            f"if [ $4 -eq {BAD_BLOCK * BLOCK} ]; then echo EIO planned >&2; exit 1; fi; "
            "head -c $3 /dev/zero | tr '\\0' x"
        )
        write = (
            f"cat >/dev/null; if [ $4 -eq {BAD_BLOCK * BLOCK} ]; then echo EIO planned >&2; "
            "exit 1; fi"
        )
        return [
            "nbdkit",
            f"--unix={self.socket}",
            f"--pidfile={self.pid_file}",
            "--foreground",
            "eval",
            f"get_size=echo {SIZE}",
            f"pread={read}",
            f"pwrite={write}",
            "can_write=exit 0",
            "can_flush=exit 0",
            f"flush={self.flush}",
        ]
