"""Blocks of ext4 that are reserved for a file and not written yet: fallocate(2) makes them.

The Sleuth Kit says that they are holes, and keeps their addresses for itself
(findings/pytsk3-hides-unwritten-extents.sh). A host writes to them before the file system notes
that it did, so the log names them. Source of the format: Linux,
Documentation/filesystems/ext4/ifork.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.file_names.ext_layout import InodeColumns
from mirrorlog.consumers.file_names.layout_reading import ReadAt

Int64s = npt.NDArray[np.int64]

_HAS_EXTENTS: Final = 0x80000
_MAGIC: Final = 0xF30A
_MAX_WRITTEN: Final = 32768
"""A longer extent isn't written yet, and is shorter by this number."""
_MAX_DEPTH: Final = 5


class UnwrittenRun(NamedTuple):
    """Blocks that are reserved for a file."""

    inode: int
    block: int
    blocks: int


def unwritten_runs(group: InodeColumns, read: ReadAt, block_bytes: int) -> Iterator[UnwrittenRun]:
    """Yield the runs of all inodes of a group. What isn't an extent tree is passed over."""
    words = group.block_words
    is_tree = (group.flags & _HAS_EXTENTS != 0) & (words[:, 0] & 0xFFFF == _MAGIC)
    depths, counts = words[:, 1] >> 16, words[:, 0] >> 16
    extents = words[:, 3:].reshape(len(words), 4, 3)
    is_used = (np.arange(4) < counts[:, None]) & (is_tree & (depths == 0))[:, None]
    is_unwritten = is_used & (extents[:, :, 1] & 0xFFFF > _MAX_WRITTEN)
    for row, place in np.argwhere(is_unwritten).tolist():
        yield from _runs(int(group.inodes[row]), extents[row, place : place + 1])
    for row in np.flatnonzero(is_tree & (depths > 0) & (depths <= _MAX_DEPTH)).tolist():
        inode = int(group.inodes[row])
        used = extents[row, : min(int(counts[row]), 4)]
        yield from _below(inode, used, int(depths[row]), read, block_bytes)


def _below(
    inode: int, indexes: Int64s, depth: int, read: ReadAt, block_bytes: int
) -> Iterator[UnwrittenRun]:
    """Yield the runs of the nodes to which the entries of an index node lead."""
    for entry in indexes.tolist():
        block = entry[1] + ((entry[2] & 0xFFFF) << 32)
        data = read(block * block_bytes, block_bytes)
        words = np.frombuffer(data[: len(data) // 12 * 12], "<u4").astype(np.int64).reshape(-1, 3)
        if not len(words) or words[0, 0] & 0xFFFF != _MAGIC or words[0, 1] >> 16 != depth - 1:
            continue
        used = words[1 : 1 + int(words[0, 0] >> 16)]
        if depth > 1:
            yield from _below(inode, used, depth - 1, read, block_bytes)
        else:
            yield from _runs(inode, used[used[:, 1] & 0xFFFF > _MAX_WRITTEN])


def _runs(inode: int, extents: Int64s) -> Iterator[UnwrittenRun]:
    """Yield the runs of extents that aren't written yet."""
    for _, middle, low in extents.tolist():
        yield UnwrittenRun(inode, low + (middle >> 16 << 32), (middle & 0xFFFF) - _MAX_WRITTEN)
