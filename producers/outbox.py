"""A session's tracking commands on their way to Kafka."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from threading import RLock
from typing import Final

from mirrorlog.codec import encode
from mirrorlog.commands import CommandKind, TrackingCommand
from mirrorlog.errors import KafkaFailed
from mirrorlog.extents import ExtentColumns
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher
from mirrorlog.producers.batch import ClosedBatch
from mirrorlog.volumes import Volume

NO_EXTENTS: Final = ClosedBatch(ExtentColumns.of(()))


class Outbox:
    """Publishes in the order of the calls.

    Whoever closes a batch holds `lock` from then until send() has returned: a batch that was closed earlier and published
    later than another would be missing below a position that says it is there (invariant 8).

    `lock` is reentrant, for a publisher may run callbacks while it publishes; they run with the lock held.
    """

    def __init__(
        self, publisher: Publisher, topic: str, host: str, session: str, clock: Clock, deadline_s: float
    ) -> None:
        self.lock: Final = RLock()
        self.session: Final = session
        self.commands = 0
        self.extents = 0
        self.last_positions: Final[dict[str, int]] = {}
        self._publisher: Final = publisher
        self._topic: Final = topic
        self._host: Final = host
        self._clock: Final = clock
        self._deadline_s: Final = deadline_s
        self._sequences: Final[defaultdict[tuple[str, int], int]] = defaultdict(int)
        self._acknowledged: Final[dict[int, int]] = {}
        self._refused: KafkaFailed | None = None

    def send(
        self,
        volume: Volume,
        kind: CommandKind,
        batch: ClosedBatch = NO_EXTENTS,
        *,
        note: str | None = None,
        for_session: str | None = None,
        on_acknowledged: Callable[[], None] = lambda: None,
    ) -> None:
        """Queues one command. on_acknowledged is called, with the lock held, when all in-sync replicas have it.

        for_session: a session of this host that ended without closing itself. Its sequence is unknown: -1.
        """

        def acknowledged(position: int) -> None:
            self.last_positions[volume.volume] = max(position, self.last_positions.get(volume.volume, 0))
            on_acknowledged()

        command = self._command(volume.volume, volume.generation, volume.partition, kind, batch, note, for_session)
        self._publish(volume.partition, command, acknowledged)

    def speak_for_all(self, partition: int, kind: CommandKind, *, for_session: str | None = None) -> None:
        """Queues a heartbeat, or the session's end, for all its volumes in the partition: before it, everything that the
        session holds for any of them was sent, without letting go of the lock in between.
        """
        self._publish(partition, self._command("", "", partition, kind, NO_EXTENTS, None, for_session), lambda _: None)

    def _command(
        self,
        volume: str,
        generation: str,
        partition: int,
        kind: CommandKind,
        batch: ClosedBatch,
        note: str | None,
        for_session: str | None,
    ) -> TrackingCommand:
        now_us = self._clock.now_us()
        return TrackingCommand(
            volume=volume,
            generation=generation,
            host=self._host,
            session=for_session or self.session,
            sequence=-1 if for_session else self._sequences[volume, partition],
            kind=kind,
            extents=batch.extents,
            first_at_us=now_us if batch.first_at_us is None else batch.first_at_us,
            last_at_us=now_us if batch.last_at_us is None else batch.last_at_us,
            acknowledged_position=self._acknowledged.get(partition),
            note=note,
        )

    def _publish(self, partition: int, command: TrackingCommand, on_acknowledged: Callable[[int], None]) -> None:
        def acknowledged(position: int) -> None:
            with self.lock:
                self._acknowledged[partition] = max(position, self._acknowledged.get(partition, 0))
                on_acknowledged(position)

        self.check()
        try:
            self._publisher.publish(self._topic, partition, command.volume.encode(), encode(command), acknowledged)
        except KafkaFailed as error:
            self._refused = error
            raise
        if command.session == self.session:
            self._sequences[command.volume, partition] += 1
        self.commands += 1
        self.extents += len(command.extents)

    def check(self) -> None:
        """KafkaFailed once the broker has refused a command for good: no more writes may begin that nobody would name."""
        if self._refused is not None:
            raise self._refused

    def poll(self, timeout_s: float) -> None:
        """Takes acknowledgements, waiting up to `timeout_s` for one."""
        try:
            self._publisher.poll(timeout_s)
        except KafkaFailed as error:
            self._refused = error
            raise

    def wait(self) -> None:
        """Returns when every command sent is acknowledged; KafkaFailed when that takes longer than the deadline."""
        self._publisher.flush(self._deadline_s)
