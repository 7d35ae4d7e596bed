"""One suite for every BlockDevice, then what only files do."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Protocol

import pytest
from deadlines import DEADLINE_S

from mirrorlog.adapters import file_device
from mirrorlog.adapters.direct_device import DirectDevice
from mirrorlog.adapters.file_device import FileDevice, open_device, open_primary
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


@pytest.fixture(params=["file", "direct", "memory"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    rigs = {
        "file": lambda: FileRig(tmp_path),
        "direct": lambda: DirectRig(tmp_path),
        "memory": MemoryRig,
    }
    return rigs[request.param]()


def test_a_new_device_is_zeros(rig: Rig) -> None:
    with rig.create(SIZE) as device:
        assert (device.size_bytes, device.pread(offset=0, length=SIZE)) == (SIZE, bytes(SIZE))


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, SIZE - 5000])
def test_what_was_written_is_read(rig: Rig, offset: int, wrap: Callable[[bytes], bytes]) -> None:
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
def test_nothing_outside_is_touched(rig: Rig, offset: int, length: int) -> None:
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
def test_zero_reads_as_zeros_and_spares_its_neighbours(rig: Rig, offset: int, length: int) -> None:
    with rig.create(SIZE) as device:
        device.pwrite(0, b"x" * SIZE)
        device.zero(offset=offset, length=length)
        assert device.pread(offset=0, length=SIZE) == b"x" * offset + bytes(length) + b"x" * (
            SIZE - offset - length
        )
        assert device.size_bytes == SIZE


def test_allocated_names_what_holds_data_and_little_else(rig: Rig) -> None:
    pieces = {0: b"a", 5 * TIB // 8: b"b" * 10_000, TIB - 1: b"c"}
    with rig.create(TIB) as device:
        assert list(device.allocated()) == []
        for offset, data in pieces.items():
            device.pwrite(offset, data)
        found = list(device.allocated())
        for offset, data in pieces.items():
            assert any(
                start <= offset and offset + len(data) <= start + length for start, length in found
            )
        assert all(
            end < start
            for end, start in zip(
                [a + b for a, b in found], [a for a, _ in found[1:]], strict=False
            )
        )
        assert found[-1][0] + found[-1][1] <= TIB
        assert sum(length for _, length in found) < 1 << 20
        middle = found[1][0] + 1
        assert list(device.allocated(middle)) == [(middle, found[1][1] - 1), *found[2:]]
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


def test_a_closed_device_does_nothing(rig: Rig, tmp_path: Path) -> None:
    device = rig.create(SIZE)
    device.close()
    device.close()
    with (tmp_path / "bystander").open("wb"):  # takes over the number of the descriptor
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
        device.resize(2 * SIZE)
        with pytest.raises(BadUse):
            device.resize(2 * SIZE - 1)
        assert device.pread(offset=0, length=2 * SIZE) == b"x" * SIZE + bytes(SIZE)
        device.pwrite(2 * SIZE - 1, b"y")
    with rig.reopen() as device:
        assert device.size_bytes == 2 * SIZE


def test_a_flush_that_failed_is_never_followed_by_one_that_succeeds(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
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


# Files


def test_short_reads_and_writes_are_carried_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 7), offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:5], offset))
    data = bytes(range(100))
    with FileDevice.create(tmp_path / "volume", SIZE) as device:
        device.pwrite(3, data)
        assert device.pread(offset=3, length=100) == data


@pytest.mark.parametrize(
    ("code", "advice"), [(errno.ENOSPC, "Free space"), (errno.EIO, "kernel log")]
)
def test_an_error_says_where_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with FileDevice.create(tmp_path / "volume", SIZE) as device:
        monkeypatch.setattr(os, "pwrite", fail)
        monkeypatch.setattr(os, "pread", fail)
        for operation in (
            lambda: device.pwrite(4096, b"x"),
            lambda: device.pread(offset=4096, length=1),
        ):
            with pytest.raises(DeviceFailed) as caught:
                operation()
            assert caught.value.where == f"{tmp_path / 'volume'}, offset 4096"
            assert advice in caught.value.next


def test_a_file_cut_short_is_told_from_zeros(tmp_path: Path) -> None:
    with FileDevice.create(tmp_path / "volume", SIZE) as device:
        os.truncate(tmp_path / "volume", 5000)
        with pytest.raises(DeviceFailed) as caught:
            device.pread(offset=4096, length=4096)
        assert caught.value.where.endswith(", offset 5000")


def test_where_no_hole_can_be_punched_zeros_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_device, "_punch_hole", lambda *_: False)
    monkeypatch.setattr(file_device, "ZEROS_AT_ONCE_BYTES", 1000)
    with FileDevice.create(tmp_path / "volume", SIZE) as device:
        device.pwrite(0, b"x" * SIZE)
        device.zero(offset=10, length=4321)
        assert device.pread(offset=0, length=SIZE) == b"x" * 10 + bytes(4321) + b"x" * (SIZE - 4331)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_where_holes_are_not_told_all_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with FileDevice.create(tmp_path / "volume", SIZE) as device:
        monkeypatch.setattr(os, "lseek", fail)
        assert list(device.allocated()) == [(0, SIZE)]


def test_resize_keeps_what_somebody_else_added(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    with FileDevice.create(path, SIZE) as device:
        os.truncate(path, 10 * SIZE)
        device.resize(2 * SIZE)
        assert (device.size_bytes, path.stat().st_size) == (2 * SIZE, 10 * SIZE)


def test_create_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    path.write_bytes(b"precious")
    with pytest.raises(BadUse):
        FileDevice.create(path, SIZE)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("step", ["ftruncate", "fsync"])
def test_create_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "planned")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(DeviceFailed, match="Free space"):
        FileDevice.create(tmp_path / "volume", SIZE)
    assert list(tmp_path.iterdir()) == []


def test_create_makes_the_file_durable_and_then_its_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    real = os.fsync

    def record(fd: int) -> None:
        synced.append((Path(f"/proc/self/fd/{fd}").readlink(), os.fstat(fd).st_size))
        real(fd)

    monkeypatch.setattr(os, "fsync", record)
    FileDevice.create(tmp_path / "volume", SIZE).close()
    assert synced[0] == (tmp_path / "volume", SIZE)
    assert [path for path, _ in synced[1:]] == [tmp_path]


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///a/b", "/a/b"),
        ("file:/a/b", "/a/b"),
        ("FILE://localhost/a%20b%3F%23", "/a b?#"),
        ("/a b?#%20", "/a b?#%20"),
        ("some:thing/a", "some:thing/a"),
    ],
)
def test_addresses_of_files(address: str, path: str) -> None:
    assert file_device.path_of(address) == Path(path)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "a\0b",
            "file:///a%00b",
            "file://elsewhere/a",
            "file://",
            "file:///",
            "nbd://a/b",
            "x://",
        ),
        *(
            "file:///a?b",
            "file:///a?",
            "file:///a?direct=1&b",
            "file:///a?direct=1#b",
            "file:///a#b",
        ),
    ],
)
def test_addresses_of_nothing(address: str) -> None:
    with pytest.raises(BadUse) as caught:
        open_device(address, writable=False)
    assert "file" in caught.value.next


def test_only_files_and_block_devices_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(BadUse):
            open_device(str(path), writable=True)
    with pytest.raises(DeviceFailed, match="create"):
        open_device(str(tmp_path / "missing"), writable=True)
    assert not (tmp_path / "missing").exists()


def test_both_openers_keep_to_the_port(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("address", ["file:///a%20b", "file:///a%3Fb?direct=1"])
def test_an_address_is_what_it_was(address: str) -> None:
    assert file_device.file_address(address).uri == address


def test_a_part_of_a_block_and_all_of_it_are_written_at_once(tmp_path: Path) -> None:
    """Who writes a few bytes past the page cache reads and writes back the rest of their block."""
    rig, stopped = DirectRig(tmp_path), Event()
    with rig.create(2 * 4096) as device, ThreadPoolExecutor(2) as pool:

        def write_the_edge() -> None:
            while not stopped.is_set():
                device.pwrite(4000, b"e" * 192)  # the end of one block, the beginning of the next

        pool.submit(write_the_edge)
        lost = 0
        try:
            for number in range(200):
                data = bytes([number + 1]) * 4096
                device.pwrite(0, data)
                lost += device.pread(offset=0, length=4000) != data[:4000]
        finally:
            stopped.set()
        assert lost == 0


def test_past_the_page_cache_only_whole_blocks(tmp_path: Path) -> None:
    DirectRig(tmp_path).create(4096).close()
    FileDevice.create(tmp_path / "odd", 4096 + 100).close()
    with pytest.raises(BadUse, match="4196 bytes aren't a multiple"):
        open_device(f"{(tmp_path / 'odd').as_uri()}?direct=1", writable=True)


def test_one_writer_on_a_machine(tmp_path: Path) -> None:
    FileDevice.create(tmp_path / "volume", SIZE).close()
    address = str(tmp_path / "volume")
    with open_primary(address, exclusive=True):
        for held in (address, (tmp_path / "volume").as_uri()):
            with pytest.raises(BadUse, match="another process on this machine"):
                open_primary(held, exclusive=True)
        open_device(address, writable=False).close()  # sites read it
        open_primary(address, exclusive=False).close()  # a volume that is shared
    open_primary(address, exclusive=True).close()


@pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-utils isn't installed")
def test_qemu_and_a_host_keep_each_other_off(tmp_path: Path) -> None:
    FileDevice.create(tmp_path / "volume", 1 << 20).close()
    command = ["qemu-io", "-f", "raw", str(tmp_path / "volume"), "-c", "write 0 512"]
    with open_primary(str(tmp_path / "volume"), exclusive=True):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, "lock" in done.stderr) == (1, True)
    socket = tmp_path / "socket"
    serving = [
        "qemu-nbd",
        "--persistent",
        "--format=raw",
        f"--socket={socket}",
        str(tmp_path / "volume"),
    ]
    with subprocess.Popen(serving) as qemu:
        try:
            until = time.monotonic() + DEADLINE_S
            asking = ["qemu-img", "info", f"nbd+unix:///?socket={socket}"]
            while subprocess.run(
                asking, capture_output=True, check=False
            ).returncode:  # it listens before it opens the image
                assert qemu.poll() is None and time.monotonic() < until
            with pytest.raises(BadUse, match="QEMU"):
                open_primary(str(tmp_path / "volume"), exclusive=True)
        finally:
            qemu.terminate()
    open_primary(str(tmp_path / "volume"), exclusive=True).close()
