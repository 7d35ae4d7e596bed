"""ReplicaLogs: what the tracking log says of the secondaries of one site."""

from __future__ import annotations

from collections.abc import Mapping

from mirrorlog.consumers.resync.command_ends import CommandEnds
from mirrorlog.consumers.resync.cycle_steps import CycleInput
from mirrorlog.consumers.resync.hole_doubts import HoleDoubts
from mirrorlog.consumers.resync.secondary import Secondary, needed_after, split_positions
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import Watermark, counts_for
from mirrorlog.tracking_log.keys import missed_log, split_log_name
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.site_log import SiteLog


class ReplicaLogs:
    """Looks up the logs of a site's secondaries, and forgets what they no longer need.

    others: the volumes that the site doesn't mirror, by name. Nothing of them is kept.
    ends: says what is proved of a mirror of the log.
    """

    def __init__(
        self,
        site: str,
        log: LogReader,
        secondaries: Mapping[str, Secondary],
        others: Mapping[str, Volume],
        ends: CommandEnds,
    ) -> None:
        self._site, self._log, self._secondaries, self._others = site, log, secondaries, others
        self._ends, self._holes = ends, HoleDoubts(ends.ask)

    def of(self, volume: str) -> SiteLog:
        """Return the log of a volume as this site needs it."""
        return SiteLog(*self._both(volume), self._site)

    def watermark(self, secondary: Secondary) -> Watermark | None:
        """Return the watermark of the secondary's partition, None before the first one."""
        return self._log.watermarks.get(secondary.volume.partition)

    def is_needed(self, record: LogRecord) -> bool:
        """Return whether a record covers more than its secondary has applied and proved."""
        name = split_log_name(record.volume)[0]
        secondary = self._secondaries.get(name)
        if secondary is None:
            return name not in self._others
        return record.through > needed_after(secondary.saved)

    def changed_since(self, secondary: Secondary) -> BlockSet:
        """Return the blocks that the log names as changed since the known position."""
        saved, watermark = secondary.saved, self.watermark(secondary)
        if saved is None or saved.known_position is None or watermark is None:
            return BlockSet()
        log_of = self.of(secondary.volume.volume)
        return log_of.changed(after=saved.known_position, through=watermark.through)

    def forget(self, volume: str) -> None:
        """Forget a volume that the site works for no more."""
        self._holes.forget(volume)

    def forget_applied(self, secondary: Secondary) -> None:
        """Drop the records that the secondary's saved state makes needless."""
        for volume_log in self._both(secondary.volume.volume):
            volume_log.forget_through(needed_after(secondary.saved))

    def forget_rolled_up(self, secondary: Secondary) -> None:
        """Drop the records that a roll-up replaces, but for those that end where a step begins."""
        fork = self.of(secondary.volume.volume).fork
        positions = split_positions(secondary.volume, secondary.saved, fork, secondary.staged)
        for volume_log in self._both(secondary.volume.volume):
            volume_log.forget_rolled_up(positions)

    def cycle_input(self, secondary: Secondary, lagging: Mapping[int, int]) -> CycleInput:
        """Return what is known of the secondary beside its saved state. lagging: of LogWatch."""
        volume, read = secondary.volume, self.watermark(secondary)
        watermark = read if read is not None and counts_for(read, volume) else None
        history = watermark.history if watermark else None
        return CycleInput(
            volume=volume,
            log=self.of(volume.volume),
            watermark=None if watermark is None else watermark.through,
            history_id=history.id if history else None,
            anchor=watermark.anchor.hex() if watermark and watermark.anchor else None,
            is_other_history=read is not None and watermark is None,
            read_end=secondary.read_end,
            secondary_zeroed=secondary.is_zeroed,
            beats=self._log.beats[volume.partition],
            unknown_reason=secondary.unknown_reason,
            awaited_position=lagging.get(volume.partition),
            hole_may_close=self._hole_may_close(secondary, watermark),
            unanswered_reason=self._ends.stall_reason(volume.partition),
        )

    def _hole_may_close(self, secondary: Secondary, watermark: Watermark | None) -> bool:
        """Return whether the log has a hole that a mirror may still fill."""
        volume, saved = secondary.volume, secondary.saved
        proof = self._ends.proof(volume.partition)
        after = None if saved is None else saved.known_position
        if proof is None or after is None or watermark is None:
            return False
        log_of = self.of(volume.volume)
        hole = log_of.hole(after=after, through=watermark.through)
        return self._holes.may_close(
            volume.volume, volume.partition, proof, has_hole=hole is not None
        )

    def _both(self, volume: str) -> tuple[VolumeLog, VolumeLog]:
        """Return the volume's log, and the log of what this site has missed of the volume."""
        logs = self._log.logs
        return logs[volume], logs[missed_log(volume, self._site)]
