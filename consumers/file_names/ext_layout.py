"""Where ext2, ext3 and ext4 keep what is in no file, by the layout of their block groups.

Source of the format: Linux, Documentation/filesystems/ext4/ (globals.rst, group_descr.rst).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.file_names.layout_reading import (
    ReadAt,
    UnsupportedLayout,
    bits_of,
    number_at,
    runs_of,
)

Int64s = npt.NDArray[np.int64]

SUPERBLOCK_AT: Final = 1024
_MAGIC: Final = 0xEF53
_MAX_BLOCKS: Final = 1 << 32
_MAX_GROUPS: Final = 1 << 24
_COMPAT_SPARSE_SUPER2: Final = 0x200
_INCOMPAT_RECOVER: Final = 0x4
_INCOMPAT_META_BG: Final = 0x10
_INCOMPAT_64BIT: Final = 0x80
_INCOMPAT_JOURNAL_DEVICE: Final = 0x8
_RO_SPARSE_SUPER: Final = 0x1
_RO_CHECKSUMS: Final = 0x10 | 0x400  # uninit_bg, metadata_csum: the flags of groups count
_RO_BIGALLOC: Final = 0x200
_GROUP_NO_INODES: Final = 0x1
_GROUP_NO_BLOCKS: Final = 0x2
_STATE_CLEAN: Final = 0x1
HOLDS_ATTRIBUTE: Final = 0x200000
"""The flag of an inode that holds a large attribute of a file (ea_inode)."""
ENCRYPTED: Final = 0x800
"""The flag of an inode whose content, or names in it, are encrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtSuperblock:
    """What the superblock says of the layout. Numbers of blocks, except sizes in bytes.

    system_inodes: of quotas of projects, and of the list of orphans. No folder names them.
    """

    inodes: int
    blocks: int
    first_block: int
    block_bytes: int
    group_blocks: int
    group_inodes: int
    inode_bytes: int
    first_file_inode: int
    descriptor_bytes: int
    reserved_blocks: int
    first_meta_group: int
    backup_groups: tuple[int, int]
    compat: int
    incompat: int
    ro_compat: int
    is_clean: bool
    journal_inode: int
    system_inodes: frozenset[int]
    mmp_block: int

    @property
    def groups(self) -> int:
        """The number of block groups."""
        return -(-(self.blocks - self.first_block) // self.group_blocks)

    def has_superblock(self, group: int) -> bool:
        """Return whether a group holds a copy of the superblock."""
        if self.compat & _COMPAT_SPARSE_SUPER2:
            return group == 0 or group in self.backup_groups
        if not self.ro_compat & _RO_SPARSE_SUPER or group <= 1:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))

    def group_start(self, group: int) -> int:
        """Return the first block of a group."""
        return self.first_block + group * self.group_blocks


class GroupTable(NamedTuple):
    """The groups in columns: blocks of their bitmaps and tables, and their flags."""

    block_bitmaps: Int64s
    inode_bitmaps: Int64s
    inode_tables: Int64s
    flags: Int64s


class InodeColumns(NamedTuple):
    """Allocated inodes in columns. attribute_blocks: 0 where attributes need no block.

    block_words: n rows of the 15 words with which each file's blocks are found (i_block).
    """

    inodes: Int64s
    flags: Int64s
    attribute_blocks: Int64s
    block_words: Int64s


def read_superblock(read: ReadAt) -> ExtSuperblock | None:
    """Return the superblock; None if there is none. Raise UnsupportedLayout."""
    data = read(SUPERBLOCK_AT, 1024)
    if len(data) < 1024 or number_at(data, 0x38, "H") != _MAGIC:
        return None
    revision, incompat = number_at(data, 0x4C, "I"), number_at(data, 0x60, "I")
    is_64bit = bool(incompat & _INCOMPAT_64BIT)
    superblock = ExtSuperblock(
        inodes=number_at(data, 0x0, "I"),
        blocks=number_at(data, 0x4, "I") + ((number_at(data, 0x150, "I") << 32) if is_64bit else 0),
        first_block=number_at(data, 0x14, "I"),
        block_bytes=1024 << min(number_at(data, 0x18, "I"), 63),
        group_blocks=number_at(data, 0x20, "I"),
        group_inodes=number_at(data, 0x28, "I"),
        inode_bytes=number_at(data, 0x58, "H") if revision else 128,
        first_file_inode=number_at(data, 0x54, "I") if revision else 11,
        descriptor_bytes=(number_at(data, 0xFE, "H") if is_64bit else 0) or 32,
        reserved_blocks=number_at(data, 0xCE, "H"),
        first_meta_group=number_at(data, 0x104, "I"),
        backup_groups=(number_at(data, 0x24C, "I"), number_at(data, 0x250, "I")),
        compat=number_at(data, 0x5C, "I"),
        incompat=incompat,
        ro_compat=number_at(data, 0x64, "I"),
        is_clean=bool(number_at(data, 0x3A, "H") & _STATE_CLEAN)
        and not incompat & _INCOMPAT_RECOVER,
        journal_inode=number_at(data, 0xE0, "I"),
        system_inodes=frozenset({number_at(data, 0x26C, "I"), number_at(data, 0x280, "I")}) - {0},
        mmp_block=number_at(data, 0x168, "Q"),
    )
    _check(superblock)
    return superblock


