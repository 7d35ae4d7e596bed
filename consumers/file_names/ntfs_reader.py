"""Maps an NTFS file system: files by The Sleuth Kit, free clusters by `$Bitmap`.

Small files lie in their record in the table of files (`$MFT`), as resident data.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from mirrorlog.consumers.file_names.layout_reading import (
    ReadAt,
    UnsupportedLayout,
    bits_of,
    runs_of,
)
from mirrorlog.consumers.file_names.map_builder import AreaMap, Tier
from mirrorlog.consumers.file_names.owners import Area, Owner, OwnerKind
from mirrorlog.consumers.file_names.tsk_walk import IN_USE, READ_FAILED, TskWalk

_MFT, _LOG, _VOLUME, _BITMAP = 0, 2, 3, 6
METADATA_INODES: Final = frozenset({*range(12), *range(24, 28)}) - {5}
"""The inodes of metadata files: below 12 and in $Extend. 5 is the root folder."""
_DATA: Final = 128
_VOLUME_INFORMATION: Final = 0x70
_FLAGS_AT: Final = 10


def map_ntfs(fs: Any, read: ReadAt, area: AreaMap, bare: Area) -> None:
    """Claim everything of an NTFS file system, as ext_reader.map_ext. Raise UnsupportedLayout."""
    size = int(fs.info.block_size)
    record = _record_bytes(read(0, 512), size)
    try:
        bitmap = fs.open_meta(_BITMAP)
        content = bytes(bitmap.read_random(0, int(bitmap.info.meta.size)))
        flags = _volume_flags(fs)
    except READ_FAILED as error:
        raise UnsupportedLayout("an NTFS file system whose $Bitmap is damaged") from error
    runs = runs_of(bits_of(content)[: int(fs.info.block_count)] == 0)
    free = area.owner(Owner(kind=OwnerKind.FREE))
    area.claim_all(Tier.FREE, runs[:, 0] * size, runs[:, 1] * size, free)
    _claim_table(fs, area, record)
    walk = TskWalk(
        fs=fs,
        area=area,
        has_block_zero=True,
        journals=frozenset({_LOG}),
        metadata=METADATA_INODES,
        seen={_MFT},
    )
    walk.run()
    is_dirty = None if flags is None else bool(flags & 1)
    described = replace(
        bare,
        is_dirty=is_dirty,
        inode_bytes=record,
        root_inode=int(fs.info.root_inum),
        block_bytes=size,
        notes=(*bare.notes, *([IN_USE] if is_dirty else []), *walk.notes()),
    )
    area.end(described, int(fs.info.block_count) * size)


def _claim_table(fs: Any, area: AreaMap, record_bytes: int) -> None:
    """Claim `$MFT`: its data as tables of inodes, the rest as metadata."""
    size = int(fs.info.block_size)
    for attribute in fs.open_meta(_MFT):
        is_data = int(attribute.info.type) == _DATA
        for run in attribute:
            start, length = int(run.addr) * size, int(run.len) * size
            first = int(run.offset) * size // record_bytes
            owner = Owner(kind=OwnerKind.METADATA, first_inode=_MFT, last_inode=_MFT)
            if is_data:
                owner = Owner(
                    kind=OwnerKind.INODES,
                    first_inode=first,
                    last_inode=first + length // record_bytes - 1,
                    begin=area.start + start,
                )
            area.claim(Tier.USED, start, length, area.owner(owner))


def _record_bytes(boot: bytes, cluster_bytes: int) -> int:
    """Return the length of a record of `$MFT`. Raise UnsupportedLayout if the boot sector is wrong.

    Byte 64 of the boot sector is a number of clusters, or the negated exponent of a power of two.
    """
    number = int.from_bytes(boot[64:65], "little", signed=True)
    length = number * cluster_bytes if number > 0 else 1 << -number
    if not 256 <= length <= 1 << 16:
        raise UnsupportedLayout("an NTFS boot sector that contradicts itself")
    return length


def _volume_flags(fs: Any) -> int | None:
    """Return the flags in $VOLUME_INFORMATION; None if they can't be read."""
    for attribute in fs.open_meta(_VOLUME):
        if int(attribute.info.type) == _VOLUME_INFORMATION:
            file = fs.open_meta(_VOLUME)
            data = file.read_random(0, 12, _VOLUME_INFORMATION, int(attribute.info.id))
            if len(data) >= _FLAGS_AT + 2:
                return int.from_bytes(data[_FLAGS_AT : _FLAGS_AT + 2], "little")
    return None
