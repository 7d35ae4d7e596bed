"""A session's tracking commands: built, published in order, and followed until acknowledged.

A command's way:

1. An open batch is closed: its extents, and those of the writes in flight, become a command
   (WriteTracker, with `Outbox.lock` held until step 2 is done).
2. `Outbox.offer` encodes the command and queues it. PublishQueue hands it to the Kafka client, or
   writes it to the spool if the client has no room.
3. Kafka acknowledges it (`acks=all`). With `host_confirm = "recorded"` the node must record it, too
   (node_statuses.py).
4. The regions that the command names are released. Only now may they leave the activity log, after
   a flush of the primary (hot_regions.plan_room, invariant 1).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from threading import RLock
from typing import Final

from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher
from mirrorlog.producers.batches.batch import ClosedBatch
from mirrorlog.producers.batches.hot_regions import HotRegion, release
from mirrorlog.producers.durable.activity_format import ActivityEntry
from mirrorlog.producers.durable.spool import Spool, SpoolRecord
from mirrorlog.producers.publishing.acknowledged_positions import AcknowledgedPositions
from mirrorlog.producers.publishing.clock_watch import ClockWatch
from mirrorlog.producers.publishing.confirmations import Confirmations
from mirrorlog.producers.publishing.node_statuses import NodeStatuses
from mirrorlog.producers.publishing.publish_queue import (
    PublishLimits,
    PublishQueue,
    QueueCallbacks,
)
from mirrorlog.producers.publishing.session_commands import (
    NO_EXTENTS,
    CommandSource,
    SessionCommands,
    WrittenCount,
)
from mirrorlog.producers.publishing.write_gate import WriteGate

_RETRY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class OutboxCallbacks:
    """The functions that an Outbox calls with its lock held.

    log_entries: makes entries durable in the activity log; DeviceFailed if it can't.
    on_rejected: called with a volume, and the node's first refusal of one of its commands.
    on_spool_lost: see QueueCallbacks.
    report: called with a line for people, about a clock that is wrong.
    """

    log_entries: Callable[[Iterable[ActivityEntry]], None]
    on_rejected: Callable[[str, BadInput], None]
    on_spool_lost: Callable[[Collection[str]], None]
    report: Callable[[str], None] = lambda _: None


class Outbox:
    """Publishes the commands of one session in the order of the calls.

    A caller that closes a batch holds `lock` from then until send() or offer() returns. Otherwise a
    batch that was closed earlier could be published behind a later one, and would be missing below
    a position that says that it is there (invariant 8). `lock` is reentrant, because a publisher
    may run callbacks while it publishes; they run with the lock held.

    A command is acknowledged when all in-sync replicas have it; with `confirmations`, when the node
    has recorded it.

    deadline_s: how long the calls that wait do so.
    acknowledgement_s: how long the Kafka client had each command until it was acknowledged.
    last_positions: by volume, the position of its last command that Kafka has acknowledged.
    rejected: by volume, the node's first refusal of one of its commands.
    check: raises the reason why no write may begin any more, because no command could name it:
        KafkaFailed if the broker has refused a command for good; BadInput if the node couldn't
        read one.
    positions: what Kafka has acknowledged, and in which histories. Hold `lock` to call it.
    """

    def __init__(
        self,
        source: CommandSource,
        publisher: Publisher,
        spool: Spool,
        clock: Clock,
        limits: PublishLimits,
        callbacks: OutboxCallbacks,
        *,
        deadline_s: float,
        confirmations: Confirmations | None = None,
    ) -> None:
        self._ask_end: Final = source.ask_end
        self.lock: Final = RLock()
        self.session: Final = source.session
        self.deadline_s: Final = deadline_s
        self.last_positions: Final[dict[str, int]] = {}
        self.positions: Final = AcknowledgedPositions()
        self._clock: Final = clock
        self._commands: Final = SessionCommands(source, clock, self.positions)
        self._gate: Final = WriteGate(self.lock, callbacks.on_rejected)
        self.check: Final = self._gate.check
        self.rejected: Final[Mapping[str, BadInput]] = self._gate.rejected
        self._statuses: Final = (
            None
            if confirmations is None
            else NodeStatuses(
                confirmations, self.positions, self._gate, self.lock, clock, away_s=limits.away_s
            )
        )
        self._log_entries: Final = callbacks.log_entries
        self._publisher: Final = publisher
        self._clock_watch: Final = ClockWatch(clock, callbacks.report)
        self._queue: Final = PublishQueue(
            publisher,
            source.topic,
            clock,
            self.lock,
            limits,
            spool,
            QueueCallbacks(
                log_entries=self._log_spool_entries,
                on_publishing=self._on_publishing,
                on_acknowledged=self._on_acknowledged,
                on_spool_lost=callbacks.on_spool_lost,
            ),
            release_saved=confirmations is None,
        )
        self._spool: Final = spool
        self.acknowledgement_s: Final = self._queue.acknowledgement_s

    def send(
        self,
        volume: Volume,
        kind: CommandKind,
        batch: ClosedBatch = NO_EXTENTS,
        *,
        note: str | None = None,
        for_session: str | None = None,
    ) -> None:
        """Queue one command as offer() does, waiting for room. KafkaFailed at the deadline.

        for_session: a session of this host that ended without closing itself. The command is sent
            in its name, with the sequence number -1, because its own is unknown.
        """
        self._retry(lambda: self.offer(volume, kind, batch, note=note, for_session=for_session))

    def offer(
        self,
        volume: Volume,
        kind: CommandKind,
        batch: ClosedBatch = NO_EXTENTS,
        *,
        note: str | None = None,
        for_session: str | None = None,
        regions: Collection[HotRegion] = (),
        on_position: Callable[[int], None] | None = None,
    ) -> bool:
        """Make one command for a volume, encode it, and hand it to PublishQueue.offer().

        Return False, with nothing done, if neither the client nor the spool has room for it.
        `regions` are released, with the lock held, when the command is acknowledged or is durable
        in the spool (see save_to_spool()). on_position: as in PublishQueue.offer().
        KafkaFailed and BadInput as for check().
        """
        self.check()
        partition = volume.partition
        self._watch_statuses(partition)
        self._see_end(partition)
        command = self._commands.make(
            kind,
            partition,
            volume=volume.volume,
            generation=volume.generation,
            batch=batch,
            note=note,
            for_session=for_session,
        )
        try:
            is_queued = self._queue.offer(
                partition=partition,
                volume=volume.volume,
                value=encode(command),
                regions=regions,
                on_position=on_position,
            )
        except KafkaFailed as error:
            self._gate.refuse(error)
            raise
        return is_queued and self._count(partition, command, volume.size_bytes)

    def offer_heartbeat(self, partition: int, *, acknowledged_position: int | None) -> bool:
        """Queue a heartbeat for all volumes of the session in the partition; False without room.

        Before, the caller has sent everything that the session holds for any of these volumes,
        without releasing the lock in between.

        acknowledged_position: the value of positions.last() from before the caller began
            to do so.
        """
        command = replace(
            self._commands.make(
                CommandKind.HEARTBEAT, partition, generation=self.positions.named_history(partition)
            ),
            acknowledged_position=acknowledged_position,
        )
        return self._offer_for_all(partition, command)

    def send_close_for_all(self, partition: int, *, for_session: str | None = None) -> None:
        """Queue the end of the session for all its volumes in the partition.

        The close of each single volume must have been sent before. `for_session` and the errors
        are those of send().
        """
        command = self._commands.make(CommandKind.SESSION_CLOSE, partition, for_session=for_session)
        self._retry(lambda: self._offer_for_all(partition, command))

    def resend(self, record: SpoolRecord) -> None:
        """Queue a command as an earlier session encoded it. Wait until the client has room for it.

        It never goes to the spool. The caller holds the lock. KafkaFailed at the deadline.
        """
        self._watch_statuses(record.partition)
        self._retry(lambda: self._offer_record(record))
        self._commands.count_resent()

    def now_us(self) -> int:
        """Return the time by the clock that dates the commands, in microseconds since 1970."""
        return self._clock.now_us()

    @property
    def commands(self) -> int:
        """The number of commands that were queued."""
        return self._commands.commands

    @property
    def extents(self) -> int:
        """The number of extents in these commands."""
        return self._commands.extents

    @property
    def written(self) -> Mapping[str, WrittenCount]:
        """By volume, what its WRITES commands name."""
        return self._commands.written

    @property
    def last_number(self) -> int:
        """The number of the command that was queued last. Commands are counted from 1."""
        return self._queue.last

    def is_acknowledged(self, number: int) -> bool:
        """Return whether Kafka has acknowledged all commands through `number`.

        Commands that were lost with the spool count as acknowledged (see QueueCallbacks).
        """
        return self._queue.is_acknowledged(number)

    def accept_history(self, partitions: Iterable[int]) -> None:
        """Forget that the history of these partitions broke. The caller holds the lock.

        Commands of the old history that wait for the node's status wait no longer.
        """
        for partition in partitions:
            self.positions.accept(partition)
            if self._statuses is not None:
                self._statuses.forget(partition)

    def enter_history(self, partition: int, history_id: str) -> None:
        """Let the session enter a history that was renewed (AcknowledgedPositions.enter_history).

        The volumes of the partition have new generations: their sites copy what the commands before
        named, so no command waits for its status any longer. The caller holds the lock.
        """
        if self.positions.enter_history(partition, history_id) and self._statuses is not None:
            self._statuses.forget(partition)

    def reached_entries(
        self, partitions: Iterable[int], *, with_time: bool = False
    ) -> Iterator[ActivityEntry]:
        """Yield AcknowledgedPositions.entries() as of now. The caller holds the lock."""
        return self.positions.entries(partitions, self.now_us(), with_time=with_time)

    def _log_spool_entries(self, entries: Iterable[ActivityEntry]) -> None:
        """Make entries of the spool durable in the activity log; DeviceFailed if it can't.

        A record that leaves the spool takes the only note of its writes with it, as a region does
        that leaves the activity log. So the log notes before that how far all is acknowledged.
        """
        reached = self.reached_entries(self.positions.partitions())
        self._log_entries([*reached, *entries])

    @property
    def accepts_writes(self) -> bool:
        """Return whether a write may begin. If not, it waits, or check() raises the reason."""
        return self._gate.accepts_writes

    def watch_accepts_writes(self, callback: Callable[[], None]) -> None:
        """Call `callback`, with the lock held, each time that `accepts_writes` changes."""
        self._gate.watch(callback)

    def hold_writes(self) -> None:
        """Let no write begin until a command finds room. The caller holds the lock."""
        self._gate.set_accepts_writes(False)

    def reject(self, volume: str, error: BadInput) -> None:
        """Call WriteGate.reject(). The caller holds the lock."""
        self._gate.reject(volume, error)

    @property
    def can_publish_now(self) -> bool:
        """Return whether a command would go straight to Kafka."""
        return self._queue.can_publish_now and not self._is_full

    @property
    def holds_nothing_back(self) -> bool:
        """Return whether Kafka takes commands, and the spool stands for none of them.

        Then a region that isn't `unacknowledged` has acknowledged writes only.
        """
        return self.can_publish_now and self._queue.is_spool_empty

    @property
    def is_node_silent(self) -> bool:
        """Return whether Kafka takes commands, and only the node's statuses don't come."""
        return self.is_away and self._queue.can_publish_now and not self._is_full

    @property
    def is_away(self) -> bool:
        """Return whether Kafka has been silent for long although commands wait for it.

        With confirmations the same holds for the node.
        """
        return self._queue.is_away or (self._statuses is not None and self._statuses.is_away)

    @property
    def away_s(self) -> float:
        """For how long Kafka, or the node, has been silent; 0 unless it `is_away`."""
        if not self.is_away:
            return 0.0
        if self._queue.is_away or self._statuses is None:
            return self._queue.silent_s
        return self._statuses.silent_s

    @property
    def queued_bytes(self) -> int:
        """The bytes of commands that the client holds, and that aren't acknowledged."""
        return self._queue.in_flight_bytes

    @property
    def spool_bytes(self) -> int:
        """The disk space that the spool takes."""
        return self._spool.used_bytes

    def poll(self, timeout_s: float) -> None:
        """Handle acknowledgements, waiting up to `timeout_s` for one."""
        with self._gate.keeping_refusals():
            self._queue.poll(timeout_s)
        if self._statuses is not None:
            self._statuses.read(0)

    def save_to_spool(self) -> bool:
        """Call PublishQueue.save(), for when Kafka is away. Return whether it released a region."""
        with self._gate.keeping_refusals():
            return self._queue.save()

    def wait(self, *, until_break: bool = False) -> None:
        """Wait until every command sent before the call is acknowledged, or rejected.

        until_break: don't wait for the node's statuses in a partition whose history broke: those
            of commands that are gone never come. KafkaFailed at the deadline.
        """
        self.wait_published()
        if self._statuses is not None:
            self._statuses.wait(self.deadline_s, until_break=until_break)

    @property
    def first_in_flight(self) -> int | None:
        """The number of the first command that Kafka has and hasn't acknowledged; None for none."""
        return self._queue.first_in_flight

    def wait_unless_away(self, number: int | None = None) -> bool:
        """Wait as wait() does, but return False as soon as `is_away`.

        number: wait until Kafka has acknowledged the commands through this one, and no longer.
        """
        with self._gate.keeping_refusals():
            is_acknowledged = self._queue.wait(
                self._queue.last if number is None else number,
                self.deadline_s,
                give_up_when_away=True,
            )
        if not is_acknowledged or self._statuses is None or number is not None:
            return is_acknowledged
        return self._statuses.wait_unless(lambda: self.is_away)

    def wait_published(self) -> None:
        """Wait until all in-sync replicas have every command sent. KafkaFailed at the deadline."""
        with self._gate.keeping_refusals():
            is_acknowledged = self._queue.wait(self._queue.last, self.deadline_s)
        if not is_acknowledged:
            raise KafkaFailed(
                f"commands weren't acknowledged within {self.deadline_s:g} s",
                next="Check that the broker runs. What they name stays in the activity log.",
            )

    def close(self) -> None:
        """Close the spool's files."""
        self._queue.close()

    def _offer_for_all(self, partition: int, command: TrackingCommand) -> bool:
        value = encode(command)
        with self._gate.keeping_refusals():
            is_queued = self._queue.offer(partition=partition, volume="", value=value, regions=())
        if is_queued:
            self._clock_watch.note_queued(value, command.last_at_us)
        return is_queued and self._count(partition, command)

    def _offer_record(self, record: SpoolRecord) -> bool:
        if not self.can_publish_now:
            return False
        with self._gate.keeping_refusals():
            return self._queue.offer(
                partition=record.partition,
                volume=record.volume,
                value=record.value,
                regions=(),
            )

    def _count(self, partition: int, command: TrackingCommand, volume_bytes: int = 0) -> bool:
        """Count a command that was queued; return True. volume_bytes: the size of its volume."""
        self._gate.set_accepts_writes(not self._is_full)
        self._commands.count(partition, command, volume_bytes)
        return True

    def _retry(self, offer: Callable[[], bool]) -> None:
        """Call `offer` until it returns True. KafkaFailed at the deadline."""
        until_s = self._clock.monotonic_s() + self.deadline_s
        while not offer():
            if self._clock.monotonic_s() > until_s:
                raise KafkaFailed(
                    "Kafka is away, and there is no room for one more command",
                    next="Check that the broker runs. host_queue_bytes and host_spool_bytes limit "
                    "how much may wait for it.",
                )
            self.poll(_RETRY_S)

    def _on_publishing(self, record: SpoolRecord) -> None:
        if self._statuses is not None and record.volume:
            self._statuses.on_publishing(record.partition)

    def _on_acknowledged(
        self, record: SpoolRecord, position: int, regions: Collection[HotRegion]
    ) -> None:
        partition, volume = record.partition, record.volume
        self.positions.note(partition, position)
        if not volume:
            self._clock_watch.note_acknowledged(record.value, self._publisher.last_append)
            return
        self.last_positions[volume] = position
        if self._statuses is None:
            release(regions)
        else:
            self._statuses.on_published(partition=partition, position=position, regions=regions)

    @property
    def _is_full(self) -> bool:
        """Return whether too many commands wait for the node, so that writes must wait, too."""
        return self._statuses is not None and self._statuses.is_full

    def _see_end(self, partition: int) -> None:
        if self._ask_end is not None and not self.positions.knows_some(partition):
            self.positions.see_end(partition, self._ask_end(partition))

    def _watch_statuses(self, partition: int) -> None:
        if self._statuses is not None:
            self._statuses.watch(partition)
