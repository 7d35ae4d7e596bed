"""What a promotion loses: writes that the log names and the promoted copy doesn't hold. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mirrorlog.domain.bitmaps import BlockSet, union
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.coverage import VolumeLog


@dataclass(frozen=True, slots=True, kw_only=True)
class LostWrites:
    """The writes in `(after, through]`.

    blocks: those that they changed, or more. size_bytes: of these blocks.
    writes: their number, or more. hosts: who wrote, sorted.
    first_at_us, last_at_us: by the hosts' clocks; None if nothing was written.
    is_complete: the log covers the range without a hole.
    """

    after: int
    through: int
    blocks: BlockSet
    size_bytes: int
    writes: int
    hosts: tuple[str, ...]
    first_at_us: int | None
    last_at_us: int | None
    is_complete: bool


def lost_writes(volume: Volume, log: VolumeLog, *, after: int, through: int) -> LostWrites:
    """Return what the log names in `(after, through]`.

    A record that reaches out of the range counts as a whole: the answer is rounded outwards.
    """
    records = [
        record
        for record in log.complete_records()
        if record[0].through > after and record[0].after < through
    ]
    parts = [part for record in records for part in record]
    blocks = union(part.changed for part in parts) if parts else BlockSet()
    return LostWrites(
        after=after,
        through=through,
        blocks=blocks,
        size_bytes=volume.bytes_of(len(blocks)),
        writes=sum(record[0].writes for record in records),
        hosts=tuple(sorted({host for part in parts for host in part.hosts})),
        first_at_us=min((part.first_at_us for part in parts), default=None),
        last_at_us=max((part.last_at_us for part in parts), default=None),
        is_complete=log.hole(after=after, through=through) is None,
    )
