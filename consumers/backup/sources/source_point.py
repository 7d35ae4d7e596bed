"""A volume as of one position: as the manifest of a point names it, and open to be read. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from mirrorlog.consumers.range_reads import CopySource
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume

_ANCHOR: Final = re.compile(r"[0-9a-f]{32}")
PRIMARY: Final = "primary"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPosition:
    """The position of a point, with what tells whether it still means the same.

    Whatever the log names at or below the position is in the point. Of what it names above, an
    inconsistent point may hold a part.

    generation: the volume's, as a canonical UUID. history_id: of the partition, a canonical UUID;
    None if it isn't known. anchor: the digest of the command at the position, 16 bytes in
    hexadecimal; None if it isn't known. is_consistent: the point equals the volume as of the
    position, by proof.

    Raise ValueError for values that no position has.
    """

    position: int
    generation: str
    history_id: str | None
    anchor: str | None
    is_consistent: bool

    def __post_init__(self) -> None:
        if not BEFORE_FIRST <= self.position < 1 << 63:
            raise ValueError(f"{self.position} is no position")
        for text in (self.generation, self.history_id):
            if text is not None and str(UUID(text)) != text:
                raise ValueError(f"'{text}' isn't a UUID in canonical form")
        if self.anchor is not None and not _ANCHOR.fullmatch(self.anchor):
            raise ValueError(f"'{self.anchor}' isn't an anchor")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangesKnown:
    """The blocks in which a point may differ from an earlier one.

    zeroed: those of `blocks` that are zeros in the point. They needn't be read.
    """

    blocks: BlockSet
    zeroed: BlockSet


@dataclass(frozen=True, slots=True)
class ChangesUnknown:
    """Nobody can tell in which blocks a point differs from an earlier one.

    reason: for people. lost_log: the log doesn't reach back to the earlier point any more.
    """

    reason: str
    lost_log: bool = False


PointChanges: TypeAlias = ChangesKnown | ChangesUnknown


def within(changes: PointChanges, volume: Volume) -> PointChanges:
    """Return the changes without the blocks behind the end of `volume`."""
    if isinstance(changes, ChangesUnknown):
        return changes
    end = BlockSet.of_range(0, volume.blocks)
    return ChangesKnown(blocks=changes.blocks & end, zeroed=changes.zeroed & end)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePoint:
    """A volume as of one position, open to be read until its source closes it.

    volume: the description, with the size that the volume had at the position.
    at_us: when the broker took the last command at or below the position, in microseconds since
    1970; None if nobody knows. source: for people: `site NAME` or `primary`.
    reason: why it isn't consistent; None if it is. reader: any number of threads may read it.
    changes: since the point that the source was asked about.
    allocated: what may be more than zeros; None if nobody knows, or if the changes are known.
    """

    volume: Volume
    position: BackupPosition
    at_us: int | None
    source: str
    reason: str | None
    reader: CopySource
    changes: PointChanges
    allocated: BlockSet | None

    @property
    def is_consistent(self) -> bool:
        """Whether it is proved that the reader returns the volume as of the position."""
        return self.position.is_consistent


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenBlocks:
    """The blocks that an image of a point holds.

    With the rung CHANGED the image stands on the earlier point, otherwise alone, with zeros where
    it holds nothing. data: to be read from the point. zeros: to be marked as zeros.
    reason: why a rung above CHANGED was taken; None for the volume's first point.
    """

    rung: Rung
    data: BlockSet
    zeros: BlockSet
    reason: str | None


def choose_blocks(point: SourcePoint, *, has_base: bool) -> ChosenBlocks:
    """Return what an image of the point holds, by the first rung that can be trusted.

    has_base: there is an earlier point. The changes of `point` are those since then.
    """
    if isinstance(point.changes, ChangesKnown):
        changes = point.changes
        return ChosenBlocks(
            rung=Rung.CHANGED,
            data=changes.blocks - changes.zeroed,
            zeros=changes.zeroed,
            reason=None,
        )
    reason = point.changes.reason if has_base else None
    if point.allocated is not None:
        return ChosenBlocks(
            rung=Rung.ALLOCATED, data=point.allocated, zeros=BlockSet(), reason=reason
        )
    whole = BlockSet.of_range(0, point.volume.blocks)
    return ChosenBlocks(rung=Rung.FULL, data=whole, zeros=BlockSet(), reason=reason)
