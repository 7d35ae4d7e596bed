"""One suite for every BlockDevice, and one for every DeviceOpener."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest
from nbd_servers import Nbdkit, NbdServer, QemuNbd, skip_without

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.direct_device import DirectDevice
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.nbd_client.nbd_connection import NbdConnection, RequestFailed
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.devices import BlockDevice, DeviceOpener
from mirrorlog.simulation.memory_devices import MemoryDevice, MemoryDevices, failing

SIZE = 3 * 4096 + 512
TIB = 1 << 40


class Rig(Protocol):
    def create(self, size_bytes: int) -> BlockDevice: ...
    def reopen(self, *, writable: bool = True) -> BlockDevice: ...
    def break_next_flush(self, patch: pytest.MonkeyPatch) -> None: ...


class FileRig:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "volume"

    def create(self, size_bytes: int) -> BlockDevice:
        return FileDevice.create(self.path, size_bytes)

    def reopen(self, *, writable: bool = True) -> BlockDevice:
        return open_device(self.path.as_uri(), writable=writable)

    def break_next_flush(self, patch: pytest.MonkeyPatch) -> None:
        real = os.fdatasync

        def fail_once(fd: int) -> None:
            patch.setattr(os, "fdatasync", real)
            raise OSError(errno.EIO, "planned")

        patch.setattr(os, "fdatasync", fail_once)


class DirectRig(FileRig):
    def create(self, size_bytes: int) -> BlockDevice:
        try:
            return DirectDevice.create(self.path, size_bytes)
        except BadUse as error:
            return pytest.skip(str(error))

    def reopen(self, *, writable: bool = True) -> BlockDevice:
        return open_device(f"{self.path.as_uri()}?direct=1", writable=writable)


class MemoryRig:
    device: MemoryDevice

    def create(self, size_bytes: int) -> BlockDevice:
        self.device = MemoryDevice(size_bytes)
        return self.device

    def reopen(self, *, writable: bool = True) -> BlockDevice:
        return self.device.reopen(writable=writable)

    def break_next_flush(self, patch: pytest.MonkeyPatch) -> None:
        self.device.hook = failing(1, "flush")


class NbdRig:
    """An export of a real server, which is started when the size is known."""

    def __init__(self, server: type[NbdServer], folder: Path) -> None:
        self.server = server(folder)
        skip_without(self.server)

    def create(self, size_bytes: int) -> BlockDevice:
        FileDevice.create(self.server.image, size_bytes).close()
        self.server.start()
        return open_device(self.server.uri, writable=True)

    def reopen(self, *, writable: bool = True) -> BlockDevice:
        return open_device(self.server.uri, writable=writable)

    def break_next_flush(self, patch: pytest.MonkeyPatch) -> None:
        real = NbdConnection.flush

        def fail_once(connection: NbdConnection) -> None:
            patch.setattr(NbdConnection, "flush", real)
            raise RequestFailed("planned", errno.EIO, is_lost=False)

        patch.setattr(NbdConnection, "flush", fail_once)


@pytest.fixture(params=["file", "direct", "memory", "nbdkit", "qemu-nbd"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    rigs: dict[str, Callable[[], Rig]] = {
        "file": lambda: FileRig(tmp_path),
        "direct": lambda: DirectRig(tmp_path),
        "memory": MemoryRig,
        "nbdkit": lambda: NbdRig(Nbdkit, tmp_path),
        "qemu-nbd": lambda: NbdRig(QemuNbd, tmp_path),
    }
    rig = rigs[request.param]()
    yield rig
    if isinstance(rig, NbdRig):
        rig.server.kill()


def test_a_new_device_is_zeros(rig: Rig) -> None:
    with rig.create(SIZE) as device:
        assert (device.size_bytes, device.pread(offset=0, length=SIZE)) == (SIZE, bytes(SIZE))


def test_a_device_is_known_again_by_whatever_handle(rig: Rig) -> None:
    with rig.create(SIZE) as device, rig.reopen(writable=False) as again:
        assert again.identity == device.identity
        assert again.identity.overlaps(device.identity)
        if isinstance(device, NbdDevice):  # a server may export something else tomorrow
            assert device.identity.lasting is None
            return
        assert device.identity.lasting
        other = MemoryDevice(SIZE)
        assert not other.identity.overlaps(device.identity)
        assert other.identity.lasting != device.identity.lasting


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, SIZE - 5000])
def test_writes_are_read_back(rig: Rig, offset: int, wrap: Callable[[bytes], bytes]) -> None:
    data = bytes(range(1, 251)) * 20
    with rig.create(SIZE) as device:
        device.pwrite(offset, wrap(data))
        assert device.pread(offset=0, length=SIZE) == bytes(offset) + data + bytes(
            SIZE - offset - len(data)
        )
        device.flush()
    with rig.reopen(writable=False) as device:
        assert device.pread(offset=offset, length=len(data)) == data


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (0, -1), (0, SIZE + 1), (SIZE, 1), (1 << 63, 1), (5, 1 << 64)]
)
def test_ranges_outside_are_refused(rig: Rig, offset: int, length: int) -> None:
    with rig.create(SIZE) as device:
        operations: list[Callable[[], object]] = [
            lambda: device.pread(offset=offset, length=length),
            lambda: device.zero(offset=offset, length=length),
        ]
        if 0 <= length <= SIZE + 1:
            operations.append(lambda: device.pwrite(offset, b"x" * length))
        for operation in operations:
            with pytest.raises(DeviceFailed) as caught:
                operation()
            assert caught.value.where.endswith(f", offset {offset}")
            assert caught.value.next
        assert device.pread(offset=0, length=SIZE) == bytes(SIZE)
    with rig.reopen() as device:
        assert device.size_bytes == SIZE


def test_the_empty_range_at_the_end_is_inside(rig: Rig) -> None:
    with rig.create(SIZE) as device:
        device.pwrite(SIZE, b"")
        device.zero(offset=SIZE, length=0)
        assert device.pread(offset=SIZE, length=0) == b""


@pytest.mark.parametrize(
    ("offset", "length"), [(0, SIZE), (4096, 4096), (10, 20), (4000, 5000), (SIZE - 1, 1)]
)
def test_zero_clears_its_range_and_no_other_byte(rig: Rig, offset: int, length: int) -> None:
    with rig.create(SIZE) as device:
        device.pwrite(0, b"x" * SIZE)
        device.zero(offset=offset, length=length)
        assert device.pread(offset=0, length=SIZE) == b"x" * offset + bytes(length) + b"x" * (
            SIZE - offset - length
        )
        assert device.size_bytes == SIZE


def test_allocated_yields_the_written_ranges_and_little_more(rig: Rig) -> None:
    pieces = {0: b"a", 5 * TIB // 8: b"b" * 10_000, TIB - 1: b"c"}
    with rig.create(TIB) as device:
        assert list(device.allocated()) == []
        for offset, data in pieces.items():
            device.pwrite(offset, data)
        ranges = list(device.allocated())
        for offset, data in pieces.items():
            assert any(
                start <= offset and offset + len(data) <= start + length for start, length in ranges
            )
        assert all(
            end < start
            for end, start in zip(
                [a + b for a, b in ranges], [a for a, _ in ranges[1:]], strict=False
            )
        )
        assert ranges[-1][0] + ranges[-1][1] <= TIB
        assert sum(length for _, length in ranges) < 1 << 20
        middle = ranges[1][0] + 1
        assert list(device.allocated(middle)) == [(middle, ranges[1][1] - 1), *ranges[2:]]
        assert list(device.allocated(TIB)) == []
        device.zero(offset=4096, length=TIB - 4096)
        assert list(device.allocated()) == [(0, 4096)]


def test_a_device_opened_for_reading_is_not_written(rig: Rig) -> None:
    rig.create(SIZE).close()
    with rig.reopen(writable=False) as device:
        operations: list[Callable[[], object]] = [
            lambda: device.pwrite(0, b"x"),
            lambda: device.zero(offset=0, length=1),
            lambda: device.resize(2 * SIZE),
        ]
        for operation in operations:
            with pytest.raises(DeviceFailed, match="reading only"):
                operation()
        assert device.pread(offset=0, length=SIZE) == bytes(SIZE)


def test_a_closed_device_refuses_every_call(rig: Rig, tmp_path: Path) -> None:
    device = rig.create(SIZE)
    device.close()
    device.close()
    with (tmp_path / "bystander").open("wb"):  # the file gets the number of the closed descriptor
        for operation in (
            lambda: device.pread(offset=0, length=1),
            lambda: device.pwrite(0, b"x"),
            lambda: device.zero(offset=0, length=1),
            device.flush,
            lambda: list(device.allocated()),
            lambda: device.resize(2 * SIZE),
        ):
            with pytest.raises(DeviceFailed):
                operation()
    assert (tmp_path / "bystander").stat().st_size == 0


def test_resize_grows_with_zeros_and_never_shrinks(rig: Rig) -> None:
    with rig.create(SIZE) as device:
        device.pwrite(0, b"x" * SIZE)
        device.resize(SIZE)
        if isinstance(device, NbdDevice):
            with pytest.raises(DeviceFailed, match=f"{SIZE} bytes"):
                device.resize(2 * SIZE)
            return
        device.resize(2 * SIZE)
        with pytest.raises(BadUse):
            device.resize(2 * SIZE - 1)
        assert device.pread(offset=0, length=2 * SIZE) == b"x" * SIZE + bytes(SIZE)
        device.pwrite(2 * SIZE - 1, b"y")
    with rig.reopen() as device:
        assert device.size_bytes == 2 * SIZE


def test_after_a_failed_flush_every_flush_fails(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig.create(SIZE) as device:
        device.pwrite(0, b"x")
        rig.break_next_flush(monkeypatch)
        for _ in range(2):
            with pytest.raises(DeviceFailed):
                device.flush()
    with rig.reopen() as device:
        device.pwrite(0, b"x")
        device.flush()


def test_threads_share_a_device(rig: Rig) -> None:
    piece = 1000
    with rig.create(64 * piece) as device, ThreadPoolExecutor(8) as pool:

        def write_and_read(number: int) -> bool:
            data = bytes([number + 1]) * piece
            for _ in range(20):
                device.pwrite(number * piece, data)
                if device.pread(offset=number * piece, length=piece) != data:
                    return False
            return True

        assert all(pool.map(write_and_read, range(64)))
        assert device.pread(offset=0, length=64 * piece) == b"".join(
            bytes([number + 1]) * piece for number in range(64)
        )


def test_both_openers_keep_the_contract(tmp_path: Path) -> None:
    memory = MemoryDevices()
    memory.create("memory://a", SIZE).pwrite(0, b"x")
    FileDevice.create(tmp_path / "a", SIZE).pwrite(0, b"x")
    openers: list[tuple[DeviceOpener, str]] = [
        (memory, "memory://"),
        (open_device, f"{tmp_path.as_uri()}/"),
    ]
    for opener, prefix in openers:
        with opener(f"{prefix}a", writable=False) as device:
            assert device.pread(offset=0, length=2) == b"x\0"
        with pytest.raises(DeviceFailed):
            opener(f"{prefix}b", writable=False)
        with pytest.raises(BadUse):
            opener("rbd://pool/image", writable=False)
