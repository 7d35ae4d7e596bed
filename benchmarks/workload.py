"""The workload of a program under test: volumes, random writes, their commands, the expected log.

The commands are encoded by mirrorlog's own codec, and are as a host makes them. There is one
session, with a SESSION_OPEN and then WRITES for each volume in turn. Sequences begin at 0, and
times advance at `writes_per_s` for each volume. Each command has the position that was acknowledged
when its batch was closed. The expected log is computed with numpy alone, from the seed and not from
the commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import NAMESPACE_OID, uuid5

import numpy as np
import numpy.typing as npt

from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import U64, ExtentColumns
from mirrorlog.domain.partitioning import partition_of
from mirrorlog.domain.volumes import Volume

Blocks: TypeAlias = npt.NDArray[np.uint32]
"""Block numbers of one volume, in ascending order, without duplicates."""

_HOST: Final = "bench-host"
_SESSION: Final = str(uuid5(NAMESPACE_OID, "mirrorlog bench session"))
_IN_FLIGHT: Final = 8
"""The number of a partition's commands that are in flight while the next one is closed."""


@dataclass(frozen=True, slots=True)
class Publication:
    """An event for the commands topic."""

    partition: int
    key: bytes
    value: bytes
    at_ms: int


@dataclass(frozen=True, slots=True)
class Workload:
    """About `extents_wanted` random writes of one block each.

    All volumes get the same number of writes, in commands of equal size.
    """

    extents_wanted: int
    extents_per_command: int
    ended_at_us: int
    partitions: int = 4
    volume_count: int = 16
    volume_bytes: int = 1 << 40
    block_size: int = 4096
    writes_per_s: int = 10_000
    seed: int = 4

    @property
    def commands_per_volume(self) -> int:
        """Return the number of commands with extents for a volume."""
        return max(1, round(self.extents_wanted / (self.volume_count * self.extents_per_command)))

    @property
    def extents(self) -> int:
        """Return the number of extents of all volumes."""
        return self.commands_per_volume * self.extents_per_command * self.volume_count

    def volumes(self) -> list[Volume]:
        """Return the descriptions of the volumes."""
        names = [f"vol-{index:02}" for index in range(self.volume_count)]
        return [
            Volume(
                volume=name,
                generation=str(uuid5(NAMESPACE_OID, name)),
                size_bytes=self.volume_bytes,
                block_size=self.block_size,
                partition=partition_of(name, self.partitions),
                origin_position=-1,
                initially_zeroed=True,
                primary=f"memory:{name}",
            )
            for name in names
        ]

    def written(self, index: int) -> npt.NDArray[np.uint32]:
        """Return the blocks of volume `index` in the order of their writes."""
        count = self.commands_per_volume * self.extents_per_command
        blocks = self.volume_bytes // self.block_size
        return np.random.default_rng([self.seed, index]).integers(0, blocks, count, dtype=np.uint32)

    def folded(self) -> dict[str, Blocks]:
        """Return the blocks that every log of these commands must hold, by volume."""
        return {
            volume.volume: np.unique(self.written(index))
            for index, volume in enumerate(self.volumes())
        }

    def publications(self) -> Iterator[Publication]:
        """Yield the commands in the order in which they are published."""
        volumes = self.volumes()
        written = [self.written(index) for index in range(self.volume_count)]
        ends = [0] * self.partitions
        for sequence in range(self.commands_per_volume + 1):
            last = sequence * self.extents_per_command
            first = max(last - self.extents_per_command, 0)
            for volume, blocks in zip(volumes, written, strict=True):
                acknowledged = ends[volume.partition] - 1 - _IN_FLIGHT
                times = (self._at_us(first), self._at_us(last))
                command = writes(
                    volume,
                    sequence,
                    blocks[first:last],
                    times,
                    acknowledged if acknowledged >= 0 else None,
                )
                ends[volume.partition] += 1
                yield Publication(
                    volume.partition, volume.volume.encode(), encode(command), times[1] // 1000
                )

    def ends(self) -> dict[int, int]:
        """Return the position behind the last command, by partition."""
        ends = dict.fromkeys(range(self.partitions), 0)
        for volume in self.volumes():
            ends[volume.partition] += self.commands_per_volume + 1
        return ends

    def _at_us(self, write: int) -> int:
        writes = self.commands_per_volume * self.extents_per_command
        return self.ended_at_us - (writes - write) * 1_000_000 // self.writes_per_s


def writes(
    volume: Volume,
    sequence: int,
    blocks: npt.NDArray[np.uint32],
    times_us: tuple[int, int],
    acknowledged_position: int | None,
) -> TrackingCommand:
    """Return a command for writes of these blocks. Sequence 0 opens the session.

    times_us: the times of the first and the last write.
    """
    return TrackingCommand(
        volume=volume.volume,
        generation=volume.generation,
        host=_HOST,
        session=_SESSION,
        sequence=sequence,
        kind=CommandKind.WRITES if sequence else CommandKind.SESSION_OPEN,
        extents=ExtentColumns(
            blocks.astype(U64) * U64.type(volume.block_size),
            np.full(len(blocks), volume.block_size, U64),
        ),
        first_at_us=times_us[0],
        last_at_us=times_us[1],
        acknowledged_position=acknowledged_position,
    )


def differences(expected: dict[str, Blocks], folded: dict[str, Blocks]) -> list[str]:
    """Return a text for each volume whose log doesn't hold exactly what was written."""
    problems = [
        f"{name}: a volume that isn't there" for name in sorted(folded.keys() - expected.keys())
    ]
    for name, blocks in expected.items():
        other = folded.get(name, blocks[:0])
        if not np.array_equal(blocks, other):
            missing, surplus = np.setdiff1d(blocks, other), np.setdiff1d(other, blocks)
            problems.append(f"{name}: {len(missing)} blocks missing, {len(surplus)} too many")
    return problems
