"""What a volume is: its size, its blocks, its generation, where its copies are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.errors import BadUse

VOLUME_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
MIN_BLOCK_BYTES: Final = 512
MAX_BLOCK_BYTES: Final = 1 << 26


class VolumeState(StrEnum):
    """Where a volume is in its life (mirrorlog.volume_states). UNKNOWN is what an older reader sees of a state that it
    doesn't know."""

    ACTIVE = "ACTIVE"
    RETIRED = "RETIRED"  # nobody writes to it any more, and sites don't follow it
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class EarlierSize:
    """A size that the volume had for the commands below a position."""

    before_position: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as `mirrorlog.volumes` describes it; the newest description wins.

    partition: of the commands topic and of the changelog: fixed at creation, it is where its commands are ordered.
    generation: a UUID, renewed whenever the volume's history is broken.
    origin_position: the log says everything that changed after it.
    initially_zeroed: at the origin every block was known to read as zeros, so a new zeroed secondary equals it there.
    primary: address of the primary; secondaries: address by site.
    keep_s: for how long the log keeps its records, by tier (second, minute, hour, day); the node's settings for the others.
    shared: two hosts may write to it at once.
    described_position: of the last command that changed the description; -1 before the first. Commands at or below it
    are in the description already.
    earlier_sizes: oldest first. So a command means the same whenever it is read again: see as_of().
    """

    volume: str
    generation: str
    size_bytes: int
    block_size: int
    partition: int
    origin_position: int
    initially_zeroed: bool
    primary: str
    secondaries: Mapping[str, str] = field(default_factory=dict)
    created_at_us: int = 0
    state: VolumeState = VolumeState.ACTIVE
    keep_s: Mapping[str, int] = field(default_factory=dict)
    shared: bool = False
    described_position: int = BEFORE_FIRST
    earlier_sizes: tuple[EarlierSize, ...] = ()

    @property
    def blocks(self) -> int:
        """How many blocks the volume has; the last one may be partial."""
        return -(-self.size_bytes // self.block_size)

    @property
    def is_retired(self) -> bool:
        """Whether nobody writes to it any more."""
        return self.state is VolumeState.RETIRED

    def size_at(self, position: int) -> int:
        """The volume's size in bytes as commands at `position` meet it, a RESIZE there included."""
        sizes = (each.size_bytes for each in self.earlier_sizes if position < each.before_position)
        return next(sizes, self.size_bytes)

    def as_of(self, position: int) -> Volume:
        """The volume as commands at `position` meet it: what was outside then is refused again when it is read again, and
        a record stays a pure function of its commands."""
        if position >= self.described_position or not self.earlier_sizes:
            return self
        return replace(self, size_bytes=self.size_at(position))

    def byte_range(self, first: int, count: int) -> tuple[int, int]:
        """(offset, length) of `count` blocks from `first` on, clipped at the volume's end."""
        offset = first * self.block_size
        return offset, min(count * self.block_size, self.size_bytes - offset)


def check_volume_name(name: str) -> str:
    """`name`, or BadUse: it becomes part of topics' keys, file names and metrics' labels."""
    if not VOLUME_NAME.fullmatch(name):
        raise BadUse(
            f"'{name[:220]}' can't name a volume",
            next="Use letters, digits, '.', '_' and '-', at most 200, the first a letter or digit.",
        )
    return name


def check_geometry(size_bytes: int, block_size: int) -> None:
    """BadUse unless the block size is a power of two in range and the size is one that an address can reach."""
    if block_size & (block_size - 1) or not MIN_BLOCK_BYTES <= block_size <= MAX_BLOCK_BYTES:
        raise BadUse(
            f"{block_size} bytes can't be a block size",
            next=f"Use a power of two from {MIN_BLOCK_BYTES} B to {MAX_BLOCK_BYTES >> 20} MiB, for example 4KiB.",
        )
    if not 0 < size_bytes <= MAX_BYTE:
        raise BadUse(f"{size_bytes} bytes can't be a volume's size", next="Use 1 B to 8 EiB.")
