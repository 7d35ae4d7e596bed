"""The queue between a session and Kafka: the client holds its head, the spool the rest."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import Final

from mirrorlog.errors import DeviceFailed, MirrorlogError
from mirrorlog.metric_samples import DurationHistogram
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Acknowledged, Publisher
from mirrorlog.producers.batches.hot_regions import HotRegion, release
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp
from mirrorlog.producers.durable.spool import Spool, SpoolRecord

MAX_IN_FLIGHT: Final = 50_000
"""The number of commands with the client: half of what librdkafka's queue holds by default."""
FEED_COMMANDS: Final = 64
"""The number of commands that go from the spool to the client before the lock is released."""
POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class PublishLimits:
    """The limits of a PublishQueue.

    queue_bytes: the bytes of commands that may be with the client.
    away_s: Kafka is away if it has acknowledged nothing for so long although commands wait.
    """

    queue_bytes: int
    away_s: float


@dataclass(frozen=True, slots=True)
class QueueCallbacks:
    """The functions that a PublishQueue calls with the lock held.

    log_entries: makes entries durable in the activity log; DeviceFailed if it can't.
    on_publishing: called before a command is handed to the client.
    on_acknowledged: called with an acknowledged command, its position, and the regions that
        wait for it no longer.
    on_spool_lost: called with the volumes whose spooled commands can't be read any more. It must
        make the activity log say that these volumes are dirty as a whole; DeviceFailed if it can't.
    """

    log_entries: Callable[[Iterable[ActivityEntry]], None]
    on_publishing: Callable[[SpoolRecord], None]
    on_acknowledged: Callable[[SpoolRecord, int, Collection[HotRegion]], None]
    on_spool_lost: Callable[[Collection[str]], None]


@dataclass(slots=True, eq=False)
class _InFlight:
    """A command that is with the client.

    regions: the hot regions that wait for its acknowledgement.
    spool_number: its number in the spool; 0 if it isn't there.
    since_s: when the client got it, by the monotonic clock.
    is_acknowledged: by Kafka.
    position: where it is, or a bound (PublishQueue._bound_positions); None while it isn't known.
    on_position: called with the position, with the lock held, after on_acknowledged.
    """

    record: SpoolRecord
    regions: Collection[HotRegion]
    spool_number: int
    since_s: float
    is_acknowledged: bool = False
    position: int | None = None
    on_position: Callable[[int], None] | None = None


@dataclass(slots=True)
class _SpooledRegions:
    """The regions of the spooled commands of one partition.

    They are released when the last of these commands, `last` in the spool, is acknowledged.
    """

    last: int = 0
    regions: set[HotRegion] = field(default_factory=set)

    def add(self, spool_number: int, regions: Iterable[HotRegion]) -> None:
        self.last = spool_number
        for region in regions:
            if region in self.regions:
                release((region,))  # it is counted once for the whole set
            else:
                self.regions.add(region)


