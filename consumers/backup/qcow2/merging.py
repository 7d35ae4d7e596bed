"""Merges neighbouring images of a chain into one that can take their place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

import numpy as np

from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.qcow2.format import UNIT_BYTES, ImageLayout
from mirrorlog.consumers.backup.qcow2.image_map import open_header
from mirrorlog.consumers.backup.qcow2.image_plan import ImagePlan
from mirrorlog.consumers.backup.qcow2.image_writing import WrittenImage, write_image
from mirrorlog.consumers.backup.qcow2.mapped_runs import RunKind
from mirrorlog.consumers.backup.qcow2.unit_runs import Runs, merged, without
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.block_sets import BitMap64
from mirrorlog.errors import BadUse
from mirrorlog.ports.devices import BlockDevice

_SECTOR_BYTES: Final = 512
"""Every edge of a run is a multiple of that: units are larger, and so are sizes of disks."""


class BelowNeeded(BadUse):
    """Images can't be merged without the point on which the oldest of them stands."""


def merge_images(
    paths: Sequence[Path],
    out: Path,
    *,
    image_id: UUID,
    size_bytes: int | None = None,
    below: BlockDevice | None = None,
    layout: ImageLayout | None = None,
    is_compressed: bool | None = None,
) -> WrittenImage:
    """Write an image that reads as `paths[0]` does and stands on what `paths[-1]` stands on.

    With all images of a chain that is a synthetic full. paths: neighbours, the newest first; they
    stay as they are. out: a name that isn't there. image_id: a new one. size_bytes:
    the true size of the volume at the newest point; None for the size of its image. below: reads
    the point on which the oldest of `paths` stands. It is needed only where the volume had another
    size, which is no multiple of 4 KiB; where it is given, no zeros are marked behind its end.
    layout: None for that of the newest image, as for is_compressed.

    Raise StateDamaged if the paths aren't neighbours in this order, BelowNeeded where `below` is
    needed and isn't given, before anything is written, BadUse where `out` exists. DeviceFailed.
    """
    lowest = open_header(paths[-1]).backing
    with ChainReader(paths, below=below, is_whole=lowest is None) as reader:
        size_bytes = size_bytes or reader.size_bytes
        zeros = reader.runs.of_kind(RunKind.ZEROS)
        if below is not None:
            zeros = zeros.between(0, -(-below.size_bytes // UNIT_BYTES) * UNIT_BYTES)
        data = reader.runs.of_kind(RunKind.DATA, RunKind.COMPRESSED)
        if lowest is not None and below is None:
            _check_whole_units(reader, paths)
        newest = reader.maps[0].header
        if is_compressed is None:
            is_compressed = newest.is_compressed and layout is not ImageLayout.SUBCLUSTERS
        plan = ImagePlan(
            size_bytes=size_bytes,
            block_size=_SECTOR_BYTES,
            data=_sectors(data),
            zeros=_sectors(zeros),
            backing=lowest,
            layout=layout or newest.layout,
            image_id=image_id,
            is_compressed=is_compressed,
        )
        return write_image(out, plan, reader)


def _sectors(held: Runs) -> BlockSet:
    """Return the sectors of runs of bytes."""
    size = np.uint64(_SECTOR_BYTES)
    firsts, ends = held.firsts.astype(np.uint64), held.ends.astype(np.uint64)
    return BlockSet.of_ranges(firsts // size, (ends + size - np.uint64(1)) // size, BitMap64())


def _check_whole_units(reader: ChainReader, paths: Sequence[Path]) -> None:
    """Raise BelowNeeded if a unit is partly in the images, and partly in what lies below them.

    What lies behind the end of the newest image is never read.
    """
    covered = merged(Runs(reader.runs.starts, reader.runs.ends))
    units = merged(
        Runs(
            covered.firsts // UNIT_BYTES * UNIT_BYTES,
            -(-covered.ends // UNIT_BYTES) * UNIT_BYTES,
        )
    )
    rest = without(units.between(0, reader.size_bytes), covered)
    if len(rest):
        raise BelowNeeded(
            "the images can't be merged without the point below them: the volume had a size that "
            "is no multiple of 4 KiB",
            where=f"{paths[0]}, offset {int(rest.firsts[0])} of the volume",
            next="Give the reader of the point on which the oldest of them stands.",
        )
