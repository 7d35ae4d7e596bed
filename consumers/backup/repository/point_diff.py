"""In which blocks two points of a volume differ, by their content.

What both take from the same place of the same image is equal, and isn't read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.qcow2.mapped_runs import RunKind
from mirrorlog.consumers.backup.qcow2.unit_runs import Runs, covering, distinct, merged
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.ports.devices import BlockDevice

_PIECE_BYTES: Final = 4 << 20
_NO_IMAGE: Final = -1


@dataclass(frozen=True, slots=True)
class ChainOfPoint:
    """A point that is open, and the points whose images it needs, newest first."""

    reader: ChainReader
    points: Sequence[str]


@dataclass(frozen=True, slots=True)
class PointDiff:
    """The blocks in which two points differ. zeroed: those of them that are zeros in the second."""

    changed: BlockSet
    zeroed: BlockSet


def differing_blocks(
    first: ChainOfPoint,
    second: ChainOfPoint,
    block_size: int,
    *,
    on_begin: Callable[[int], None] = lambda _: None,
    on_read: Callable[[int], None] = lambda _: None,
) -> PointDiff:
    """Return the blocks of the second point that aren't as in the first.

    What lies behind the end of the first is zeros there. on_begin: called with the bytes to compare
    at most. on_read: called with the bytes of each piece. Raise DeviceFailed, StateDamaged.
    """
    candidates = _blocks(maybe_different(first, second), block_size)
    on_begin(int((candidates.ends - candidates.firsts).sum()) * block_size)
    changed, zeroed = BlockSet(), BlockSet()
    step = max(1, _PIECE_BYTES // block_size)
    for start, end in zip(candidates.firsts.tolist(), candidates.ends.tolist(), strict=True):
        for block in range(start, end, step):
            count = min(step, end - block)
            before = _read(first.reader, block, count, block_size)
            after = _read(second.reader, block, count, block_size)
            is_changed = (before != after).any(axis=1)
            changed |= BlockSet((block + np.flatnonzero(is_changed)).tolist())
            is_zeroed = is_changed & ~after.any(axis=1)
            zeroed |= BlockSet((block + np.flatnonzero(is_zeroed)).tolist())
            on_read(count * block_size)
    return PointDiff(changed=changed, zeroed=zeroed)


def maybe_different(first: ChainOfPoint, second: ChainOfPoint) -> Runs:
    """Return the bytes of the second point that the two take from different places."""
    size_bytes = second.reader.size_bytes
    names = {name: number for number, name in enumerate({*first.points, *second.points})}
    runs = [chain.reader.runs.clipped(0, size_bytes) for chain in (first, second)]
    ends = np.array([0, size_bytes], np.int64)
    edges = distinct(ends, *(part for one in runs for part in (one.starts, one.ends)))
    starts = edges[:-1]
    sources = []
    for chain, mapped in zip((first, second), runs, strict=True):
        images = np.array([names[point] for point in chain.points], np.int64)
        at = covering(mapped.starts, mapped.ends, starts)
        index = np.maximum(at, 0)
        if not len(mapped):
            sources.append((np.full(len(starts), _NO_IMAGE), np.zeros(len(starts), np.int64)))
            continue
        kinds = mapped.kinds[index]
        is_held = (at >= 0) & (kinds != RunKind.ZEROS)
        shift = np.where(kinds == RunKind.DATA, starts - mapped.starts[index], 0)
        image = np.where(is_held, images[mapped.layers[index]], _NO_IMAGE)
        sources.append((image, np.where(is_held, mapped.places[index] + shift, 0)))
    (image, place), (other_image, other_place) = sources
    differs = (image != other_image) | (place != other_place)
    return merged(Runs(starts[differs], edges[1:][differs]))


def _blocks(parts: Runs, block_size: int) -> Runs:
    """Return the blocks that the runs of bytes touch, as runs of blocks."""
    return merged(Runs(parts.firsts // block_size, -(-parts.ends // block_size)))


def _read(device: BlockDevice, block: int, count: int, block_size: int) -> npt.NDArray[np.uint8]:
    """Return blocks, one a row; zeros behind the end of the device."""
    rows: npt.NDArray[np.uint8] = np.zeros((count, block_size), np.uint8)
    offset = block * block_size
    length = min(count * block_size, device.size_bytes - offset)
    if length > 0:
        data = device.pread(offset=offset, length=length)
        rows.reshape(-1)[:length] = np.frombuffer(data, np.uint8)
    return rows
