"""FileDevice beyond the contract of BlockDevice (tests/contract/test_devices.py)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mirrorlog.adapters import file_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.devices import ForgetsCache, StartsWriteback

SIZE = 3 * 4096 + 512


def test_short_reads_and_writes_are_continued(
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
def test_an_error_names_the_offset_and_the_next_step(
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


def test_reading_a_truncated_file_fails(tmp_path: Path) -> None:
    with FileDevice.create(tmp_path / "volume", SIZE) as device:
        os.truncate(tmp_path / "volume", 5000)
        with pytest.raises(DeviceFailed) as caught:
            device.pread(offset=4096, length=4096)
        assert caught.value.where.endswith(", offset 5000")


def test_zeros_are_written_if_no_hole_can_be_punched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_device, "_punch_hole", lambda *_, **__: False)
    monkeypatch.setattr(file_device, "ZEROS_AT_ONCE_BYTES", 1000)
    with FileDevice.create(tmp_path / "volume", SIZE) as device:
        device.pwrite(0, b"x" * SIZE)
        device.zero(offset=10, length=4321)
        assert device.pread(offset=0, length=SIZE) == b"x" * 10 + bytes(4321) + b"x" * (SIZE - 4331)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_everything_is_allocated_if_lseek_finds_no_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with FileDevice.create(tmp_path / "volume", SIZE) as device:
        monkeypatch.setattr(os, "lseek", fail)
        assert list(device.allocated()) == [(0, SIZE)]


def test_resize_never_truncates_a_file_that_another_process_grew(tmp_path: Path) -> None:
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
def test_a_failed_create_leaves_no_file(
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


def test_files_that_are_created_together_wait_for_their_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    real = os.fsync

    def record(fd: int) -> None:
        synced.append((Path(f"/proc/self/fd/{fd}").readlink().name, os.fstat(fd).st_size))
        real(fd)

    monkeypatch.setattr(os, "fsync", record)
    sizes = {tmp_path / f"v{number}": number * SIZE for number in range(40)}
    FileDevice.create_all(sizes)
    assert sorted(synced[:-1]) == sorted((path.name, size) for path, size in sizes.items())
    assert synced[-1][0] == tmp_path.name


def test_of_files_that_are_created_together_all_are_there_or_none(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"precious")
    with pytest.raises(BadUse):
        FileDevice.create_all({tmp_path / "v": SIZE, tmp_path / "taken": SIZE})
    with pytest.raises(DeviceFailed):
        FileDevice.create_all({tmp_path / "v": SIZE, tmp_path / "missing" / "w": SIZE})
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_bytes() == b"precious"


def test_writing_back_may_begin_before_a_flush(tmp_path: Path) -> None:
    device = FileDevice.create(tmp_path / "volume.img", 1 << 20)
    assert isinstance(device, StartsWriteback)
    device.pwrite(4096, b"x" * 4096)
    device.start_writeback(offset=4096, length=4096)
    device.start_writeback(offset=0, length=0)
    device.flush()
    device.close()
    with pytest.raises(DeviceFailed, match="writing back failed"):
        device.start_writeback(offset=0, length=4096)


def test_what_is_forgotten_was_made_durable_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[str]()
    advise, sync = os.posix_fadvise, os.fdatasync
    monkeypatch.setattr(
        os, "posix_fadvise", lambda *arguments: calls.append("advise") or advise(*arguments)
    )
    monkeypatch.setattr(os, "fdatasync", lambda fd: calls.append("sync") or sync(fd))
    with FileDevice.create(tmp_path / "volume.img", 1 << 20) as device:
        assert isinstance(device, ForgetsCache)
        device.pwrite(4096, b"x" * 4096)
        device.forget_cached()
        assert calls == ["sync", "advise"]
        assert device.pread(offset=4096, length=4096) == b"x" * 4096