def _check(superblock: ExtSuperblock) -> None:
    """Raise UnsupportedLayout for a layout that isn't read here, or that no mkfs makes."""
    if superblock.ro_compat & _RO_BIGALLOC:
        raise UnsupportedLayout("ext4 with clusters of several blocks (bigalloc)")
    if superblock.blocks > _MAX_BLOCKS:
        raise UnsupportedLayout(
            "ext4 of more than 2^32 blocks, whose addresses the library may cut"
        )
    if superblock.incompat & _INCOMPAT_JOURNAL_DEVICE:
        raise UnsupportedLayout("the journal of an ext4 file system that is elsewhere")
    if (
        not 1024 <= superblock.block_bytes <= 1 << 16
        or not 0 < superblock.group_blocks <= 8 * superblock.block_bytes
        or not 0 < superblock.group_inodes <= 8 * superblock.block_bytes
        or superblock.inode_bytes not in (128, 256, 512, 1024, 2048, 4096)
        or superblock.inode_bytes > superblock.block_bytes
        or superblock.descriptor_bytes not in (32, 64, 128, 256, 512, 1024)
        or superblock.first_block > 1
        or not superblock.first_block < superblock.blocks
        or not 0 < superblock.groups <= _MAX_GROUPS
    ):
        raise UnsupportedLayout("an ext4 superblock that contradicts itself")


def descriptor_blocks(superblock: ExtSuperblock) -> Iterator[tuple[int, int, bool]]:
    """Yield (first block, blocks, is read) of group descriptors and their copies.

    The pieces that are read come in the order of their groups. The others are copies.
    """
    in_block = superblock.block_bytes // superblock.descriptor_bytes
    pieces = -(-superblock.groups // in_block)
    plain = pieces
    if superblock.incompat & _INCOMPAT_META_BG:
        plain = min(superblock.first_meta_group, pieces)
    if plain:
        for group in range(superblock.groups):
            if superblock.has_superblock(group):
                yield superblock.group_start(group) + 1, plain, group == 0
    for meta_group in range(plain, pieces):
        first = meta_group * in_block
        for group in (first, first + 1, first + in_block - 1):
            if group < superblock.groups:
                start = superblock.group_start(group) + superblock.has_superblock(group)
                yield start, 1, group == first


def read_groups(superblock: ExtSuperblock, read: ReadAt) -> GroupTable:
    """Return the descriptors of all groups. Raise UnsupportedLayout if they are cut short."""
    size = superblock.block_bytes
    data = b"".join(
        read(first * size, blocks * size)
        for first, blocks, is_read in descriptor_blocks(superblock)
        if is_read
    )
    if len(data) < superblock.groups * superblock.descriptor_bytes:
        raise UnsupportedLayout("an ext4 file system whose group descriptors are cut short")
    table = np.frombuffer(data, np.uint8)[: superblock.groups * superblock.descriptor_bytes]
    words = table.reshape(superblock.groups, -1).view("<u4").astype(np.int64)
    low = words[:, :5]
    if superblock.descriptor_bytes >= 64:
        low = low.copy()
        low[:, :3] += (words[:, 8:11] & 0xFFFF_FFFF) << 32
    flags = words[:, 4] >> 16
    if not superblock.ro_compat & _RO_CHECKSUMS:
        flags = np.zeros_like(flags)
    return GroupTable(low[:, 0], low[:, 1], low[:, 2], flags)


def free_blocks(superblock: ExtSuperblock, groups: GroupTable, read: ReadAt) -> Iterator[Int64s]:
    """Yield rows (first block, blocks) of free space, one array for each group.

    A group whose bitmap was never written is free but for its tables, which are claimed apart.
    """
    for group in range(superblock.groups):
        start = superblock.group_start(group)
        count = min(superblock.group_blocks, superblock.blocks - start)
        if groups.flags[group] & _GROUP_NO_BLOCKS:
            yield np.array([[start, count]], np.int64)
            continue
        at = int(groups.block_bitmaps[group]) * superblock.block_bytes
        bits = bits_of(read(at, -(-count // 8)))[:count]
        runs = runs_of(bits == 0)
        runs[:, 0] += start
        yield runs


def allocated_inodes(
    superblock: ExtSuperblock, groups: GroupTable, read: ReadAt
) -> Iterator[InodeColumns]:
    """Yield what the tables say of the inodes in use, one set of columns for each group."""
    size, inode_bytes = superblock.block_bytes, superblock.inode_bytes
    for group in range(superblock.groups):
        if groups.flags[group] & _GROUP_NO_INODES:
            continue
        at = int(groups.inode_bitmaps[group]) * size
        bits = bits_of(read(at, -(-superblock.group_inodes // 8)))[: superblock.group_inodes]
        places = np.flatnonzero(bits)
        if not len(places):
            continue
        needed = (int(places[-1]) + 1) * inode_bytes
        data = np.frombuffer(read(int(groups.inode_tables[group]) * size, needed), np.uint8)
        places = places[places < len(data) // inode_bytes]
        whole = data[: len(data) // inode_bytes * inode_bytes].reshape(-1, inode_bytes)
        words = whole[:, :128].copy().view("<u4").astype(np.int64)[places]
        attributes = words[:, 0x68 // 4] + ((words[:, 0x74 // 4] >> 16) << 32)
        first = group * superblock.group_inodes + 1
        block_words = words[:, 0x28 // 4 : 0x64 // 4]
        yield InodeColumns(first + places, words[:, 0x20 // 4], attributes, block_words)


def _is_power(number: int, base: int) -> bool:
    while number > 1 and number % base == 0:
        number //= base
    return number == 1
