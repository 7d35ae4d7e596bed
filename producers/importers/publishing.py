"""Publishes an import as a session, and counts the node's answers to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from mirrorlog.codec.events import encode
from mirrorlog.codec.status_batches import read_statuses
from mirrorlog.domain.block_sets import BitMap64
from mirrorlog.domain.commands import CommandKind, StatusCode, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.recorded_writes import RecordedWrites
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher, TopicAdmin, TopicReader, known_position
from mirrorlog.producers.importers.fitting import ImportBatch

_DEADLINE_S: Final = 60.0
"""Kafka must acknowledge messages within this time."""
_REFUSALS_KEPT: Final = 3


@dataclass(frozen=True, slots=True)
class PublishedImport:
    """An import that was published.

    commands: the number of the session's commands, with its opening and its close.
    first_position, last_position: the positions of the session's opening and of its close, in the
    volume's partition.
    """

    commands: int
    first_position: int
    last_position: int


class ImportSession:
    """The session of one import, on one volume.

    Unlike a host's session it keeps nothing on disk: what isn't published is still in the source.

    commands, extents: how many were sent.
    """

    def __init__(
        self,
        publisher: Publisher,
        volume: Volume,
        *,
        topic: str,
        host: str,
        session: str,
        clock: Clock,
        acknowledged_position: int | None = None,
    ) -> None:
        """Create the session. acknowledged_position: what its first command names as such."""
        self.volume, self.session = volume, session
        self.commands = self.extents = 0
        self._publisher, self._topic, self._host, self._clock = publisher, topic, host, clock
        self._acknowledged = acknowledged_position
        self._is_position_unknown = False

    def publish(
        self,
        batches: Iterable[ImportBatch],
        note: str,
        progress: Callable[[int], None] = lambda _: None,
    ) -> PublishedImport:
        """Publish an import. All of it is in Kafka when this returns.

        1. Publish SESSION_OPEN and wait until it is acknowledged. From now on no site calls the
           volume consistent.
        2. Publish the commands, in order.
        3. Wait until they are acknowledged.
        4. Publish SESSION_CLOSE and wait until it is acknowledged. From now on sites may call the
           volume consistent.

        If it is interrupted between 1 and 4, the session stays open in the log. What was published
        counts, and what wasn't isn't treated as done. To import again adds only what was missing,
        because the log is a union (invariant 3). Then close the interrupted session by hand.

        note: a text for audits.
        progress: is called with the number of extents so far.
        Errors: KafkaFailed, and the errors that `batches` raises.
        """
        first_position = self._send_and_wait(self._empty(CommandKind.SESSION_OPEN), note)  # 1
        for batch in batches:
            self._send(batch, note if batch.kind is CommandKind.MARK_DIRTY else None)  # 2
            self._publisher.poll(0)
            progress(self.extents)
        self._publisher.flush(_DEADLINE_S)  # 3
        last_position = self._send_and_wait(self._empty(CommandKind.SESSION_CLOSE), note)  # 4
        return PublishedImport(self.commands, first_position, last_position)

    def _empty(self, kind: CommandKind) -> ImportBatch:
        now_us = self._clock.now_us()
        return ImportBatch(kind, ExtentColumns.of(()), now_us, now_us)

    def _send_and_wait(self, batch: ImportBatch, note: str) -> int:
        self._send(batch, note)
        self._publisher.flush(_DEADLINE_S)
        return known_position(
            None if self._is_position_unknown else self._acknowledged,
            what="the import's last command",
            where=f"volume {self.volume.volume}",
        )

    def _send(self, batch: ImportBatch, note: str | None) -> None:
        volume = self.volume
        command = self._command(batch, note)
        self._publisher.publish(
            self._topic,
            volume.partition,
            volume.volume.encode(),
            encode(command),
            self._on_acknowledged,
        )
        self.commands += 1
        self.extents += len(batch.extents)

    def _command(self, batch: ImportBatch, note: str | None) -> TrackingCommand:
        fields: dict[str, Any] = {
            "volume": self.volume.volume,
            "generation": self.volume.generation,
            "host": self._host,
            "session": self.session,
            "sequence": self.commands,
            "kind": batch.kind,
            "extents": batch.extents,
            "first_at_us": batch.first_at_us,
            "last_at_us": batch.last_at_us,
            "acknowledged_position": self._acknowledged,
            "note": note,
        }
        if batch.times_us is None:
            return TrackingCommand(**fields)
        return RecordedWrites(**fields, times_us=batch.times_us)

    def _on_acknowledged(self, position: int | None) -> None:
        self._is_position_unknown = position is None
        if position is not None:
            self._acknowledged = max(position, self._acknowledged or 0)


@dataclass(slots=True)
class SessionStatuses:
    """Counts the node's statuses of one session's commands.

    Call start() before the session publishes its first command.

    counts: the number of commands by status code; each command counts once.
    refusals: the reasons of the first refused commands.
    """

    reader: TopicReader
    volume: Volume
    session: str
    counts: Counter[StatusCode] = field(default_factory=Counter)
    refusals: list[str] = field(default_factory=list)
    _answered: BitMap64 = field(default_factory=BitMap64)

    def start(self, admin: TopicAdmin, topic: str) -> None:
        """Start to read at the present end of the status topic."""
        self.reader.assign(
            topic, {self.volume.partition: admin.end_position(topic, self.volume.partition)}
        )

    def wait(self, commands: int, deadline_s: float, clock: Clock) -> None:
        """Wait until `commands` commands have a status. KafkaFailed at the deadline."""
        until_s = clock.monotonic_s() + deadline_s
        while len(self._answered) < commands:
            if clock.monotonic_s() > until_s:
                raise KafkaFailed(
                    f"the import is published, but the node answered {len(self._answered)} of its "
                    f"{commands} commands within {deadline_s:g} s",
                    where=f"volume {self.volume.volume}, session {self.session}",
                    next="Start a node if none is running. It records the commands when it runs.",
                )
            for message in self.reader.poll(0.2):
                self._take(message.value or b"")

    def _take(self, value: bytes) -> None:
        try:
            statuses = list(read_statuses(value))
        except BadInput:
            # A newer node wrote it, and not about this session: a node answers commands in a form
            # that their sender can read.
            return
        for status in statuses:
            if status.session == self.session and status.position not in self._answered:
                self._answered.add(status.position)
                self.counts[status.code] += 1
                if status.code is StatusCode.REJECTED and len(self.refusals) < _REFUSALS_KEPT:
                    self.refusals.append(
                        f"{status.reason} at position {status.position}: {status.text}"
                    )
