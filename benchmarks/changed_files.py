"""The files between which bench_site.py copies: a primary, and a secondary that differs in runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pinned import ProgramFailed

from mirrorlog.domain.bitmaps import BlockSet

BLOCK_BYTES: Final = 4096
VOLUME_BYTES: Final = 4 << 30
_FILL_BYTES: Final = 4 << 20
_SEED: Final = 12


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary, a secondary, and the runs of blocks to copy.

    runs: (offset, length) in bytes, ascending.
    """

    primary: Path
    secondary: Path
    size_bytes: int
    runs: Sequence[tuple[int, int]]
    blocks: BlockSet


def draw_runs(size_bytes: int, runs: int, dirty_bytes: int) -> list[tuple[int, int]]:
    """Return `runs` runs of blocks that together have about `dirty_bytes` bytes; none touch."""
    random = np.random.default_rng(_SEED)
    lengths = random.geometric(runs * BLOCK_BYTES / dirty_bytes, runs)
    free = size_bytes // BLOCK_BYTES - int(lengths.sum()) - runs
    places = np.sort(random.integers(0, free + 1, runs))
    firsts = places + np.arange(runs) + np.concatenate(([0], np.cumsum(lengths)[:-1]))
    return [
        (first * BLOCK_BYTES, length * BLOCK_BYTES)
        for first, length in zip(firsts.tolist(), lengths.tolist(), strict=True)
    ]


def make_pair(folder: Path, size_bytes: int, runs: Sequence[tuple[int, int]]) -> Pair:
    """Create both files. A volume of at most VOLUME_BYTES is written in full, others in its runs.

    No block is zeros.
    """
    folder.mkdir()
    random = np.random.default_rng(_SEED)
    whole = [
        (start, min(_FILL_BYTES, size_bytes - start)) for start in range(0, size_bytes, _FILL_BYTES)
    ]
    ranges = whole if size_bytes <= VOLUME_BYTES else runs
    paths = folder / "primary.img", folder / "secondary.img"
    for path in paths:
        with path.open("wb") as file:
            file.truncate(size_bytes)
            for offset, length in ranges:
                os.pwrite(file.fileno(), random.bytes(length), offset)
            os.fsync(file.fileno())
    blocks = BlockSet()
    for offset, length in runs:
        blocks.add_range(offset // BLOCK_BYTES, (offset + length) // BLOCK_BYTES)
    return Pair(*paths, size_bytes, runs, blocks)


def change_secondary(pair: Pair) -> None:
    """Write something else into the runs of the secondary, durably."""
    with pair.secondary.open("r+b", 0) as secondary:
        for offset, length in pair.runs:
            os.pwrite(secondary.fileno(), b"\1" * length, offset)
        os.fsync(secondary.fileno())


def check_equal(pair: Pair) -> None:
    """Raise ProgramFailed unless the secondary has the primary's bytes in all runs."""
    with pair.primary.open("rb", 0) as primary, pair.secondary.open("rb", 0) as secondary:
        for offset, length in pair.runs:
            data = os.pread(primary.fileno(), length, offset)
            if os.pread(secondary.fileno(), length, offset) != data:
                raise ProgramFailed(f"the secondary differs at offset {offset}")
