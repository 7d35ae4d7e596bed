"""Maps FAT and exFAT file systems: files by The Sleuth Kit, free clusters by the table or bitmap.

Source of the formats: Microsoft, "FAT: General Overview of On-Disk Format" and "exFAT file system
specification".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.file_names.layout_reading import (
    ReadAt,
    UnsupportedLayout,
    bits_of,
    number_at,
    runs_of,
)
from mirrorlog.consumers.file_names.map_builder import AreaMap, Tier
from mirrorlog.consumers.file_names.owners import Area, Owner, OwnerKind
from mirrorlog.consumers.file_names.tsk_walk import READ_FAILED, TskWalk

_FIRST_CLUSTER: Final = 2
_DIRTY: Final = (
    "the file system says that it is in use, or wasn't unmounted in order: what the memory of its "
    "machine holds isn't in the mapping yet"
)
_BITMAP: Final = b"$ALLOC_BITMAP"
_EXFAT_METADATA: Final = frozenset({_BITMAP, b"$UPCASE_TABLE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """Where the clusters of a FAT file system lie, in bytes."""

    data_at: int
    cluster_bytes: int
    count: int
    is_dirty: bool

    @property
    def end(self) -> int:
        """Where the last whole cluster ends."""
        return self.data_at + self.count * self.cluster_bytes


def map_fat(fs: Any, read: ReadAt, area: AreaMap, bare: Area) -> None:
    """Claim everything of a FAT file system, as ext_reader.map_ext. Raise UnsupportedLayout."""
    boot = read(0, 512)
    sector, per_cluster, reserved, tables, root_entries = struct.unpack_from("<HBHBH", boot, 11)
    table_sectors = number_at(boot, 22, "H") or number_at(boot, 36, "I")
    sectors = number_at(boot, 19, "H") or number_at(boot, 32, "I")
    if sector not in (512, 1024, 2048, 4096) or not per_cluster or not tables:
        raise UnsupportedLayout("a FAT boot sector that contradicts itself")
    root_sectors = -(-root_entries * 32 // sector)
    data_sector = reserved + tables * table_sectors + root_sectors
    bits = int((bare.type_name or "")[3:])
    clusters = Clusters(
        data_at=data_sector * sector,
        cluster_bytes=per_cluster * sector,
        count=max((sectors - data_sector) // per_cluster, 0),
        is_dirty=bool(boot[0x41 if bits == 32 else 0x25] & 1),
    )
    table = read(reserved * sector, table_sectors * sector)
    entries = _entries(table, bits)[_FIRST_CLUSTER : _FIRST_CLUSTER + clusters.count]
    reserved_owner = area.owner(Owner(kind=OwnerKind.METADATA, detail="reserved sectors"))
    area.claim(Tier.FREE, 0, reserved * sector, reserved_owner)
    _map(fs, area, bare, clusters, entries == 0)


def map_exfat(fs: Any, read: ReadAt, area: AreaMap, bare: Area) -> None:
    """Claim everything of an exFAT file system, as map_fat. Raise UnsupportedLayout."""
    boot = read(0, 512)
    heap, count = number_at(boot, 88, "I"), number_at(boot, 92, "I")
    sector_shift, cluster_shift = boot[108], boot[109]
    if not 9 <= sector_shift <= 12 or cluster_shift > 25 - sector_shift:
        raise UnsupportedLayout("an exFAT boot sector that contradicts itself")
    clusters = Clusters(
        data_at=heap << sector_shift,
        cluster_bytes=1 << (sector_shift + cluster_shift),
        count=count,
        is_dirty=bool(number_at(boot, 106, "H") & 0x2),
    )
    bitmap = bits_of(_content(fs, _BITMAP))[:count]
    reserved = area.owner(Owner(kind=OwnerKind.METADATA, detail="boot regions"))
    area.claim(Tier.FREE, 0, clusters.data_at, reserved)
    _map(fs, area, bare, clusters, bitmap == 0)


def _map(
    fs: Any, area: AreaMap, bare: Area, clusters: Clusters, is_free: npt.NDArray[np.bool_]
) -> None:
    """Claim files and free clusters, and describe the area."""
    runs = runs_of(is_free)
    free = area.owner(Owner(kind=OwnerKind.FREE))
    starts = clusters.data_at + runs[:, 0] * clusters.cluster_bytes
    area.claim_all(Tier.FREE, starts, runs[:, 1] * clusters.cluster_bytes, free)
    walk = TskWalk(
        fs=fs,
        area=area,
        has_block_zero=True,
        metadata=_metadata_inodes(fs),
    )
    walk.run()
    described = replace(
        bare,
        is_dirty=clusters.is_dirty,
        root_inode=int(fs.info.root_inum),
        block_bytes=clusters.cluster_bytes,
        notes=(*bare.notes, *([_DIRTY] if clusters.is_dirty else []), *walk.notes()),
    )
    area.end(described, clusters.end)


def _entries(table: bytes, bits: int) -> npt.NDArray[np.int64]:
    """Return the entries of a FAT: numbers of 12, 16 or 28 bits."""
    if bits == 12:
        data = np.frombuffer(table[: len(table) // 3 * 3], np.uint8).astype(np.int64)
        low, middle, high = data[0::3], data[1::3], data[2::3]
        pairs = np.stack((low | (middle & 0xF) << 8, middle >> 4 | high << 4), axis=1)
        return pairs.reshape(-1)
    kind = "<u2" if bits == 16 else "<u4"
    return np.frombuffer(table, kind).astype(np.int64) & (0xFFFF if bits == 16 else 0x0FFF_FFFF)


def _metadata_inodes(fs: Any) -> frozenset[int]:
    """Return the inodes of what exFAT keeps in its root folder as if it were files."""
    return frozenset(
        int(entry.info.name.meta_addr)
        for entry in fs.open_dir(inode=fs.info.root_inum)
        if entry.info.name.name in _EXFAT_METADATA
    )


def _content(fs: Any, name: bytes) -> bytes:
    """Return the content of a file in the root folder. Raise UnsupportedLayout if it is missing."""
    try:
        for entry in fs.open_dir(inode=fs.info.root_inum):
            if entry.info.name.name == name and entry.info.meta is not None:
                return bytes(entry.read_random(0, int(entry.info.meta.size)))
    except READ_FAILED as error:
        raise UnsupportedLayout(f"an exFAT file system whose {name.decode()} is damaged") from error
    raise UnsupportedLayout(f"an exFAT file system without {name.decode()}")
