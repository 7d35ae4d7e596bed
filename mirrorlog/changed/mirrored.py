"""The question which blocks changed, asked of a mirror of the log in another cluster.

The source's node proves what the mirror holds (docs/decisions/mirrored-logs.md). A mirror keeps no
positions of the commands, so a point is a position, a site, the origin or now: no time, no barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from mirrorlog.changed.append_times import AppendTimes
from mirrorlog.changed.logs import LoadedLog, LogView, incomplete, records_of
from mirrorlog.changed.volume_commands import (
    ChooseCommand,
    QueryPorts,
    VolumeCommand,
    VolumeCommands,
)
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.clusters import NamedCluster
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.mirrored_rows import MirroredRows
from mirrorlog.reading.source_questions import SourceQuestions
from mirrorlog.tracking_log.heads import complete_through

ASKER: Final = "?changed"
"""Who asks, when no site does. No site has such a name."""
_POLL_S: Final = 0.2


class MirroredLogSource:
    """Reads the mirrored changelog of one volume's partition, as far as the source proves it.

    open_questions: makes the questions of one reading.
    """

    def __init__(
        self,
        open_reader: Callable[[], TopicReader],
        admin: TopicAdmin,
        topic: str,
        clock: Clock,
        cluster: str,
        open_questions: Callable[[], SourceQuestions],
    ) -> None:
        self._open_reader: Final = open_reader
        self._admin: Final = admin
        self._topic: Final = topic
        self._clock: Final = clock
        self._cluster: Final = NamedCluster(cluster)
        self._open_questions: Final = open_questions
        self._reading: tuple[int, LogReader, SourceQuestions, TopicReader] | None = None

    def end(self, volume: Volume, patience_s: float) -> int:
        """Return where the commands of the volume's partition ended at the source after the call.

        Raise KafkaFailed if the source doesn't answer in time.
        """
        log, questions = self._open(volume)
        questions.want(volume.partition)
        number = questions.next_number
        until_s = self._clock.monotonic_s() + patience_s
        while True:
            log.poll(_POLL_S, records_of(volume))
            answered = questions.answered(volume.partition)
            if answered is not None and answered.answer.number >= number:
                return answered.answer.end
            if self._clock.monotonic_s() > until_s:
                raise unanswered(volume, questions, patience_s)

    def read(self, volume: Volume, needed: int, patience_s: float) -> LogView:
        """Return the volume's log once it is proved and complete through `needed`."""
        log, questions = self._open(volume)
        until_s = self._clock.monotonic_s() + patience_s
        while True:
            through = complete_through(log.watermarks.get(volume.partition), volume)
            if log.caught_up() and max(through, volume.origin_position) >= needed:
                return LoadedLog(log.logs[volume.volume], through)
            if self._clock.monotonic_s() > until_s:
                if questions.answered(volume.partition) is None:
                    raise unanswered(volume, questions, patience_s)
                raise incomplete(volume, needed, through, patience_s)
            questions.want(volume.partition)
            log.poll(_POLL_S, records_of(volume))

    def close(self) -> None:
        """Close the reader."""
        if self._reading is not None:
            self._reading[3].close()
            self._reading = None

    def _open(self, volume: Volume) -> tuple[LogReader, SourceQuestions]:
        if self._reading is None or self._reading[0] != volume.partition:
            self.close()
            questions, reader = self._open_questions(), self._open_reader()
            log = LogReader(
                reader,
                self._admin,
                self._topic,
                [volume.partition],
                forget_deleted=True,
                mirrored=MirroredRows(questions),
                cluster=self._cluster,
            )
            self._reading = (volume.partition, log, questions, reader)
        return self._reading[1], self._reading[2]


def unanswered(volume: Volume, questions: SourceQuestions, patience_s: float) -> KafkaFailed:
    """Return the error for a source that didn't answer in time."""
    reason = questions.stall_reason(volume.partition)
    return KafkaFailed(
        f"the source of the mirror didn't answer within {patience_s:g} s"
        + ("" if reason is None else f": {reason}"),
        where=f"volume {volume.volume}, partition {volume.partition}",
        next="See whether MirrorMaker runs in both directions, and whether the node does "
        "(docs/multi-site.md).",
    )


class MirroredCommands(VolumeCommands):
    """The commands of a volume at the source: only where they end is known here."""

    def __init__(
        self, source: MirroredLogSource, volume: Volume, ports: QueryPorts, patience_s: float
    ) -> None:
        super().__init__(volume, ports, patience_s)
        self._source, self._patience_s = source, patience_s

    def last_position(self) -> int:
        """Return the position of the last command at the source, or the origin if it is higher."""
        end = self._source.end(self._volume, self._patience_s)
        return max(end - 1, self._volume.origin_position)

    def is_kept(self, after: int) -> bool:
        """Return False: a command in the middle of a record can't be read by its position."""
        del after
        return False

    def kept_after(self) -> int:
        """Raise BadUse."""
        self._refuse()

    def read(
        self, *, after: int, through: int, choose: ChooseCommand = lambda kept: kept.command
    ) -> Iterator[VolumeCommand]:
        """Raise BadUse."""
        del after, through, choose
        self._refuse()

    def append_times(self) -> AppendTimes:
        """Raise BadUse."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise BadUse(
            "a mirror keeps no positions of the commands, so times and barriers mean nothing in it",
            where=f"volume {self._volume.volume}",
            next="Name positions (@N), a site (site:NAME), origin or now; or ask the source.",
        )
