"""A session's tracking commands: made, put in order, and what becomes of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from threading import Lock, RLock
from typing import Final

from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import CommandKind, CommandStatus, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, KafkaFailed, OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher
from mirrorlog.producers.batches.batch import ClosedBatch
from mirrorlog.producers.batches.hot_regions import HotRegion, release
from mirrorlog.producers.durable.activity_format import ActivityEntry
from mirrorlog.producers.durable.spool import Spool, SpoolRecord
from mirrorlog.producers.publishing.confirmations import Confirmations, by_volume
from mirrorlog.producers.publishing.publish_queue import PublishLimits, PublishQueue

NO_EXTENTS: Final = ClosedBatch(ExtentColumns.of(()))
_STATUS_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class CommandSource:
    """Whose commands they are, and where they go."""

    topic: str
    host: str
    session: str


@dataclass(frozen=True, slots=True)
class OutboxCallbacks:
    """What the outbox calls, with the lock held: to have entries in the activity log, durably; with a volume of which the
    node refused a command; with volumes of which nobody knows any more what waiting commands name."""

    note: Callable[[Iterable[ActivityEntry]], None]
    on_rejected: Callable[[str, BadInput], None]
    on_lost: Callable[[Collection[str]], None]


class Outbox:
    """Publishes in the order of the calls.

    Whoever closes a batch holds `lock` from then until send() has returned: a batch that was closed earlier and published
    later than another would be missing below a position that says it is there (invariant 8).

    `lock` is reentrant, for a publisher may run callbacks while it publishes; they run with the lock held.

    A command is acknowledged when all in-sync replicas have it; with `confirmations`, when the node has recorded it.
    rejected: by volume, the node's first refusal of one of its commands. is_open: False while a write should wait (is_full, or
    its caller says so), or may not begin at all: see check(). on_open: called, with the lock held, when that changes.
    """

    def __init__(
        self,
        sender: CommandSource,
        publisher: Publisher,
        spool: Spool,
        clock: Clock,
        limits: PublishLimits,
        deadline_s: float,
        reactions: OutboxCallbacks,
        confirmations: Confirmations | None = None,
    ) -> None:
        self.lock: Final = RLock()
        self.session: Final = sender.session
        self.commands = 0
        self.extents = 0
        self.last_positions: Final[dict[str, int]] = {}
        self.rejected: Final[dict[str, BadInput]] = {}
        self.on_open: Callable[[], None] = lambda: None
        self._is_open = True
        self._host: Final = sender.host
        self._clock: Final = clock
        self._limits: Final = limits
        self.deadline_s: Final = deadline_s
        self._sequences: Final[defaultdict[tuple[str, int], int]] = defaultdict(int)
        self._acknowledged: Final[dict[int, int]] = {}
        self._refused: KafkaFailed | BadInput | None = None
        self._confirmations: Final = confirmations
        self._confirmed_s = clock.monotonic_s()
        self._on_rejected: Final = reactions.on_rejected
        self._reading: Final = Lock()
        self._backlog: Final = PublishQueue(
            *(
                publisher,
                sender.topic,
                clock,
                self.lock,
                limits,
                spool,
                reactions.note,
                self._on_giving,
            ),
            *(self._on_acknowledged, reactions.on_lost),
            release_saved=confirmations is None,
        )

    def send(
        self,
        volume: Volume,
        kind: CommandKind,
        batch: ClosedBatch = NO_EXTENTS,
        *,
        note: str | None = None,
        for_session: str | None = None,
    ) -> None:
        """offer(), again until there is room; KafkaFailed at the deadline.

        for_session: a session of this host that ended without closing itself. Its sequence is unknown: -1.
        """
        self._until_taken(
            lambda: self.offer(volume, kind, batch, note=note, for_session=for_session)
        )

    def offer(
        self,
        volume: Volume,
        kind: CommandKind,
        batch: ClosedBatch = NO_EXTENTS,
        *,
        note: str | None = None,
        for_session: str | None = None,
        regions: Collection[HotRegion] = (),
    ) -> bool:
        """Takes one command; False where there is room for it neither in memory nor in the spool, and nothing was done.
        `regions` are released, with the lock held, when it is acknowledged, or durable in the spool: see save().
        """
        self.check()
        if self._confirmations is not None and not self._confirmations.watches(volume.partition):
            with self._reading:
                self._confirmations.watch(volume.partition)
        command = self._command(
            volume.volume, volume.generation, volume.partition, kind, batch, note, for_session
        )
        return self._take(volume.partition, command, regions)

    @property
    def last_number(self) -> int:
        """Of the command taken last: they are counted from 1."""
        return self._backlog.last

    def is_acknowledged(self, number: int) -> bool:
        """Whether all commands through that number are, or lost with the spool (OutboxCallbacks.on_lost)."""
        return self._backlog.is_acknowledged(number)

    def acknowledged_position(self, partition: int) -> int | None:
        """Of the session's last command there that is acknowledged."""
        return self._acknowledged.get(partition)

    def beat(self, partition: int, acknowledged: int | None) -> bool:
        """Queues a heartbeat for all the session's volumes in the partition; whether there was room. Before it, everything
        that the session holds for any of them was sent, without letting go of the lock in between.

        acknowledged: what was so when the session began to gather that.
        """
        command = self._command("", "", partition, CommandKind.HEARTBEAT, NO_EXTENTS, None, None)
        return self._take(partition, replace(command, acknowledged_position=acknowledged), ())

    def end_for_all(self, partition: int, *, for_session: str | None = None) -> None:
        """Queues the session's end for all its volumes in the partition, after that of each. KafkaFailed as for send()."""
        command = self._command(
            "", "", partition, CommandKind.SESSION_CLOSE, NO_EXTENTS, None, for_session
        )
        self._until_taken(lambda: self._take(partition, command, ()))

    def resend(self, record: SpoolRecord) -> None:
        """Queues a command as an earlier session made it, once the client has room: never in the spool. With the lock held;
        KafkaFailed at the deadline."""
        if self._confirmations is not None and not self._confirmations.watches(record.partition):
            with self._reading:
                self._confirmations.watch(record.partition)
        content = (record.partition, record.volume, record.value, ())
        self._until_taken(lambda: self.is_clear and self._guarded(self._backlog.offer, *content))
        self.commands += 1

    def _until_taken(self, offer: Callable[[], bool]) -> None:
        until_s = self._clock.monotonic_s() + self.deadline_s
        while not offer():
            if self._clock.monotonic_s() > until_s:
                raise KafkaFailed(
                    "Kafka is away, and there is no room for one more command",
                    next="Check that the broker runs; host_queue_bytes and host_spool_bytes are how much may wait for it.",
                )
            self.poll(_STATUS_S)

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
            last_at_us=now_us,
            acknowledged_position=self._acknowledged.get(partition),
            note=note,
            forks=batch.forks,
        )

    def _take(
        self, partition: int, command: TrackingCommand, regions: Collection[HotRegion]
    ) -> bool:
        if not self._guarded(
            self._backlog.offer, partition, command.volume, encode(command), regions
        ):
            return False
        self.is_open = not self.is_full
        if command.session == self.session:
            self._sequences[command.volume, partition] += 1
        self.commands += 1
        self.extents += len(command.extents)
        return True

    @property
    def is_open(self) -> bool:
        """Whether a write may begin."""
        return self._is_open

    @is_open.setter
    def is_open(self, is_open: bool) -> None:
        if is_open != self._is_open:
            self._is_open = is_open
            self.on_open()

    @property
    def is_full(self) -> bool:
        """Whether so many commands wait for the node that writes should, too."""
        return self._confirmations is not None and self._confirmations.is_full

    @property
    def is_clear(self) -> bool:
        """Whether a command would go straight to Kafka."""
        return self._backlog.is_clear and not self.is_full

    @property
    def is_away(self) -> bool:
        """Whether Kafka, or the node where that must confirm, has been silent for long though commands wait for it."""
        if (
            self._backlog.is_away
            or self._confirmations is None
            or not self._confirmations.is_waiting
        ):
            return self._backlog.is_away
        return self._clock.monotonic_s() - self._confirmed_s >= self._limits.away_s

    def check(self) -> None:
        """KafkaFailed once the broker has refused a command for good, BadInput once the node couldn't read one: no more
        writes may begin that nobody would name."""
        if self._refused is not None:
            raise self._refused

    def poll(self, timeout_s: float) -> None:
        """Takes acknowledgements, waiting up to `timeout_s` for one."""
        self._guarded(self._backlog.poll, timeout_s)
        self._take_statuses(0)

    def save(self) -> bool:
        """Kafka is away: see PublishQueue.save(). Whether any region needn't wait any more."""
        return self._guarded(self._backlog.save)

    def wait(self) -> None:
        """Returns when every command sent before the call is acknowledged, or rejected; KafkaFailed when that takes longer
        than the deadline."""
        self.wait_published()
        if self._confirmations is None:
            return
        with self.lock:
            through = self._confirmations.positions()
        until_s = self._clock.monotonic_s() + self.deadline_s
        while left := self._left(through):
            if self._clock.monotonic_s() > until_s:
                raise KafkaFailed(
                    f"{left} commands are published, but the node hasn't recorded them within {self.deadline_s:g} s",
                    where=", ".join(
                        f"partition {number}, up to {last}" for number, last in through.items()
                    ),
                    next="Is a node running? What they name stays in the activity log, and is published again as dirty "
                    "when the host starts again.",
                )
            self._take_statuses(_STATUS_S)
            self.check()

    def wait_unless_away(self) -> bool:
        """wait(), given up as soon as is_away; whether everything is acknowledged."""
        last = self._backlog.last
        if not self._guarded(self._backlog.wait, last, self.deadline_s, or_away=True):
            return False
        with self.lock:
            through = {} if self._confirmations is None else self._confirmations.positions()
        while self._left(through):
            if self.is_away:
                return False
            self._take_statuses(_STATUS_S)
            self.check()
        return True

    def wait_published(self) -> None:
        """Returns when all in-sync replicas have every command sent; KafkaFailed when that takes longer than the deadline."""
        if not self._guarded(self._backlog.wait, self._backlog.last, self.deadline_s):
            raise KafkaFailed(
                f"commands weren't acknowledged within {self.deadline_s:g} s",
                next="Check that the broker runs. What they name stays in the activity log.",
            )

    def close(self) -> None:
        """Lets go of the spool's files."""
        self._backlog.close()

    def _guarded(
        self, call: Callable[..., bool | None], *arguments: object, **more: object
    ) -> bool:
        """What the call answers. A refusal is for good."""
        self.check()
        try:
            return bool(call(*arguments, **more))
        except KafkaFailed as error:
            self._refuse(error)
            raise

    def _refuse(self, error: KafkaFailed | BadInput) -> None:
        with self.lock:
            self._refused = self._refused or error
            self.is_open = False

    def _on_giving(self, record: SpoolRecord) -> None:
        if self._confirmations is not None and record.volume:
            self._confirmations.publishing(record.partition)

    def _on_acknowledged(
        self, record: SpoolRecord, position: int, regions: Collection[HotRegion]
    ) -> None:
        partition, volume = record.partition, record.volume
        self._acknowledged[partition] = max(position, self._acknowledged.get(partition, 0))
        if not volume:
            return
        self.last_positions[volume] = max(position, self.last_positions.get(volume, 0))
        if self._confirmations is None:
            release(regions)
        else:
            if not self._confirmations.is_waiting:
                self._confirmed_s = self._clock.monotonic_s()
            self._hear(self._confirmations.published(partition, position, regions))

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
            refusal = KafkaFailed(
                "statuses are gone, so it can't be told which commands the node has recorded",
                where=error.where,
                next="Start the host again: what isn't confirmed is published again as dirty.",
            )
            self._refuse(refusal)
            raise refusal from error
        if messages:
            with self.lock:
                self._confirmed_s = self._clock.monotonic_s()
                self._hear(self._confirmations.take(messages))

    def _hear(self, refused: list[CommandStatus]) -> None:
        for volume, error in by_volume(refused).items():
            if volume is None:
                self._refuse(error)
            elif volume not in self.rejected:
                self.rejected[volume] = error
                self._on_rejected(volume, error)
        self.is_open = self._refused is None and not self.is_full
