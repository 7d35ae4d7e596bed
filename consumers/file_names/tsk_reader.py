"""Maps the file systems of a device: partitions first, then each file system by its own reader.

This file and its neighbours `tsk_walk.py` and `image_reading.py` name pytsk3. They run in a process
of their own (scan.py): The Sleuth Kit is C code, and an image is whatever somebody wrote there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import pytsk3

from mirrorlog.consumers.file_names.ext_layout import ExtSuperblock, read_superblock
from mirrorlog.consumers.file_names.ext_reader import map_ext
from mirrorlog.consumers.file_names.fat_reader import map_exfat, map_fat
from mirrorlog.consumers.file_names.hfs_reader import map_hfs
from mirrorlog.consumers.file_names.image_reading import CachedDevice, DeviceImage
from mirrorlog.consumers.file_names.layout_reading import ReadAt, UnsupportedLayout
from mirrorlog.consumers.file_names.map_builder import AreaMap, MapBuilder, Tier
from mirrorlog.consumers.file_names.ntfs_reader import map_ntfs
from mirrorlog.consumers.file_names.owners import Area, Owner, OwnerKind
from mirrorlog.consumers.file_names.signatures import what_is_there
from mirrorlog.consumers.file_names.tsk_walk import READ_FAILED
from mirrorlog.consumers.file_names.xfs_reader import MAGIC, map_xfs

_ALLOCATED: Final = 0x01
_META: Final = 0x04
_MAX_TABLE_SECTORS: Final = 64
"""A longer entry is the whole extended partition, and not its table."""
_MAX_PARTITIONS: Final = 1024

TYPE_NAMES: Final = {
    int(pytsk3.TSK_FS_TYPE_EXT2): "ext2",
    int(pytsk3.TSK_FS_TYPE_EXT3): "ext3",
    int(pytsk3.TSK_FS_TYPE_EXT4): "ext4",
    int(pytsk3.TSK_FS_TYPE_NTFS): "NTFS",
    int(pytsk3.TSK_FS_TYPE_FAT12): "FAT12",
    int(pytsk3.TSK_FS_TYPE_FAT16): "FAT16",
    int(pytsk3.TSK_FS_TYPE_FAT32): "FAT32",
    int(pytsk3.TSK_FS_TYPE_EXFAT): "exFAT",
    int(pytsk3.TSK_FS_TYPE_HFS): "HFS+",
}
"""The file systems that are mapped, as people write them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedArea:
    """A partition, or the whole device, as it is to be read.

    number: of the partition; 0 for the whole device. start: its first byte. image: must live as
    long as `fs` is used. fs: the file system, as pytsk3 opened it; None if it can't be read here,
    and `what` says what is there. superblock: of ext2, ext3 and ext4. type_name: of the file
    system, as people write it.
    """

    number: int
    start: int
    image: DeviceImage
    fs: Any | None
    type_name: str | None
    superblock: ExtSuperblock | None
    what: str


@dataclass(frozen=True, slots=True)
class _Partition:
    """A range of a device, in bytes.

    number: 0 for the whole device. is_table: it holds a partition table, and no file system.
    """

    number: int
    start: int
    length: int
    is_table: bool = False


def map_device(device: CachedDevice, builder: MapBuilder, path: str | None = None) -> None:
    """Claim everything on a device. Raise DeviceFailed if it can't be read.

    path: of the device, if it is a file or block device of this machine.
    """
    image = DeviceImage(device)
    for part in _parts(image, device.size_bytes):
        if part.is_table:
            owner = Owner(kind=OwnerKind.PARTITION_TABLE)
            builder.claim(Tier.TABLE, part.start, part.length, owner)
        else:
            _map_partition(image, device, builder, part, path)
    if device.failure is not None:
        raise device.failure


def open_areas(device: CachedDevice) -> list[OpenedArea]:
    """Return the partitions of a device, or the whole of it, with their file systems opened.

    Raise DeviceFailed if the device can't be read.
    """
    image = DeviceImage(device)
    parts = [part for part in _parts(image, device.size_bytes) if not part.is_table]
    areas = [_opened(image, device, part) for part in parts]
    if device.failure is not None:
        raise device.failure
    return areas


