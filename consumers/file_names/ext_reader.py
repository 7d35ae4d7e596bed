"""Maps an ext2, ext3 or ext4 file system: files by The Sleuth Kit, the rest by the layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from mirrorlog.consumers.file_names.ext_layout import (
    ENCRYPTED,
    HOLDS_ATTRIBUTE,
    SUPERBLOCK_AT,
    ExtSuperblock,
    allocated_inodes,
    descriptor_blocks,
    free_blocks,
    read_groups,
)
from mirrorlog.consumers.file_names.ext_unwritten import unwritten_runs
from mirrorlog.consumers.file_names.layout_reading import ReadAt
from mirrorlog.consumers.file_names.map_builder import AreaMap, Tier
from mirrorlog.consumers.file_names.owners import Area, Owner, OwnerKind
from mirrorlog.consumers.file_names.tsk_walk import TskWalk

_RESIZE_INODE: Final = 7
_ROOT_INODE: Final = 2
DIRTY: Final = (
    "the file system is mounted, or wasn't unmounted in order: what its journal or the memory of "
    "its machine holds isn't in the mapping yet"
)


def map_ext(superblock: ExtSuperblock, fs: Any, read: ReadAt, area: AreaMap, bare: Area) -> None:
    """Claim everything of an ext file system. fs: it, as pytsk3 opened it. bare: its area so far.

    Raise UnsupportedLayout.
    """
    groups = read_groups(superblock, read)
    _claim_layout(superblock, area, groups.block_bitmaps, groups.inode_bitmaps)
    _claim_inode_tables(superblock, area, groups.inode_tables)
    size = superblock.block_bytes
    free = area.owner(Owner(kind=OwnerKind.FREE))
    for runs in free_blocks(superblock, groups, read):
        area.claim_all(Tier.FREE, runs[:, 0] * size, runs[:, 1] * size, free)
    columns = list(allocated_inodes(superblock, groups, read))
    encrypted = {
        int(inode) for group in columns for inode in group.inodes[(group.flags & ENCRYPTED) != 0]
    }
    walk = TskWalk(
        fs=fs,
        area=area,
        has_block_zero=False,
        journals=frozenset({superblock.journal_inode} - {0}),
        encrypted=frozenset(encrypted),
    )
    walk.run()
    named = frozenset(walk.seen)
    for group in columns:
        for inode, flags in zip(group.inodes.tolist(), group.flags.tolist(), strict=True):
            if inode not in walk.seen:
                _claim_nameless(superblock, walk, inode, flags)
        _claim_attributes(area, group.inodes, group.attribute_blocks, size)
        for run in unwritten_runs(group, read, size):
            kind = OwnerKind.FILE if run.inode in named else OwnerKind.UNNAMED
            owner = Owner(kind=kind, first_inode=run.inode, last_inode=run.inode)
            area.claim(Tier.USED, run.block * size, run.blocks * size, area.owner(owner))
    area.end(
        _described(superblock, bare, walk, has_encrypted=bool(encrypted)), superblock.blocks * size
    )


def _described(
    superblock: ExtSuperblock, bare: Area, walk: TskWalk, *, has_encrypted: bool
) -> Area:
    """Return what is said of the area."""
    notes = [*bare.notes]
    if not superblock.is_clean:
        notes.append(DIRTY)
    if has_encrypted:
        notes.append("names in encrypted folders can't be read, and stand as numbers of inodes")
    return replace(
        bare,
        is_dirty=not superblock.is_clean,
        inode_bytes=superblock.inode_bytes,
        root_inode=_ROOT_INODE,
        block_bytes=superblock.block_bytes,
        notes=(*notes, *walk.notes()),
    )


def _claim_layout(superblock: ExtSuperblock, area: AreaMap, *bitmaps: Any) -> None:
    """Claim superblocks, group descriptors and bitmaps."""
    size = superblock.block_bytes
    owner = area.owner(Owner(kind=OwnerKind.SUPERBLOCK))
    if superblock.first_block:
        area.claim(Tier.USED, 0, SUPERBLOCK_AT, owner)
    for group in range(superblock.groups):
        if superblock.has_superblock(group):
            area.claim(Tier.USED, superblock.group_start(group) * size, size, owner)
    owner = area.owner(Owner(kind=OwnerKind.DESCRIPTORS))
    for first, blocks, _ in descriptor_blocks(superblock):
        area.claim(Tier.USED, first * size, blocks * size, owner)
    for kind, blocks in zip((OwnerKind.BLOCK_BITMAP, OwnerKind.INODE_BITMAP), bitmaps, strict=True):
        owner = area.owner(Owner(kind=kind))
        for block in np.unique(blocks).tolist():
            area.claim(Tier.USED, block * size, size, owner)
    if superblock.mmp_block:
        owner = area.owner(Owner(kind=OwnerKind.METADATA, detail="multiple mount protection"))
        area.claim(Tier.USED, superblock.mmp_block * size, size, owner)


def _claim_inode_tables(superblock: ExtSuperblock, area: AreaMap, tables: Any) -> None:
    size = superblock.block_bytes
    length = superblock.group_inodes * superblock.inode_bytes
    for group, block in enumerate(tables.tolist()):
        if not 0 <= block < superblock.blocks:  # a damaged descriptor
            continue
        first = group * superblock.group_inodes + 1
        owner = Owner(
            kind=OwnerKind.INODES,
            first_inode=first,
            last_inode=min(first + superblock.group_inodes - 1, superblock.inodes),
            begin=area.start + block * size,
        )
        area.claim(Tier.USED, block * size, -(-length // size) * size, area.owner(owner))


def _claim_nameless(superblock: ExtSuperblock, walk: TskWalk, inode: int, flags: int) -> None:
    """Claim an inode in use that no folder names: the system's, or deleted while it is open."""
    if inode in walk.journals:
        walk.claim_inode(inode)
    elif inode == _RESIZE_INODE:
        walk.claim_inode(inode, (OwnerKind.RESERVED, ""))
    elif inode < superblock.first_file_inode or inode in superblock.system_inodes:
        walk.claim_inode(inode, (OwnerKind.METADATA, f"inode {inode}"))
    elif flags & HOLDS_ATTRIBUTE:
        walk.claim_inode(inode, (OwnerKind.ATTRIBUTES, f"inode {inode}"))
    else:
        walk.claim_inode(inode, (OwnerKind.UNNAMED, ""))


def _claim_attributes(area: AreaMap, inodes: Any, blocks: Any, size: int) -> None:
    """Claim the blocks of extended attributes, which several files may share."""
    for inode, block in zip(inodes[blocks > 0].tolist(), blocks[blocks > 0].tolist(), strict=True):
        owner = Owner(kind=OwnerKind.ATTRIBUTES, first_inode=inode, last_inode=inode)
        area.claim(Tier.USED, block * size, size, area.owner(owner))
