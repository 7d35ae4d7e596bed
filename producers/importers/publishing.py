"""A session that publishes an import, and the node's answers to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from mirrorlog.codec.events import encode
from mirrorlog.codec.status_batches import read_statuses
from mirrorlog.domain.bitmaps import BitMap64
from mirrorlog.domain.commands import CommandKind, StatusCode, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher, TopicAdmin, TopicReader
from mirrorlog.producers.importers.fitting import ImportBatch

_DEADLINE_S: Final = 60.0
_REFUSALS_KEPT: Final = 3


@dataclass(frozen=True, slots=True)
class PublishedImport:
    """first_position, last_position: of the session's opening and its close, in the volume's partition."""

    commands: int
    first_position: int
    last_position: int


class ImportSession:
    """One import's session on one volume. Unlike a host's it keeps nothing on disk: what isn't published is in the source."""

    def __init__(
        self,
        publisher: Publisher,
        topic: str,
        volume: Volume,
        host: str,
        session: str,
        clock: Clock,
    ) -> None:
        self.volume, self.session = volume, session
        self.commands = self.extents = 0
        self._publisher, self._topic, self._host, self._clock = publisher, topic, host, clock
        self._acknowledged: int | None = None

    def publish(
        self,
        contents: Iterable[ImportBatch],
        note: str,
        progress: Callable[[int], None] = lambda _: None,
    ) -> PublishedImport:
        """Publishes an import. All of it is in Kafka when this returns.

        1. SESSION_OPEN is acknowledged: from now on no site calls the volume consistent.
        2. The commands are published, in order.
        3. They are acknowledged.
        4. SESSION_CLOSE is acknowledged: nothing is held back any more.

        Cut off between 1 and 4, the session stays open in the log: what was published counts, what wasn't isn't taken for
        done. To import again changes nothing but what was missing, for the log is a union (invariant 3); then the session
        that was cut off is closed by hand.

        progress: called with the extents so far. Errors: KafkaFailed, and what `contents` raises.
        """
        first_position = self._send_and_wait(self._empty(CommandKind.SESSION_OPEN), note)  # 1
        for content in contents:
            self._send(content, note if content.kind is CommandKind.MARK_DIRTY else None)  # 2
            self._publisher.poll(0)
            progress(self.extents)
        self._publisher.flush(_DEADLINE_S)  # 3
        last_position = self._send_and_wait(self._empty(CommandKind.SESSION_CLOSE), note)  # 4
        return PublishedImport(self.commands, first_position, last_position)

    def _empty(self, kind: CommandKind) -> ImportBatch:
        now_us = self._clock.now_us()
        return ImportBatch(kind, ExtentColumns.of(()), now_us, now_us)

    def _send_and_wait(self, content: ImportBatch, note: str) -> int:
        self._send(content, note)
        self._publisher.flush(_DEADLINE_S)
        assert self._acknowledged is not None, "a flush without an error acknowledges everything"
        return self._acknowledged

    def _send(self, content: ImportBatch, note: str | None) -> None:
        volume = self.volume
        command = TrackingCommand(
            volume=volume.volume,
            generation=volume.generation,
            host=self._host,
            session=self.session,
            sequence=self.commands,
            kind=content.kind,
            extents=content.extents,
            first_at_us=content.first_at_us,
            last_at_us=content.last_at_us,
            acknowledged_position=self._acknowledged,
            note=note,
        )
        self._publisher.publish(
            self._topic,
            volume.partition,
            volume.volume.encode(),
            encode(command),
            self._on_acknowledged,
        )
        self.commands += 1
        self.extents += len(content.extents)

    def _on_acknowledged(self, position: int) -> None:
        self._acknowledged = (
            position if self._acknowledged is None else max(position, self._acknowledged)
        )


@dataclass(slots=True)
class SessionStatuses:
    """The node's statuses of one session's commands. Made before the first is published.

    counts: by code, each command once. refusals: the texts of the first that were refused.
    """

    reader: TopicReader
    volume: Volume
    session: str
    counts: Counter[StatusCode] = field(default_factory=Counter)
    refusals: list[str] = field(default_factory=list)
    _answered: BitMap64 = field(default_factory=BitMap64)

    def watch(self, admin: TopicAdmin, topic: str) -> None:
        """Statuses are read from here on."""
        self.reader.assign(
            topic, {self.volume.partition: admin.end_position(topic, self.volume.partition)}
        )

    def wait(self, commands: int, deadline_s: float, clock: Clock) -> None:
        """Returns when so many commands have their status; KafkaFailed at the deadline."""
        until_s = clock.monotonic_s() + deadline_s
        while len(self._answered) < commands:
            if clock.monotonic_s() > until_s:
                raise KafkaFailed(
                    f"the import is published, but the node answered {len(self._answered)} of its {commands} commands "
                    f"within {deadline_s:g} s",
                    where=f"volume {self.volume.volume}, session {self.session}",
                    next="Is a node running? It records them when it does.",
                )
            for message in self.reader.poll(0.2):
                self._take(message.value or b"")

    def _take(self, value: bytes) -> None:
        try:
            statuses = list(read_statuses(value))
        except BadInput:
            return  # of a newer node, and not about us: it answers what it can read in what we can read
        for status in statuses:
            if status.session == self.session and status.position not in self._answered:
                self._answered.add(status.position)
                self.counts[status.code] += 1
                if status.code is StatusCode.REJECTED and len(self.refusals) < _REFUSALS_KEPT:
                    self.refusals.append(
                        f"{status.reason} at position {status.position}: {status.text}"
                    )