class PublishQueue:
    """The commands of a session in order, numbered from 1.

    While Kafka acknowledges commands, they stay in memory:

    1. A command goes to the client while the client holds less than `PublishLimits.queue_bytes`.
       Nothing is written to the disk.
    2. Otherwise the command goes to the spool, after those that the client holds. From then on
       every command goes to the spool, until all that wait there are with the client again. This
       keeps the order.
    3. If the spool has no room, offer() returns False.

    Safety doesn't depend on the spool: the regions that a command names stay hot until Kafka has
    acknowledged it (invariant 1). save() makes the spool durable, and so lets them go earlier.

    The caller holds the lock for every call but poll() and wait().
    """

    def __init__(
        self,
        publisher: Publisher,
        topic: str,
        clock: Clock,
        lock: RLock,
        limits: PublishLimits,
        spool: Spool,
        callbacks: QueueCallbacks,
        *,
        release_saved: bool,
    ) -> None:
        """Create a queue without commands.

        release_saved: whether save() may release regions whose commands the spool holds.
        """
        self._publisher: Final = publisher
        self._topic: Final = topic
        self._clock: Final = clock
        self._lock: Final = lock
        self._limits: Final = limits
        self._spool: Final = spool
        self._callbacks: Final = callbacks
        self._release_saved: Final = release_saved
        self._in_flight: Final[dict[int, _InFlight]] = {}
        self._order: Final[defaultdict[int, deque[int]]] = defaultdict(deque)
        self._in_flight_bytes = 0
        self._spooled_regions: Final[dict[int, _SpooledRegions]] = {}
        self._spooled_volumes: Final[set[str]] = set()
        self._logged_records: tuple[int, int] = (1, 0)
        self._progress_s = clock.monotonic_s()
        self.acknowledgement_s: Final = DurationHistogram()
        """How long the client had each command until it was acknowledged."""
        self.last = 0
        """The number of the last command."""

    @property
    def waiting(self) -> int:
        """The number of commands that the client hasn't got yet."""
        return 0 if self._spool.is_empty else self._spool.last - self._spool.last_read

    @property
    def is_spool_empty(self) -> bool:
        """Return whether the spool has no file: no command in it waits for an acknowledgement."""
        return self._spool.is_empty

    @property
    def can_publish_now(self) -> bool:
        """Return whether the next command would go straight to the client, and Kafka answers."""
        return not self.waiting and self._has_room(1) and not self.is_away

    @property
    def in_flight_bytes(self) -> int:
        """The bytes of commands that the client holds, and that aren't acknowledged."""
        return self._in_flight_bytes

    @property
    def first_in_flight(self) -> int | None:
        """The number of the first command that the client holds; None if it holds none."""
        return next(iter(self._in_flight), None)

    @property
    def silent_s(self) -> float:
        """For how long Kafka has acknowledged nothing although commands wait; 0 for none."""
        return self._clock.monotonic_s() - self._progress_s if self._in_flight else 0.0

    @property
    def is_away(self) -> bool:
        """Return whether Kafka has acknowledged nothing for `away_s`, although commands wait."""
        return (
            bool(self._in_flight)
            and self._clock.monotonic_s() - self._progress_s >= self._limits.away_s
        )

    def offer(
        self,
        *,
        partition: int,
        volume: str,
        value: bytes,
        regions: Collection[HotRegion],
        on_position: Callable[[int], None] | None = None,
    ) -> bool:
        """Queue one encoded command; return False, with nothing done, if there is no room.

        If the client has room, the command goes to Publisher.publish() (KafkaPublisher) at once.
        Otherwise it goes to the spool, and feed() publishes it later.
        `regions` are released when the command is acknowledged, or saved (see save()).
        on_position: called with the command's position, with the lock held, when it is
            acknowledged; never if it goes to the spool.
        """
        record = SpoolRecord(partition, volume, value)
        if not self.waiting and self._has_room(len(value)):
            self.last += 1
            on_acknowledged = self._register(
                self.last, record, regions, spool_number=0, on_position=on_position
            )
            self._publisher.publish(self._topic, partition, volume.encode(), value, on_acknowledged)
            return True
        if not self._spill() or not self._spool.append(record):
            return False
        self.last += 1
        if volume:  # a command for all volumes of a session names no region
            self._spooled_volumes.add(volume)
            self._spooled_regions.setdefault(partition, _SpooledRegions()).add(
                self._spool.last, regions
            )
        return True

    def feed(self) -> None:
        """Hand spooled commands to the client while it has room; remove files not needed."""
        for _ in range(FEED_COMMANDS):
            if not self.waiting or not self._has_room(1):
                break
            number = self.last - self.waiting + 1  # while some wait, all new ones are spooled
            try:
                record = self._spool.read_next()
            except MirrorlogError:
                self._forget_spooled()
                break
            on_acknowledged = self._register(number, record, (), spool_number=self._spool.last_read)
            self._publisher.publish(
                self._topic,
                record.partition,
                record.volume.encode(),
                record.value,
                on_acknowledged,
            )
        self._remove_acknowledged_files()

    def save(self) -> bool:
        """Make every unacknowledged command durable in the spool, and release its regions.

        Return whether any region was released.

        1. The commands that only the client holds go to the spool.
        2. The spool becomes durable.
        3. The activity log durably says which records the spool must hold, and of which volumes.
        4. The regions are released.
        """
        if (
            not self._release_saved
            or not self._spill()  # 1
            or self._spool.is_empty
            or not self._spool.sync()  # 2
        ):
            return False
        self._logged_records = (self._first_unacknowledged(), self._spool.last)
        self._callbacks.log_entries(
            [
                ActivityEntry(ActivityOp.SPOOL, records=self._logged_records),
                *(
                    ActivityEntry(ActivityOp.SPOOLED, volume)
                    for volume in sorted(self._spooled_volumes)
                ),
            ]
        )  # 3
        released = 0
        for command in self._in_flight.values():
            released += len(command.regions)
            release(command.regions)
            command.regions = ()
        for spooled in self._spooled_regions.values():
            released += len(spooled.regions)
            release(spooled.regions)
        self._spooled_regions.clear()
        return released > 0  # 4

    def poll(self, timeout_s: float) -> None:
        """Handle acknowledgements, waiting up to `timeout_s` for one; then feed().

        Raise KafkaFailed if the broker refuses a command.
        """
        self._publisher.poll(timeout_s)
        if not self._spool.is_empty:
            with self._lock:
                self.feed()

    def wait(self, number: int, timeout_s: float, *, give_up_when_away: bool = False) -> bool:
        """Wait until all commands through `number` are acknowledged; return False at the timeout.

        give_up_when_away: return False as soon as Kafka is away, too.
        Raise KafkaFailed if the broker refuses a command.
        """
        until_s = self._clock.monotonic_s() + timeout_s
        while True:
            with self._lock:
                self.feed()
                if self.is_acknowledged(number):
                    return True
                left_s = until_s - self._clock.monotonic_s()
                if left_s <= 0 or (give_up_when_away and self.is_away):
                    return False
            self._publisher.poll(min(left_s, POLL_S))

    def close(self) -> None:
        """Close the spool's files."""
        self._spool.close()

    def is_acknowledged(self, number: int) -> bool:
        """Return whether all commands through `number` are acknowledged, or lost with the spool."""
        return (
            self.last - self.waiting >= number and next(iter(self._in_flight), number + 1) > number
        )

    def _has_room(self, size: int) -> bool:
        """Return whether the client may get `size` more bytes; always if it holds nothing."""
        return not self._in_flight or (
            self._in_flight_bytes + size <= self._limits.queue_bytes
            and len(self._in_flight) < MAX_IN_FLIGHT
        )

    def _register(
        self,
        number: int,
        record: SpoolRecord,
        regions: Collection[HotRegion],
        *,
        spool_number: int,
        on_position: Callable[[int], None] | None = None,
    ) -> Acknowledged:
        """Count a command as in flight; return the callback for its acknowledgement."""
        now_s = self._clock.monotonic_s()
        if not self._in_flight:
            self._progress_s = now_s
        self._in_flight[number] = _InFlight(
            record, regions, spool_number, now_s, on_position=on_position
        )
        self._order[record.partition].append(number)
        self._in_flight_bytes += len(record.value)
        self._callbacks.on_publishing(record)
        return partial(self._on_acknowledged, number)

    def _on_acknowledged(self, number: int, position: int | None) -> None:
        """Take an acknowledgement: after those of all earlier commands of the partition.

        Kafka acknowledges a partition's commands in order. But several threads poll, and each runs
        the callbacks that it got: a later one may come first. Positions that go back would look
        like a history that broke (AcknowledgedPositions.note).
        """
        with self._lock:
            self._progress_s = self._clock.monotonic_s()
            acknowledged = self._in_flight[number]
            acknowledged.is_acknowledged, acknowledged.position = True, position
            order = self._order[acknowledged.record.partition]
            self._bound_positions(order)
            while order and self._in_flight[order[0]].position is not None:
                self._finish(self._in_flight.pop(order.popleft()))

    def _bound_positions(self, order: Iterable[int]) -> None:
        """Give the commands whose positions nobody knows the highest ones that they may have.

        order: the numbers of a partition's commands in flight. Kafka keeps their order, so a
        command is before the next one whose position is known; until that is acknowledged, the
        command counts as in flight. Everything below that position is on the topic, so whoever
        reads or waits through a bound misses nothing of the command.
        """
        unknown: list[_InFlight] = []
        for number in order:
            command = self._in_flight[number]
            if not command.is_acknowledged:
                return
            if command.position is None:
                unknown.append(command)
                continue
            for distance, earlier in enumerate(reversed(unknown), 1):
                earlier.position = command.position - distance
            unknown.clear()

    def _finish(self, command: _InFlight) -> None:
        """Release what waits for an acknowledged command, and report it."""
        assert command.position is not None
        self._in_flight_bytes -= len(command.record.value)
        self.acknowledgement_s.observe(self._progress_s - command.since_s)
        partition, regions = command.record.partition, command.regions
        spooled = self._spooled_regions.get(partition)
        if spooled is not None and spooled.last == command.spool_number:
            del self._spooled_regions[partition]
            regions = [*regions, *spooled.regions]
        self._callbacks.on_acknowledged(command.record, command.position, regions)
        if command.on_position is not None:
            command.on_position(command.position)

    def _first_unacknowledged(self) -> int:
        """Return the number of the spool's first record that isn't acknowledged."""
        return next(
            (command.spool_number for command in self._in_flight.values() if command.spool_number),
            self._spool.last_read + 1,
        )

    def _spill(self) -> bool:
        """Write the commands that only the client holds to the spool, in order.

        Return False if the spool has no room for all of them.
        """
        if self.waiting:
            return True
        complete = True
        for command in self._in_flight.values():
            if not command.spool_number:
                complete = complete and self._spool.append(command.record)
            if not complete:
                break
            command.spool_number = command.spool_number or self._spool.last
            if command.record.volume:
                self._spooled_volumes.add(command.record.volume)
        self._spool.mark_all_read()
        return complete

    def _remove_acknowledged_files(self) -> None:
        """Remove the files whose records are all acknowledged.

        1. The activity log durably stops counting on their records.
        2. The files are removed.
        """
        if self._spool.is_empty:
            return
        first_needed = self._spool.removable_below(self._first_unacknowledged())
        if first_needed == self._spool.first_kept:
            return
        if self._logged_records[0] <= self._logged_records[1]:
            records = (first_needed, max(self._logged_records[1], first_needed - 1))
            try:
                self._callbacks.log_entries([ActivityEntry(ActivityOp.SPOOL, records=records)])  # 1
            except DeviceFailed:
                return  # the next write that needs the activity log raises it
            self._logged_records = records
        self._spool.remove_below(first_needed)  # 2
        if first_needed > self._spool.last:
            self._spooled_volumes.clear()

    def _forget_spooled(self) -> None:
        """Forget the spooled commands, which can't be read: nobody knows what they name."""
        try:
            self._callbacks.on_spool_lost(sorted(self._spooled_volumes))
        except DeviceFailed:
            return  # forget nothing before the activity log says so
        for command in self._in_flight.values():
            command.spool_number = 0
        self._spooled_regions.clear()
        self._spool.mark_all_read()
        self._remove_acknowledged_files()
