"""Which blocks of a device may be more than zeros."""

from __future__ import annotations

import numpy as np

from mirrorlog.domain.bitmaps import BlockSet, touched
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice


def allocated_blocks(device: BlockDevice, volume: Volume) -> BlockSet | None:
    """Return the blocks that may be more than zeros; None if these are all, or nobody can tell.

    Raise DeviceFailed.
    """
    ranges = np.array(list(device.allocated()), np.uint64).reshape(-1, 2)
    blocks = touched(ExtentColumns(ranges[:, 0], ranges[:, 1]), volume.block_size)
    blocks &= BlockSet.of_range(0, volume.blocks)
    return None if len(blocks) == volume.blocks else blocks
