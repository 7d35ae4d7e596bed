"""A storage is known by whatever name it is opened, and told from what is put in its place."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.ports.devices import DeviceIdentity

SIZE = 1 << 20


def identity(path: Path) -> DeviceIdentity:
    with closing(FileDevice(path, writable=False)) as device:
        return device.identity


def test_one_file_is_one_storage_by_each_of_its_names(tmp_path: Path) -> None:
    FileDevice.create(tmp_path / "a", SIZE).close()
    FileDevice.create(tmp_path / "b", SIZE).close()
    (tmp_path / "link").symlink_to("a")
    os.link(tmp_path / "a", tmp_path / "hard")
    first = identity(tmp_path / "a")
    assert identity(tmp_path / "link") == identity(tmp_path / "hard") == first
    assert not first.overlaps(identity(tmp_path / "b"))


def test_a_file_that_replaces_another_is_another(tmp_path: Path) -> None:
    FileDevice.create(tmp_path / "a", SIZE).close()
    before = identity(tmp_path / "a")
    (tmp_path / "a").unlink()
    FileDevice.create(tmp_path / "a", SIZE).close()  # ext4 gives it the same inode number
    assert identity(tmp_path / "a").lasting != before.lasting


def test_what_lies_on_a_storage_overlaps_it_and_parts_of_it_do_not() -> None:
    disk = DeviceIdentity(storage="disk 8:0")
    one = DeviceIdentity(storage="disk 8:1", below=frozenset({"disk 8:0"}))
    two = DeviceIdentity(storage="disk 8:2", below=frozenset({"disk 8:0"}))
    assert disk.overlaps(one) and one.overlaps(disk) and one.overlaps(one)
    assert not one.overlaps(two)


@pytest.fixture
def loop_over(tmp_path: Path) -> Iterator[list[Path]]:
    """Yield a file, and two loop devices over it."""
    FileDevice.create(tmp_path / "file", SIZE).close()
    losetup, loops = shutil.which("losetup"), list[Path]()
    try:
        for _ in range(2):
            if losetup is None:
                pytest.skip("losetup isn't installed")
            made = subprocess.run(
                [losetup, "--find", "--show", str(tmp_path / "file")],
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                pytest.skip(f"no loop device can be made here: {made.stderr.strip()}")
            loops.append(Path(made.stdout.strip()))
        yield [tmp_path / "file", *loops]
    finally:
        for loop in loops:
            subprocess.run(["losetup", "--detach", str(loop)], check=False)


def test_a_loop_device_is_its_file(loop_over: list[Path]) -> None:
    file, one, two = map(identity, loop_over)
    assert one.overlaps(file) and file.overlaps(one) and one.overlaps(two)
    assert one.lasting == two.lasting
