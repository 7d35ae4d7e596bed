"""Points become positions: barriers and sites by the topics, times by the log and the commands.

Positions order, times are for people (invariant 10). A time becomes a position by the times that
hosts gave their commands. It is rounded so that the answer names a block too many rather than one
too few, whatever the hosts' clocks show:

- since T: the answer begins with the first command of the volume whose last write came after T.
- until T: it ends with the last command whose first write came at T or before.

The broker's own times aren't asked: nothing ties a broker's clock to a host's, and the records'
times find the position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mirrorlog.changed.points import (
    AtBarrier,
    AtEnd,
    AtOrigin,
    AtPosition,
    AtSite,
    AtTime,
    Point,
    format_time,
)
from mirrorlog.changed.proven_log import ProvenLog, is_imported
from mirrorlog.changed.volume_commands import VolumeCommands
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, OutOfRetention
from mirrorlog.tracking_log.records import LogRecord

_BARRIER_STEP: Final = 10_000
"""The number of commands in which a barrier is looked for first, from the end back.

Each further look takes four times as many."""


def position_of(
    point: Point, volume: Volume, commands: VolumeCommands, progress_topic: str, last: int
) -> int | None:
    """Return the position of a point; None for a time, which needs the log.

    last: the position of the last command, as of when the question was asked.

    Raise BadUse if there is no such barrier or report; OutOfRetention if the commands that may hold
    the barrier are gone, or if the site has applied another generation.
    """
    match point:
        case AtTime():
            return None
        case AtPosition(position):
            return position
        case AtOrigin():
            return volume.origin_position
        case AtEnd():
            return last
        case AtBarrier(name):
            return _barrier_position(name, volume, commands, last)
        case AtSite(site):
            return _applied_position(site, volume, commands, progress_topic)


def _barrier_position(name: str, volume: Volume, commands: VolumeCommands, last: int) -> int:
    """Return the position of the newest barrier of that name. It is likely to be near the end."""
    kept_after = commands.kept_after()
    lowest = max(kept_after, volume.origin_position)
    upper, step = last, _BARRIER_STEP
    while upper > lowest:
        lower = max(lowest, upper - step)
        barriers = [
            command.position
            for command in commands.read(after=lower, through=upper)
            if _is_barrier(command.command, name)
        ]
        if barriers:
            return barriers[-1]
        upper, step = lower, step * 4
    where = f"volume {volume.volume}, positions {lowest + 1} to {last}"
    if kept_after > volume.origin_position:
        raise OutOfRetention(
            f"no barrier '{name}' is in the commands that are kept",
            where=where,
            next="Name a position or a time.",
        )
    raise BadUse(f"there is no barrier '{name}'", where=where, next="Name a position or a time.")


def _applied_position(site: str, volume: Volume, commands: VolumeCommands, topic: str) -> int:
    reports = {
        report.site: report
        for report in commands.read_events(topic, SiteProgress)
        if report.volume == volume.volume
    }
    where = f"volume {volume.volume}, site {site}"
    if site not in reports:
        known = ", ".join(sorted(reports)) or "none"
        raise BadUse(
            "the site has reported nothing of the volume",
            where=where,
            next=f"Sites that have: {known}.",
        )
    report = reports[site]
    if report.generation != volume.generation:
        raise OutOfRetention(
            f"the site has applied generation {report.generation}, and the log is of "
            f"{volume.generation}",
            where=where,
            next="Ask again after the site's next resync.",
        )
    if report.applied_position is None:
        raise BadUse(
            "the site hasn't applied anything yet", where=where, next="Wait for its initial copy."
        )
    return report.applied_position


@dataclass(frozen=True, slots=True)
class TimePositions:
    """Turns times into positions, by a volume's log and its commands."""

    volume: Volume
    log: ProvenLog
    commands: VolumeCommands

    def since(self, point: AtTime) -> int:
        """Return the position before the first command with a write after the time.

        If the commands of its record are gone, return the position before the record. Raise
        OutOfRetention if the log doesn't reach back to the time.
        """
        base, records = self._records_for(point)
        for record in records:
            if record.last_at_us <= point.at_us:
                continue
            after = max(record.after, base)
            if not self.commands.is_kept(after):
                return after
            for command in self.commands.read(after=after, through=record.through):
                if command.command.last_at_us > point.at_us and command.touches_blocks:
                    return command.position - 1
        return self.log.watermark

    def until(self, point: AtTime) -> int:
        """Return the position of the last command with a write at or before the time.

        If the commands of its record are gone, return the end of the record. Raise OutOfRetention
        if the log doesn't reach back to the time.
        """
        base, records = self._records_for(point)
        for record in reversed(records):
            if record.first_at_us > point.at_us:
                continue
            after = max(record.after, base)
            if not self.commands.is_kept(after):
                return record.through
            last = None
            for command in self.commands.read(after=after, through=record.through):
                if command.command.first_at_us <= point.at_us and command.touches_blocks:
                    last = command.position
            if last is not None:
                return last
        return base

    def _records_for(self, point: AtTime) -> tuple[int, list[LogRecord]]:
        """Return the position from which the log can answer, and each later record's first part.

        Raise OutOfRetention if the time lies before that position.
        """
        base = self.log.answers_from()
        records = self.log.first_parts(base)
        known_from_us = self.volume.created_at_us
        if base > self.volume.origin_position:
            # What is gone was written before the oldest record that is kept. A later record tells
            # nothing: it may hold the times of a host whose clock is wrong.
            dated = (record for record in records if not is_imported(record))
            known_from_us = next((record.first_at_us for record in dated), point.at_us + 1)
        if point.at_us < known_from_us:
            raise self.log.out_of_retention(
                "the log doesn't reach back to that time", format_time(point.at_us)
            )
        return base, records


def _is_barrier(command: TrackingCommand, name: str) -> bool:
    return command.kind is CommandKind.BARRIER and command.note == name