def _opened(image: DeviceImage, device: CachedDevice, part: _Partition) -> OpenedArea:
    read = _reading(device, part)
    fs, superblock = _open_fs(image, part), None
    try:
        superblock = read_superblock(read)
        what = "XFS" if read(0, len(MAGIC)) == MAGIC else what_is_there(read)
    except UnsupportedLayout as error:
        fs, what = None, str(error)
    type_name = None if fs is None else TYPE_NAMES[int(fs.info.ftype)]
    return OpenedArea(
        number=part.number,
        start=part.start,
        image=image,
        fs=fs,
        type_name=type_name,
        superblock=superblock,
        what=what,
    )


def _parts(image: DeviceImage, size_bytes: int) -> list[_Partition]:
    """Return the partitions with their tables, or the whole device as one."""
    partitions = _partitions(image, size_bytes)
    whole = _Partition(0, 0, size_bytes)
    parts = [part for part in partitions if not part.is_table]
    if not any(_opens(image, part) for part in parts) and (not parts or _opens(image, whole)):
        return [whole]
    return partitions


def _partitions(image: DeviceImage, size_bytes: int) -> list[_Partition]:
    """Return the partitions of a device, and where its tables lie; none if it has no table."""
    try:
        volume = pytsk3.Volume_Info(image)
        sector = int(volume.info.block_size)
        entries = [
            (int(entry.start) * sector, int(entry.len) * sector, int(entry.flags))
            for entry in volume
        ]
    except READ_FAILED:
        return []
    partitions, number = [], 0
    for start, length, flags in entries[:_MAX_PARTITIONS]:
        if flags & _META:
            if length <= _MAX_TABLE_SECTORS * sector:
                partitions.append(_Partition(0, start, length, is_table=True))
        elif flags & _ALLOCATED:
            number += 1
            partitions.append(_Partition(number, start, min(length, max(size_bytes - start, 0))))
    return partitions


def _opens(image: DeviceImage, part: _Partition) -> bool:
    return part.length > 0 and _open_fs(image, part) is not None


def _open_fs(image: DeviceImage, part: _Partition) -> Any | None:
    """Return the file system of a partition; None if it isn't one of TYPE_NAMES."""
    try:
        fs = pytsk3.FS_Info(image, offset=part.start)
    except READ_FAILED:
        return None
    return fs if int(fs.info.ftype) in TYPE_NAMES else None


def _map_partition(
    image: DeviceImage,
    device: CachedDevice,
    builder: MapBuilder,
    part: _Partition,
    path: str | None,
) -> None:
    """Claim everything in a partition, or say that it can't be read."""
    read = _reading(device, part)
    bare = Area(number=part.number, start=part.start, length=part.length, type_name=None)
    area = AreaMap(builder, builder.add_area(bare), part.start, part.length)
    fs = _open_fs(image, part)
    try:
        superblock = read_superblock(read)
        if fs is None and read(0, len(MAGIC)) == MAGIC:
            map_xfs(path, area, bare)
            return
        if fs is None:
            why = what_is_there(read)
        else:
            bare = replace(bare, type_name=TYPE_NAMES[int(fs.info.ftype)])
            if superblock is not None:
                map_ext(superblock, fs, read, area, bare)
            else:
                _READERS[bare.type_name or ""](fs, read, area, bare)
            return
    except UnsupportedLayout as error:
        why = str(error)
    bare = replace(bare, type_name=None, notes=(f"not read: {why}",))
    builder.areas[area.place] = bare
    owner = area.owner(Owner(kind=OwnerKind.NOT_READABLE, detail=why))
    area.claim(Tier.AREA, 0, part.length, owner)


def _reading(device: CachedDevice, part: _Partition) -> ReadAt:
    def read(offset: int, length: int) -> bytes:
        return device.read(part.start + offset, min(length, max(part.length - offset, 0)))

    return read


_READERS: Final = {
    "NTFS": map_ntfs,
    "FAT12": map_fat,
    "FAT16": map_fat,
    "FAT32": map_fat,
    "exFAT": map_exfat,
    "HFS+": map_hfs,
}
