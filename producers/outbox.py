"""A session's tracking commands on their way to Kafka."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from threading import Lock, RLock
from typing import Final

from mirrorlog.codec import encode
from mirrorlog.commands import CommandKind, CommandStatus, TrackingCommand
from mirrorlog.errors import BadInput, KafkaFailed, OutOfRetention
from mirrorlog.extents import ExtentColumns
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher
from mirrorlog.producers.batch import ClosedBatch
from mirrorlog.producers.confirmation import Confirmations, by_volume
from mirrorlog.producers.hot_regions import HotRegion, release
from mirrorlog.volumes import Volume

NO_EXTENTS: Final = ClosedBatch(ExtentColumns.of(()))


class Outbox:
    """Publishes in the order of the calls.

    Whoever closes a batch holds `lock` from then until send() has returned: a batch that was closed earlier and published
    later than another would be missing below a position that says it is there (invariant 8).

    `lock` is reentrant, for a publisher may run callbacks while it publishes; they run with the lock held.

    A command is acknowledged when all in-sync replicas have it; with `confirmations`, when the node has recorded it.
    rejected: by volume, the node's first refusal of one of its commands.
    """

    def __init__(
        self,
        publisher: Publisher,
        topic: str,
        host: str,
        session: str,
        clock: Clock,
        deadline_s: float,
        confirmations: Confirmations | None = None,
        on_rejected: Callable[[str, BadInput], None] = lambda *_: None,
    ) -> None:
        self.lock: Final = RLock()
        self.session: Final = session
        self.commands = 0
        self.extents = 0
        self.last_positions: Final[dict[str, int]] = {}
        self.rejected: Final[dict[str, BadInput]] = {}
        self._publisher: Final = publisher
        self._topic: Final = topic
        self._host: Final = host
        self._clock: Final = clock
        self._deadline_s: Final = deadline_s
        self._sequences: Final[defaultdict[tuple[str, int], int]] = defaultdict(int)
        self._acknowledged: Final[dict[int, int]] = {}
        self._refused: KafkaFailed | BadInput | None = None
        self._confirmations: Final = confirmations
        self._on_rejected: Final = on_rejected
        self._reading: Final = Lock()

    def send(
        self,
        volume: Volume,
        kind: CommandKind,
        batch: ClosedBatch = NO_EXTENTS,
        *,
        note: str | None = None,
        for_session: str | None = None,
        regions: Collection[HotRegion] = (),
    ) -> None:
        """Queues one command. `regions` are released, with the lock held, when it is acknowledged.

        for_session: a session of this host that ended without closing itself. Its sequence is unknown: -1.
        """

        def acknowledged(position: int) -> None:
            self.last_positions[volume.volume] = max(position, self.last_positions.get(volume.volume, 0))
            if self._confirmations is None:
                release(regions)
            else:
                self._hear(self._confirmations.published(volume.partition, position, regions))

        self.check()
        if self._confirmations is not None:
            if not self._confirmations.watches(volume.partition):
                with self._reading:
                    self._confirmations.watch(volume.partition)
            self._confirmations.publishing(volume.partition)
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

    @property
    def is_full(self) -> bool:
        """Whether so many commands wait for the node that writes should, too."""
        return self._confirmations is not None and self._confirmations.is_full

    def check(self) -> None:
        """KafkaFailed once the broker has refused a command for good, BadInput once the node couldn't read one: no more
        writes may begin that nobody would name."""
        if self._refused is not None:
            raise self._refused

    def poll(self, timeout_s: float) -> None:
        """Takes acknowledgements, waiting up to `timeout_s` for one."""
        try:
            self._publisher.poll(timeout_s)
        except KafkaFailed as error:
            self._refused = error
            raise
        self._take_statuses(0)

    def wait(self) -> None:
        """Returns when every command sent before the call is acknowledged, or rejected; KafkaFailed when that takes longer
        than the deadline."""
        self.wait_published()
        if self._confirmations is None:
            return
        with self.lock:
            through = self._confirmations.positions()
        until_s = self._clock.monotonic_s() + self._deadline_s
        while left := self._left(through):
            if self._clock.monotonic_s() > until_s:
                raise KafkaFailed(
                    f"{left} commands are published, but the node hasn't recorded them within {self._deadline_s:g} s",
                    where=", ".join(f"partition {number}, up to {last}" for number, last in through.items()),
                    next="Is a node running? What they name stays in the activity log, and is published again as dirty "
                    "when the host starts again.",
                )
            self._take_statuses(0.05)
            self.check()

    def wait_published(self) -> None:
        """Returns when all in-sync replicas have every command sent; KafkaFailed when that takes longer than the deadline."""
        self._publisher.flush(self._deadline_s)

    def _left(self, through: dict[int, int]) -> int:
        with self.lock:
            return 0 if self._confirmations is None else self._confirmations.waiting(through)

    def _take_statuses(self, timeout_s: float) -> None:
        if self._confirmations is None:
            return
        try:
            with self._reading:
                messages = self._confirmations.read(timeout_s)
        except OutOfRetention as error:
            self._refused = KafkaFailed(
                "statuses are gone, so it can't be told which commands the node has recorded",
                where=error.where,
                next="Start the host again: what isn't confirmed is published again as dirty.",
            )
            raise self._refused from error
        with self.lock:
            self._hear(self._confirmations.take(messages))

    def _hear(self, refused: list[CommandStatus]) -> None:
        for volume, error in by_volume(refused).items():
            if volume is None:
                self._refused = self._refused or error
            elif volume not in self.rejected:
                self.rejected[volume] = error
                self._on_rejected(volume, error)
