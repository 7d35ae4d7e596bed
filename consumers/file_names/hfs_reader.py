"""Maps an HFS+ file system by The Sleuth Kit alone: what is in no file may be free.

Source of the volume header: Apple, Technical Note TN1150.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any, Final

from mirrorlog.consumers.file_names.layout_reading import ReadAt
from mirrorlog.consumers.file_names.map_builder import AreaMap
from mirrorlog.consumers.file_names.owners import Area
from mirrorlog.consumers.file_names.tsk_walk import IN_USE, TskWalk

_FIRST_FILE: Final = 16
_UNMOUNTED: Final = 1 << 8
_INCONSISTENT: Final = 1 << 11
_NO_FREE: Final = "free space of HFS+ isn't told from metadata"


def map_hfs(fs: Any, read: ReadAt, area: AreaMap, bare: Area) -> None:
    """Claim the files of an HFS+ file system, as ext_reader.map_ext."""
    root = int(fs.info.root_inum)
    walk = TskWalk(
        fs=fs,
        area=area,
        has_block_zero=True,
        metadata=frozenset(range(3, _FIRST_FILE)),
    )
    walk.run()
    unread = walk.notes()  # before the files below, of which not every file system has all
    for inode in range(3, _FIRST_FILE):
        if inode not in walk.seen:
            walk.claim_inode(inode)
    attributes = struct.unpack_from(">I", read(1024, 512), 4)[0]
    is_dirty = not attributes & _UNMOUNTED or bool(attributes & _INCONSISTENT)
    notes = [*bare.notes, _NO_FREE, *([IN_USE] if is_dirty else []), *unread]
    size = int(fs.info.block_size)
    described = replace(
        bare, is_dirty=is_dirty, root_inode=root, block_bytes=size, notes=tuple(notes)
    )
    area.end(described, int(fs.info.block_count) * size)
