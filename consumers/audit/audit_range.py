"""The points of an audit become positions, and the positions are held against what is kept.

Points mean what they mean to `changed` (mirrorlog/changed/points.py). A time is the broker's: the
range begins with the first command that was appended at --since or later, and ends with the last
one that was appended at --until or before, in Kafka's milliseconds. A write that a host held back
is listed when it was published; its row has the host's times, too. In a volume with an imported
recording, times are the writes' own (changed/own_times.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mirrorlog.changed.own_times import recorded_history_began_us
from mirrorlog.changed.point_positions import position_of
from mirrorlog.changed.points import AtTime, Point
from mirrorlog.changed.volume_commands import VolumeCommands
from mirrorlog.consumers.audit.question import OwnTimeWindow
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, OutOfRetention
from mirrorlog.history.source import CoveredRange
from mirrorlog.topics import Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRange:
    """The positions that an audit asks for, and what of them is kept.

    after, through: the positions `(after, through]`.
    kept: the ranges in it of which every command can be read, ascending.
    missing: the ranges in it that retention took, ascending.
    volume_began_us: when the volume's history begins, if --since is an earlier time; else None.
    has_own_times: times were the writes' own, not the broker's.
    """

    after: int
    through: int
    kept: tuple[CoveredRange, ...]
    missing: tuple[CoveredRange, ...]
    volume_began_us: int | None = None
    has_own_times: bool = False

    @property
    def missing_positions(self) -> int:
        """How many positions are missing: of all volumes of the partition, with its gaps."""
        return sum(gap.through - gap.after for gap in self.missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRange:
    """The positions `(after, through]` between two points, and the times if rows must lie in them.

    volume_began_us: as in AuditRange. window: None: all rows of the positions.
    """

    after: int
    through: int
    volume_began_us: int | None = None
    window: OwnTimeWindow | None = None


def range_between(
    volume: Volume, since: Point, until: Point, commands: VolumeCommands, topics: Topics
) -> AskedRange:
    """Return the range between two points.

    If a recording was imported into the volume, times are the writes' own, and rows of all
    positions may lie between two of them.

    Raise BadUse for a point that doesn't exist or lies behind the last command, or if `since` is
    later than `until`; OutOfRetention if a barrier can't be placed any more.
    """
    last = commands.last_position()
    after = position_of(since, volume, commands, topics.progress, last)
    through = position_of(until, volume, commands, topics.progress, last)
    where = f"volume {volume.volume}, {since}, {until}"
    if isinstance(since, AtTime) and isinstance(until, AtTime) and since.at_us > until.at_us:
        raise BadUse("--since lies after --until", where=where)
    has_own_times = volume.recorded_since_us is not None and None in (after, through)
    asked = (
        _between_own_times(volume, since, until, after, through, last)
        if has_own_times
        else _between_appends(volume, since, until, after, through, last, commands)
    )
    if asked.through > last:
        raise BadUse(
            f"the commands end at position {last}",
            where=where,
            next="Name a position of a command, or now.",
        )
    if asked.after > asked.through:
        raise BadUse("--since lies after --until", where=where)
    return replace(asked, after=min(max(asked.after, _begins_after(volume)), asked.through))


def _between_own_times(
    volume: Volume,
    since: Point,
    until: Point,
    after: int | None,
    through: int | None,
    last: int,
) -> AskedRange:
    """Return the range between points of which one at least is a time, by the writes' own times."""
    after_us = since.at_us if isinstance(since, AtTime) else None
    through_us = until.at_us if isinstance(until, AtTime) else None
    began_us = recorded_history_began_us(volume)
    is_first = volume.first_created_at_us is None
    return AskedRange(
        after=_begins_after(volume) if after is None else after,
        through=last if through is None else through,
        volume_began_us=(
            began_us if is_first and after_us is not None and after_us < began_us else None
        ),
        window=OwnTimeWindow(after_us=after_us, through_us=through_us),
    )


def _between_appends(
    volume: Volume,
    since: Point,
    until: Point,
    after: int | None,
    through: int | None,
    last: int,
    commands: VolumeCommands,
) -> AskedRange:
    """Return the range between two points; a time is the broker's."""
    began_us = None
    if after is None:
        assert isinstance(since, AtTime)
        after, began_us = _since(since, volume, commands, last)
    if through is None:
        assert isinstance(until, AtTime)
        appended = commands.append_times().through(until.at_us, watermark=last)
        through = last if appended is None else min(appended, last)
        if isinstance(since, AtTime):
            through = max(through, after)  # nothing was appended between the two times
    return AskedRange(after=after, through=through, volume_began_us=began_us)


def hold_against(asked: AskedRange, covered: Sequence[CoveredRange]) -> AuditRange:
    """Return the range that is asked for, with what of it is covered and what is missing.

    covered: ascending and apart.
    """
    after, through = asked.after, asked.through
    kept, missing, reached = [], [], after
    for part in covered:
        begin, end = max(part.after, after), min(part.through, through)
        if begin < end:
            if begin > reached:
                missing.append(CoveredRange(after=reached, through=begin))
            kept.append(CoveredRange(after=begin, through=end))
            reached = end
    if reached < through:
        missing.append(CoveredRange(after=reached, through=through))
    return AuditRange(
        after=after,
        through=through,
        kept=tuple(kept),
        missing=tuple(missing),
        volume_began_us=asked.volume_began_us,
        has_own_times=asked.window is not None,
    )


def check_whole(asked: AuditRange, volume: Volume) -> None:
    """Raise OutOfRetention if a part of the range is missing (invariant 5)."""
    if not asked.missing:
        return
    gaps = ", ".join(f"{gap.after + 1} to {gap.through}" for gap in asked.missing)
    begins = asked.kept[-1].after if asked.kept else asked.through
    raise OutOfRetention(
        f"the commands at positions {gaps} aren't kept any more",
        where=f"volume {volume.volume}, asked for positions {asked.after + 1} to {asked.through}",
        next=f"Everything is kept from --since @{begins} on. With --partial the answer has what is "
        "kept, and says what it lacks.",
    )


def _since(
    point: AtTime, volume: Volume, commands: VolumeCommands, last: int
) -> tuple[int, int | None]:
    """Return the position before the first command that was appended at the time or later.

    With it, when the volume was created if that was later, so that its history begins there.
    """
    before, _ = commands.append_times().before(point.at_us, watermark=last)
    is_first = volume.first_created_at_us is None and volume.created_at_us > point.at_us
    if before <= volume.origin_position and is_first:
        return volume.origin_position, volume.created_at_us
    return min(before, last), None


def _begins_after(volume: Volume) -> int:
    """Return the position behind which commands may be the volume's.

    If its generation was renewed, the history before the renewal is kept as long as the commands
    are. Otherwise commands at or below its origin are those of nobody: there was no such volume.
    """
    is_renewed = volume.first_created_at_us is not None
    return BEFORE_FIRST if is_renewed else volume.origin_position
