"""Points become positions: barriers and sites by the topics, times by the log and the commands.

Positions order, times are for people (invariant 10). A time becomes a position by the times at
which the broker appended the commands (invariant 15). A host publishes a write after it was made:
so what was appended before T was written before T, whatever the host's clock shows. The times that
hosts gave their commands count as well, where they make the answer larger:

- since T: the answer begins with the first command that was appended at T or later, or whose last
  write came after T by its host's clock.
- until T: it ends with the last command that was appended at T or before, or whose first write came
  at T or before by its host's clock: such a command was published late.

So the answer names a block too many rather than one too few. Of two answers, one until T and one
since T, each command is in at least one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

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
from mirrorlog.changed.proven_log import ProvenLog, RecordPiece
from mirrorlog.changed.volume_commands import VolumeCommands
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, OutOfRetention
from mirrorlog.tracking_log.publication_delays import (
    PublicationDelays,
    SearchRange,
    early_search,
    late_search,
)

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
    """Return the position of the newest barrier of that name. It is likely to be near the end.

    Raise BadUse if there is none, or if the volume is authenticated: another host may have sent a
    barrier of the same name.
    """
    if volume.is_authenticated:
        raise BadUse(
            f"barrier '{name}' can't be told from one that another host sent: the volume is "
            "authenticated, and only the node judges its commands",
            where=f"volume {volume.volume}",
            next="Name the position that `command send --barrier` printed, as @POSITION.",
        )
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


class SincePosition(NamedTuple):
    """A position that stands for the time `since`.

    volume_began_us: when the volume was created, if that is after the time. The position is then
    the one where the volume began. None otherwise.
    """

    position: int
    volume_began_us: int | None = None


@dataclass(frozen=True)
class TimePositions:
    """Turns times into positions, by a volume's log and its commands.

    A record that the time divides is searched for writes on the other side of it. Where the log
    knows the publication delays, only commands that were appended near the time are read.
    """

    volume: Volume
    log: ProvenLog
    commands: VolumeCommands

    @cached_property
    def _delays(self) -> Sequence[PublicationDelays]:
        return self.log.delays()

    def since(self, point: AtTime) -> SincePosition:
        """Return the position before the first command with a write after the time.

        If the commands of its record are gone, return the position before the record. For a volume
        that was created after the time, return the position where it began. Raise OutOfRetention
        if the log doesn't reach back to the time.
        """
        base = self.log.answers_from()
        appended_before = self._appended_before(point, base)
        if appended_before is None and self._log_begins_with_volume(base):
            return SincePosition(base, self.volume.created_at_us)
        appended_before = self._reached(point, appended_before)
        appended_before = max(appended_before, base)
        claimed = self._before_claimed(point, base, appended_before)
        position = min(appended_before, claimed)
        split = self._record_without_commands(position, base)
        return SincePosition(position if split is None else split.after)

    def _log_begins_with_volume(self, base: int) -> bool:
        """Return whether nothing was recorded of the volume before the position `base`.

        It was, if the log was cut, or if the generation was renewed.
        """
        volume = self.volume
        is_first = volume.first_created_at_us is None and volume.created_at_us > 0
        return is_first and base == volume.origin_position

    def until(self, point: AtTime) -> int:
        """Return the position of the last command with a write at or before the time.

        If the commands of its record are gone, return the end of the record. Raise OutOfRetention
        if the log doesn't reach back to the time.
        """
        base = self.log.answers_from()
        self._reached(point, self._appended_before(point, base))
        appended = self._appended_through(point.at_us)
        through = self.log.watermark if appended is None else min(appended, self.log.watermark)
        position = max(base, through, self._last_claimed(point, base, through))
        split = self._record_without_commands(position, base)
        return position if split is None else split.through

    def _record_without_commands(self, position: int, base: int) -> RecordPiece | None:
        """Return the record in whose middle a position lies, if its commands are gone.

        None if there is no such record: the position is the end of one, or commands can be read.
        """
        for piece in self.log.finest_pieces(base):
            if piece.after < position < piece.through and not self.commands.is_kept(piece.after):
                return piece
        return None

    def _before_claimed(self, point: AtTime, base: int, appended_before: int) -> int:
        """Return the position before the first command whose host claims a write after the time.

        Commands above `appended_before` don't matter, because they are in the answer anyway: then
        return a position that isn't below it.
        """
        for piece in self.log.finest_pieces(base):
            if piece.after >= appended_before:
                break
            if piece.record.last_at_us <= point.at_us:
                continue
            # If all of it came after the time, it counts whole, and none of it is replayed.
            is_later = piece.record.first_at_us > point.at_us
            if is_later or not self.commands.is_kept(piece.after):
                return piece.after
            through = min(piece.through, appended_before)
            for after, end in self._early_ranges(point, after=piece.after, through=through):
                for command in self.commands.read(after=after, through=end):
                    if command.command.last_at_us > point.at_us and command.touches_blocks:
                        return command.position - 1
        return self.log.watermark

    def _early_ranges(self, point: AtTime, *, after: int, through: int) -> list[SearchRange]:
        """Return where in `(after, through]` a host may claim a write after the time."""

        def appended_before(at_us: int) -> int:
            return self.commands.append_times().before(at_us, watermark=self.log.watermark)[0]

        return early_search(
            self._delays, point.at_us, appended_before, after=after, through=through
        )

    def _last_claimed(self, point: AtTime, base: int, appended_through: int) -> int:
        """Return the position of the last command whose host claims a write until the time.

        Commands through `appended_through` don't matter, because they are in the answer anyway:
        then return a position that isn't above it.
        """
        for piece in reversed(self.log.finest_pieces(base)):
            if piece.through <= appended_through:
                break
            if piece.record.first_at_us > point.at_us:
                continue
            # If all of it came until the time, it counts whole, and none of it is replayed.
            is_earlier = piece.record.last_at_us <= point.at_us
            if is_earlier or not self.commands.is_kept(piece.after):
                return piece.through
            after = max(piece.after, appended_through)
            ranges = late_search(
                self._delays,
                point.at_us,
                self._appended_through,
                after=after,
                through=piece.through,
            )
            for start, end in reversed(ranges):
                last = None
                for command in self.commands.read(after=start, through=end):
                    if command.command.first_at_us <= point.at_us and command.touches_blocks:
                        last = command.position
                if last is not None:
                    return last
        return base

    def _appended_through(self, at_us: int) -> int | None:
        """Return a position above which no command was appended at the time or before (or None)."""
        return self.commands.append_times().through(at_us, watermark=self.log.watermark)

    def _appended_before(self, point: AtTime, base: int) -> int | None:
        """Return a position through which every command was appended before the time.

        base: the position from which the log can answer. None if a command at or below it may have
        been appended at the time or later: what it changed is gone, or it belongs to what the
        volume was before its history began.
        """
        before, is_exact = self.commands.append_times().before(
            point.at_us, watermark=self.log.watermark
        )
        if base > self.volume.origin_position:
            is_reached = before >= base
        else:
            # Above the origin the volume exists. At the origin, or where the commands don't tell,
            # the description says since when: nobody recorded what was written before.
            is_reached = before > base or (
                point.at_us >= self.volume.created_at_us and (before == base or not is_exact)
            )
        return before if is_reached else None

    def _reached(self, point: AtTime, appended_before: int | None) -> int:
        """Return `appended_before`. Raise OutOfRetention if it is None."""
        if appended_before is not None:
            return appended_before
        raise self.log.out_of_retention(
            "the log doesn't reach back to that time", format_time(point.at_us)
        )


def _is_barrier(command: TrackingCommand, name: str) -> bool:
    return command.kind is CommandKind.BARRIER and command.note == name
