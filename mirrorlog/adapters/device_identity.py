"""Which storage an open file or block device is: its DeviceIdentity on Linux.

Sources: stat(2), FS_IOC_GETVERSION (linux/fs.h), LOOP_GET_STATUS64 (loop(4)), and sysfs
(Documentation/ABI/stable/sysfs-block).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from mirrorlog.adapters.machine import boot_id
from mirrorlog.ports.devices import DeviceIdentity

FS_IOC_GETVERSION: Final = 0x80087601
LOOP_GET_STATUS64: Final = 0x4C05
_LOOP_INFO: Final = struct.Struct("<QQQQ")
"""The beginning of struct loop_info64: lo_device, lo_inode, lo_rdevice, lo_offset."""
_LOOP_INFO_BYTES: Final = 232
_LOOP_MAJOR: Final = 7
_DISKS_S: Final = 1.0
"""For so long, it counts as known on which disks a file system lies."""
_SYSFS: Final = Path("/sys/dev/block")
_SERIALS: Final = ("wwid", "device/wwid", "serial", "device/serial", "dm/uuid", "md/uuid")


def identity_of(fd: int) -> DeviceIdentity:
    """Return the identity of an open regular file or block device. Raise OSError."""
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode):
        return DeviceIdentity(
            storage=_file(status.st_dev, status.st_ino),
            below=_disks_of_files(status.st_dev, int(time.monotonic() / _DISKS_S)),
            lasting=f"inode {status.st_ino}{_inode_generation(fd)}",
        )
    if os.major(status.st_rdev) == _LOOP_MAJOR and (loop := _loop_identity(fd)) is not None:
        return loop
    first, *below = _disks_below(status.st_rdev)
    return DeviceIdentity(
        storage=first, below=frozenset(below), lasting=_disk_serial(status.st_rdev)
    )


def device_name(identity: DeviceIdentity) -> str | None:
    """Return the name by which two machines know a block device; None for a file.

    It is the serial number. A device without one has a name on its own machine alone, until that
    restarts.
    """
    if identity.storage.startswith("file ") and " from " not in identity.storage:
        return None
    if identity.lasting is not None and identity.lasting.startswith("serial "):
        return f"device {identity.lasting}"
    return f"device {identity.storage}, boot {boot_id()}"


def _file(device: int, inode: int) -> str:
    return f"file {device}:{inode}"


def _disk(device: int) -> str:
    return f"disk {os.major(device)}:{os.minor(device)}"


def _inode_generation(fd: int) -> str:
    """Return what tells a file from a later one with the same inode number, if that is known.

    ext4, XFS and Btrfs know it, tmpfs doesn't.
    """
    number = bytearray(8)
    try:
        fcntl.ioctl(fd, FS_IOC_GETVERSION, number)
    except OSError:
        return ""
    return f" generation {int.from_bytes(number[:4], 'little')}"


def _loop_identity(fd: int) -> DeviceIdentity | None:
    """Return the identity of a loop device: it is a part of its file. None if it has no file."""
    info = bytearray(_LOOP_INFO_BYTES)
    try:
        fcntl.ioctl(fd, LOOP_GET_STATUS64, info)
    except OSError:
        return None
    device, inode, _, offset = _LOOP_INFO.unpack_from(info)
    return DeviceIdentity(
        storage=f"{_file(device, inode)} from {offset}",
        below=frozenset({_file(device, inode), *_disks_below(device)}),
        lasting=f"inode {inode} from {offset}",
    )


def _disks_below(device: int) -> Iterator[str]:
    """Yield the disk with this device number, then each on which it lies.

    A partition lies on its disk, and a device of the device mapper or of md on its members.
    """
    yield _disk(device)
    entry = _SYSFS / f"{os.major(device)}:{os.minor(device)}"
    numbers = []
    with suppress(OSError):
        if (entry / "partition").exists():
            numbers.append((entry.resolve().parent / "dev").read_text("ascii"))
        if (entry / "slaves").is_dir():
            numbers += [
                (member / "dev").read_text("ascii") for member in (entry / "slaves").iterdir()
            ]
    for number in numbers:
        major, _, minor = number.strip().partition(":")
        yield from _disks_below(os.makedev(int(major), int(minor)))


@lru_cache(maxsize=64)
def _disks_of_files(device: int, period: int) -> frozenset[str]:
    """Return the disks below a file system with this device number, as of a short period."""
    del period
    return frozenset(_disks_below(device))


def _disk_serial(device: int) -> str | None:
    """Return the serial number that the disk reports, with the number of a partition, or None."""
    entry = _SYSFS / f"{os.major(device)}:{os.minor(device)}"
    if (entry / "partition").exists():
        number = _read_line(entry / "partition")
        parent = _first_serial(entry.resolve().parent)
        return None if parent is None else f"{parent} partition {number}"
    return _first_serial(entry)


def _first_serial(entry: Path) -> str | None:
    serials = (_read_line(entry / name) for name in _SERIALS)
    serial = next((serial for serial in serials if serial), None)
    return None if serial is None else f"serial {serial}"


def _read_line(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
