"""LogWatch: the log and the saved positions of a site, held against the commands topic."""

from __future__ import annotations

from collections.abc import Mapping

from mirrorlog.consumers.resync.command_ends import CommandEnd, CommandEnds
from mirrorlog.consumers.resync.history_watch import HistoryWatch
from mirrorlog.consumers.resync.log_lag import LogFreshness, LogLag
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.ports.clock import Clock
from mirrorlog.reading.log_reader import LogReader


class LogWatch:
    """Knows how far the log lags, and whether its positions still mean the same commands.

    lagging: by partition, the position that the log should hold by now and doesn't.
    """

    def __init__(
        self,
        secondaries: Mapping[str, Secondary],
        log: LogReader,
        histories: HistoryWatch,
        clock: Clock,
        ends: CommandEnds,
    ) -> None:
        """Watch for the secondaries of a site. ends: says where the commands end."""
        self.lagging: Mapping[int, int] = {}
        self._secondaries, self._log, self._clock = secondaries, log, clock
        self._histories, self._ends = histories, ends
        self._log_lag, self._freshness = LogLag(), LogFreshness()
        # What is to be held against the commands topic: saved positions of volumes, and the log.
        self._unchecked: set[str] = set()
        self._partitions_to_check: set[int] = set()

    def forget(self, volume: str) -> None:
        """Forget a volume that the site works for no more."""
        self._unchecked.discard(volume)
        self._histories.forget(volume)

    def forget_partition(self, partition: int) -> None:
        """Forget a partition whose log is read no more."""
        self._partitions_to_check.discard(partition)
        self._histories.forget_partition(partition)
        self._log_lag.forget(partition)
        self._freshness.forget(partition)

    def complete_us(self, partition: int) -> int | None:
        """Return when the log was last known to hold all commands (LogFreshness.complete_us)."""
        return self._freshness.complete_us(partition)

    def ended(self, partition: int) -> str | None:
        """Return why the partition's log is of a history that ended; None if it isn't."""
        return self._histories.ended.get(partition)

    def take_other(self, volume: str) -> str | None:
        """Return once why the volume's saved position is of another history; None if it isn't."""
        return self._histories.take_other(volume)

    def is_other(self, volume: str) -> bool:
        """Return whether take_other() has something to say."""
        return self._histories.is_other(volume)

    def note_unchecked(self, volume: str) -> None:
        """Note that the saved position of a volume is to be checked: it was loaded."""
        self._unchecked.add(volume)

    def is_unchecked(self, volume: str) -> bool:
        """Return whether the saved position of the volume wasn't checked since it was loaded."""
        return volume in self._unchecked

    def check_all(self) -> None:
        """Let the next check look at the log of every partition."""
        self._partitions_to_check |= self._log.watermarks.keys()

    def note_ends(self, ends: Mapping[int, CommandEnd]) -> None:
        """Note where the commands of partitions end, as of questions that were asked."""
        for partition, known in ends.items():
            self._freshness.note_ends({partition: known.end}, known.asked_at_us)
            watermark = self._log.watermarks.get(partition)
            if watermark is not None and watermark.through >= known.end:
                # It was published before the question: impossible in one history.
                self._partitions_to_check.add(partition)

    def follow_lag(self) -> set[str]:
        """Find the partitions whose log lags. Return the volumes of which that has changed.

        They are reported again: how far they are behind is unknown, or known again.
        """
        now_s, before = self._clock.monotonic_s(), self.lagging
        if self._log_lag.is_due(now_s):
            partitions = {secondary.volume.partition for secondary in self._secondaries.values()}
            asked = {partition: self._ends.latest(partition) for partition in sorted(partitions)}
            known = {partition: end for partition, end in asked.items() if end is not None}
            self._log_lag.note_ends({key: bounds.end for key, bounds in known.items()}, now_s)
            self.note_ends(known)
        marks = self._log.watermarks
        watermarks = {key: mark.through for key, mark in marks.items()}
        self._freshness.note_watermarks(watermarks)
        self.lagging = self._log_lag.lagging(watermarks)
        changed = before.keys() ^ self.lagging.keys()
        if not changed:
            return set()
        return {
            name
            for name, secondary in self._secondaries.items()
            if secondary.volume.partition in changed
        }

    def check(self, touched: set[str]) -> set[str]:
        """Hold the log and saved positions against the commands topic, where that is due.

        touched: volumes of which the log has something new.
        Return the volumes about which something else can be said now.
        """
        partitions = {self._secondaries[name].volume.partition for name in self._unchecked}
        partitions |= (
            self._partitions_to_check
            | {
                self._secondaries[name].volume.partition
                for name in touched & self._secondaries.keys()
            }
            & self._histories.ended.keys()
        )
        changed: set[str] = set()
        for partition in partitions & self._log.watermarks.keys():
            names = {
                name
                for name, secondary in self._secondaries.items()
                if secondary.volume.partition == partition
            }
            loaded = (self._secondaries[name].saved for name in names & self._unchecked)
            saved = [state for state in loaded if state is not None]
            has_changed = self._histories.look(partition, self._log.watermarks[partition], saved)
            if has_changed is None:
                continue
            if has_changed:
                changed |= names
            self._unchecked -= names
            self._partitions_to_check.discard(partition)
        return changed
