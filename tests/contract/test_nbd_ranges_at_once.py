"""Many ranges of an NBD export are read with many requests under way on one connection."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from nbd_servers import Nbdkit, NbdServer, QemuNbd, skip_without

from mirrorlog.adapters.nbd_client.nbd_connection import IN_FLIGHT
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.errors import DeviceFailed

BLOCK = 4096
SIZE = 1024 * BLOCK
BAD_BLOCK = 40


def open_export(server: NbdServer, *, request_s: float = 60) -> NbdDevice:
    return NbdDevice(parse_nbd_uri(server.uri), writable=False, request_s=request_s)


def memory_for(ranges: RangeColumns) -> memoryview:
    return memoryview(mmap.mmap(-1, ranges.size_bytes))


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
    cuts = sorted(random.sample(range(SIZE // unit + 1), 6 * IN_FLIGHT))
    ranges = RangeColumns.of(
        (start * unit, (end - start) * unit)
        for start, end in zip(cuts[::2], cuts[1::2], strict=True)
    )
    memory = memory_for(ranges)
    with open_export(server) as device:
        for _ in range(2):
            device.pread_ranges(ranges, memory)
            for offset, length, place in ranges:
                assert memory[place : place + length] == content[offset : offset + length]
            memory[:] = bytes(len(memory))


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


class FailingSector(Nbdkit):
    """A server of `x` whose block BAD_BLOCK can't be read."""

    def _command(self) -> list[str]:
        read = (
            f"if [ $4 -eq {BAD_BLOCK * BLOCK} ]; then echo EIO planned >&2; exit 1; fi; "
            "head -c $3 /dev/zero | tr '\\0' x"
        )
        return [
            "nbdkit",
            f"--unix={self.socket}",
            f"--pidfile={self.pid_file}",
            "--foreground",
            "eval",
            f"get_size=echo {SIZE}",
            f"pread={read}",
        ]
