"""A repository as a registered user of a volume's log: the node keeps what its next backup needs.

The order keeps the promise that the next backup needs only what changed:

1. Before the first point is read, its position is registered. Reading may take hours, and the log
   above that position is needed afterwards.
2. As long as the next point isn't finished, the report names the position of the last one.
3. Once a point's manifest is durable, its position is registered. A process that dies before that
   leaves an older position, and the log keeps more than is needed.
4. A registration lasts until it is ended, also if nobody backs the volume up any more: `mirrorlog
   status` and the node's log name it then.

What node_keep_past_sites_after_s lets the node delete all the same, the next backup says
(lost_log_reason), and it copies all that is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from mirrorlog.codec.events import decode, encode
from mirrorlog.consumers.backup.sources.source_point import (
    BackupPosition,
    ChangesUnknown,
    ChosenBlocks,
    PointChanges,
    SourcePoint,
)
from mirrorlog.domain.backup_reports import BackupReport, backup_key
from mirrorlog.errors import BadInput
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher
from mirrorlog.reading.read_through import CompactedTopic

_PARTITION: Final = 0
_FLUSH_S: Final = 30.0
_MAX_TEXT: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrar:
    """One repository. id: its canonical UUID. address: where it is, without a secret.

    topic: mirrorlog.progress, read by `reader`. host: the name of this machine. every_s: the time
    between two backups; None if nobody said so. Each method raises KafkaFailed.
    """

    id: str
    address: str
    publisher: Publisher
    reader: CompactedTopic
    topic: str
    clock: Clock
    host: str
    every_s: float | None = None

    def registered(self) -> Mapping[str, BackupReport]:
        """Return the last report of each volume that is registered for the repository."""
        self.reader.start_over()
        prefix, reports = backup_key(self.id, ""), dict[str, BackupReport]()
        for message in self.reader.read_to_end():
            if message.key is None or not message.key.startswith(prefix):
                continue
            reports.pop(message.key.removeprefix(prefix).decode(), None)
            if message.value is not None and (report := _decoded(message.value)) is not None:
                reports[report.volume] = report
        return reports

    def begin(
        self, known: BackupReport | None, base: BackupPosition | None, point: SourcePoint
    ) -> BackupReport:
        """Register what the backup that begins needs, durably; return the report (step 1).

        known: the report so far. base: of the point on which this one stands, or on which it would
        have stood; None if there is none.
        """
        needed = point.position if base is None else base
        position = needed.position
        if known is not None and (known.generation, known.history_id) == (
            needed.generation,
            needed.history_id,
        ):
            position = min(position, known.position)
        begun = known or BackupReport(
            repository=self.id,
            address=self.address,
            volume=point.volume.volume,
            generation=needed.generation,
            history_id=needed.history_id,
            position=position,
            host=self.host,
            at_us=self.clock.now_us(),
        )
        return self._publish(
            replace(
                begun,
                generation=needed.generation,
                history_id=needed.history_id,
                position=position,
            )
        )

    def finished(
        self,
        begun: BackupReport,
        point: SourcePoint,
        chosen: ChosenBlocks,
        *,
        name: str,
        written_at_us: int,
    ) -> BackupReport:
        """Register the position of a point whose manifest is durable; return the report (step 3).

        name: of the point. written_at_us: when it was finished, by this machine's clock.
        """
        return self._publish(
            replace(
                begun,
                generation=point.position.generation,
                history_id=point.position.history_id,
                position=point.position.position,
                point=name,
                point_at_us=point.at_us,
                written_at_us=written_at_us,
                is_consistent=point.is_consistent,
                rung=chosen.rung.value,
                reason=_short(point.reason or chosen.reason),
                failure=None,
            )
        )

    def failed(self, known: BackupReport, what: str) -> BackupReport:
        """Say that an attempt failed, and with what. What is needed of the log stays the same."""
        return self._publish(replace(known, failure=_short(what)))

    def end(self, volume: str) -> None:
        """End the registration of a volume, durably. Harmless if there is none."""
        self.publisher.publish(self.topic, _PARTITION, backup_key(self.id, volume), None)
        self.publisher.flush(_FLUSH_S)

    def _publish(self, report: BackupReport) -> BackupReport:
        report = replace(
            report,
            address=self.address,
            host=self.host,
            every_s=self.every_s,
            at_us=self.clock.now_us(),
        )
        self.publisher.publish(self.topic, _PARTITION, report.key, encode(report))
        self.publisher.flush(_FLUSH_S)
        return report


def lost_log_reason(
    changes: PointChanges, known: BackupReport | None, base: BackupPosition
) -> str | None:
    """Return why the log lacks what a backup needs, for people; None if it doesn't.

    known: the report before this backup. base: the position of the point on which it was to stand.
    """
    if not (isinstance(changes, ChangesUnknown) and changes.lost_log):
        return None
    if known is None:
        return (
            f"{changes.reason}. The repository wasn't registered, so nothing kept the log above "
            f"position {base.position}"
        )
    if known.position > base.position:
        return (
            f"{changes.reason}. The repository needed the log above position {known.position} "
            f"only, and this point stands on an older one at {base.position}"
        )
    return (
        f"{changes.reason}. The node deleted it though the repository was registered at position "
        f"{known.position}: node_keep_past_sites_after_s lets it, or records were lost"
    )


def _decoded(value: bytes) -> BackupReport | None:
    try:
        return decode(value, BackupReport)
    except BadInput:
        return None  # of a newer release


def _short(text: str | None) -> str | None:
    return None if text is None else text[:_MAX_TEXT]
