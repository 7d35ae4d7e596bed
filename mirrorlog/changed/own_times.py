"""Questions about times of a volume whose history has times of its own (an imported recording).

Its writes were made long before the broker took them. So the writes' own times decide, whatever
the order of their positions (docs/decisions/own-times.md):

- A write of a recording lies in `(since, until]` if its own time does: exactly.
- Another command of an import, such as a map, was made between its first and its last time.
- A command of a host was made between its first and its last time, or when the broker appended it:
  all of that counts, as for volumes without a recording. So an answer may name a block of a host
  too many, and none too few.

A record whose times lie inside counts as a whole. One that has no part in it counts for nothing.
All others are replayed from their commands. So an answer is the same before and after roll-ups.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from mirrorlog.changed.append_times import AppendTimes
from mirrorlog.changed.kept_commands import KeptCommand
from mirrorlog.changed.points import AtTime, format_time
from mirrorlog.changed.proven_log import ProvenLog
from mirrorlog.domain.commands import TrackingCommand, is_imported_host
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.recorded_writes import RecordedWrites
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.records import LogRecord

_MS: Final = 1000
"""The broker's times are milliseconds, rounded down."""


class Share(Enum):
    """How much of a record lies in a window of times."""

    ALL = auto()
    NONE = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """The times `(after_us, through_us]`, in microseconds since 1970; None is no limit.

    appended_before: every command through this position was appended before `after_us`.
    appended_through: none above this position was appended at `through_us` or before.
    """

    after_us: int | None
    through_us: int | None
    appended_before: int
    appended_through: int

    @classmethod
    def of(
        cls, since: AtTime | None, until: AtTime | None, appends: AppendTimes, watermark: int
    ) -> TimeWindow:
        """Return the window between two times. watermark: the log is complete through it."""
        before, through = BEFORE_FIRST, None
        if since is not None:
            before, _ = appends.before(since.at_us, watermark=watermark)
        if until is not None:
            through = appends.through(until.at_us, watermark=watermark)
        return cls(
            None if since is None else since.at_us,
            None if until is None else until.at_us,
            before,
            watermark if through is None else through,
        )

    def share_of(self, record: LogRecord) -> Share:
        """Return how much of what a record holds was made in the window.

        record: the first part of it.
        """
        is_late = self.through_us is not None and record.first_at_us > self.through_us
        is_early = self.after_us is not None and record.last_at_us <= self.after_us
        if (is_early or is_late) and record.is_only_imported:
            return Share.NONE
        if is_early and record.through <= self.appended_before:
            return Share.NONE
        if is_late and record.after >= self.appended_through:
            return Share.NONE
        begins = self.after_us is None or record.first_at_us > self.after_us
        ends = self.through_us is None or record.last_at_us <= self.through_us
        return Share.ALL if begins and ends else Share.UNKNOWN

    def part_of(self, kept: KeptCommand) -> TrackingCommand | None:
        """Return what a command says that was made in the window; None if nothing was."""
        command = kept.command
        if isinstance(command, RecordedWrites):
            return command.made_in(after_us=self.after_us, through_us=self.through_us)
        first_us, last_us = command.first_at_us, command.last_at_us
        if not is_imported_host(command.host):
            if kept.appended_at_us is None:
                return command
            first_us = min(first_us, kept.appended_at_us)
            last_us = max(last_us, kept.appended_at_us + _MS - 1)
        begins = self.after_us is None or last_us > self.after_us
        ends = self.through_us is None or first_us <= self.through_us
        return command if begins and ends else None


ALL_TIMES: Final = TimeWindow(None, None, BEFORE_FIRST, BEFORE_FIRST)
"""The window in which every command lies as a whole."""


class OwnTimesRange(NamedTuple):
    """Where a question about a volume's own times looks, and what it found out first.

    after, through: the positions in which the writes of the window may lie.
    volume_began_us: when the volume's history begins, if that is after the time `since`.
    """

    window: TimeWindow
    after: int
    through: int
    volume_began_us: int | None


def own_times_range(
    volume: Volume,
    log: ProvenLog,
    appends: AppendTimes,
    since: AtTime | int,
    until: AtTime | int,
) -> OwnTimesRange:
    """Return where the writes between two points may lie. since, until: times, or positions.

    Raise OutOfRetention if writes of those times may be gone from the log: the times of what was
    cut off are unknown.
    """
    began_us = None
    after = since if isinstance(since, int) else volume.origin_position
    if isinstance(since, AtTime):
        began_us = _began_us(volume, log, since)
    through = until if isinstance(until, int) else log.watermark
    log.prove(after=after, through=through)
    window = TimeWindow.of(
        since if isinstance(since, AtTime) else None,
        until if isinstance(until, AtTime) else None,
        appends,
        log.watermark,
    )
    return OwnTimesRange(window, after, through, began_us)


def _began_us(volume: Volume, log: ProvenLog, since: AtTime) -> int | None:
    """Return when the history of the volume begins, if that is after `since`; None otherwise."""
    base = log.answers_from()
    was_renewed = volume.first_created_at_us is not None
    if base > volume.origin_position or (was_renewed and since.at_us < volume.created_at_us):
        raise log.out_of_retention(
            "the beginning of the volume's log is gone, and what it held may have any time",
            format_time(since.at_us),
        )
    began_us = recorded_history_began_us(volume)
    return began_us if since.at_us < began_us else None


def recorded_history_began_us(volume: Volume) -> int:
    """Return when the history of a volume with a recording begins: with it, or when it was created.

    If its generation was renewed since, the history begins earlier.
    """
    assert volume.recorded_since_us is not None
    return min(volume.recorded_since_us, volume.created_at_us or volume.recorded_since_us)


def position_of_time(
    records: Iterable[LogRecord], at: AtTime, appends: AppendTimes, *, after: int, watermark: int
) -> int:
    """Return a position through which every command was made at the time or before.

    It is not below `after`. So `--since @POSITION` continues where an answer until the time ended:
    it names a block twice rather than never. records: first parts, in the order of positions, of
    the log above `after`.
    """
    window = TimeWindow.of(at, None, appends, watermark)
    position = after
    for record in records:
        if window.share_of(record) is not Share.NONE:
            return max(position, min(record.after, watermark))
        position = max(position, record.through)
    return max(position, watermark)
