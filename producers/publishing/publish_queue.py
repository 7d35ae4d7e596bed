"""The commands between a session and Kafka: in order, the first of them with the client, the rest in the spool."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import Final

from mirrorlog.errors import DeviceFailed, MirrorlogError
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher
from mirrorlog.producers.batches.hot_regions import HotRegion, release
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp
from mirrorlog.producers.durable.spool import Spool, SpoolRecord

MOST_COMMANDS: Final = 50_000
"""With the client at a time: half of what librdkafka's queue holds by default."""
AT_ONCE: Final = 64
"""So many are handed to the client, at most, before the lock is let go of."""
PIECE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class PublishLimits:
    """queue_bytes: of commands that are with the client. away_s: Kafka is away when it acknowledged nothing for so long."""

    queue_bytes: int
    away_s: float


@dataclass(slots=True, eq=False)
class _Sent:
    """One command that is with the client. spooled: its number in the spool; 0 where it isn't there."""

    record: SpoolRecord
    regions: Collection[HotRegion]
    spooled: int


@dataclass(slots=True)
class _Held:
    """The regions of one partition's commands in the spool; the acknowledgement of the last of these releases them."""

    last: int = 0
    regions: set[HotRegion] = field(default_factory=set)

    def add(self, number: int, regions: Iterable[HotRegion]) -> None:
        self.last = number
        for region in regions:
            if region in self.regions:
                release((region,))  # once is enough
            else:
                self.regions.add(region)


Acknowledged = Callable[[SpoolRecord, int, Collection[HotRegion]], None]
"""Called, with the lock held, with a command, its position, and the regions that wait for it no longer."""


class PublishQueue:
    """All commands in order, numbered from 1. While Kafka acknowledges, they pass through memory alone.

    1. A command goes to the client while that holds less than `PublishLimits.queue_bytes`. Nothing is on the disk.
    2. Otherwise it goes to the spool, and with it, in front of it, those that the client holds; from then on every command
       goes there until all that wait are with the client again: order is kept.
    3. Where the spool has no room, offer() says no.

    Nothing of this needs the disk to be safe: the regions that a command names stay hot until it is acknowledged. save() is
    what makes the spool durable, and lets them go earlier.

    The caller holds `lock` for all but poll() and wait(). release_saved: whether a durable record may stand for its regions.
    """

    def __init__(
        self,
        publisher: Publisher,
        topic: str,
        clock: Clock,
        lock: RLock,
        limits: PublishLimits,
        spool: Spool,
        note: Callable[[Iterable[ActivityEntry]], None],
        on_giving: Callable[[SpoolRecord], None],
        on_acknowledged: Acknowledged,
        on_lost: Callable[[Collection[str]], None],
        *,
        release_saved: bool,
    ) -> None:
        self._publisher: Final = publisher
        self._topic: Final = topic
        self._clock: Final = clock
        self._lock: Final = lock
        self._limits: Final = limits
        self._spool: Final = spool
        self._note: Final = note
        self._on_giving: Final = on_giving
        self._on_acknowledged: Final = on_acknowledged
        self._on_lost: Final = on_lost
        self._release_saved: Final = release_saved
        self._sent: Final[dict[int, _Sent]] = {}
        self._sent_bytes = 0
        self._held: Final[dict[int, _Held]] = {}
        self._names: Final[set[str]] = set()
        self._noted: tuple[int, int] = (1, 0)
        self._progress_s = clock.monotonic_s()
        self.last = 0

    @property
    def waiting(self) -> int:
        """How many commands aren't with the client yet."""
        return 0 if self._spool.is_empty else self._spool.last - self._spool.taken

    @property
    def is_clear(self) -> bool:
        """Whether the next command would go straight to the client, and that isn't stuck."""
        return not self.waiting and self._has_room(1) and not self.is_away

    @property
    def is_away(self) -> bool:
        """Whether something waits for an acknowledgement, and for long."""
        return (
            bool(self._sent) and self._clock.monotonic_s() - self._progress_s >= self._limits.away_s
        )

    def offer(
        self, partition: int, volume: str, value: bytes, regions: Collection[HotRegion]
    ) -> bool:
        """Takes one command; False, and nothing was done, where there is no room."""
        record = SpoolRecord(partition, volume, value)
        if not self.waiting and self._has_room(len(value)):
            self.last += 1
            self._give(self.last, _Sent(record, regions, 0))
            return True
        if not self._spill() or not self._spool.append(record):
            return False
        self.last += 1
        self._names.add(volume)
        self._held.setdefault(partition, _Held()).add(self._spool.last, regions)
        return True

    def feed(self) -> None:
        """Hands on what waits in the spool, as far as the client has room."""
        for _ in range(AT_ONCE):
            if not self.waiting or not self._has_room(1):
                break
            number = self.last - self.waiting + 1  # while some wait, all that come go to the spool
            try:
                record = self._spool.take()
            except MirrorlogError:
                self._lose()
                break
            self._give(number, _Sent(record, (), self._spool.taken))
        self._give_back()

    def save(self) -> bool:
        """Makes everything that isn't acknowledged durable in the spool; the regions that it names needn't wait any more.
        Whether any of them was let go of.

        1. What the client alone holds goes to the spool.
        2. The spool is durable.
        3. The activity log says so, durably: which records there must be, and for which volumes.
        4. The regions are released.
        """
        if (
            not self._release_saved
            or not self._spill()
            or self._spool.is_empty
            or not self._spool.sync()
        ):  # 1, 2
            return False
        self._noted = (self._first_needed(), self._spool.last)
        self._note(
            [
                ActivityEntry(ActivityOp.SPOOL, records=self._noted),
                *(ActivityEntry(ActivityOp.SPOOLED, name) for name in sorted(self._names)),
            ]
        )  # 3
        released = 0
        for sent in self._sent.values():
            released += len(sent.regions)
            release(sent.regions)
            sent.regions = ()
        for held in self._held.values():
            released += len(held.regions)
            release(held.regions)
        self._held.clear()
        return released > 0  # 4

    def poll(self, timeout_s: float) -> None:
        """Takes acknowledgements, waiting up to `timeout_s` for one, and hands on what waits.

        KafkaFailed where the broker refuses.
        """
        self._publisher.poll(timeout_s)
        if not self._spool.is_empty:
            with self._lock:
                self.feed()

    def wait(self, through: int, within_s: float, *, or_away: bool = False) -> bool:
        """Whether all commands through that number are acknowledged, in time. KafkaFailed where the broker refuses.

        or_away: gives up as soon as Kafka is away.
        """
        until_s = self._clock.monotonic_s() + within_s
        while True:
            with self._lock:
                self.feed()
                if self.is_acknowledged(through):
                    return True
                left_s = until_s - self._clock.monotonic_s()
                if left_s <= 0 or (or_away and self.is_away):
                    return False
            self._publisher.poll(min(left_s, PIECE_S))

    def close(self) -> None:
        """Lets go of the spool's files."""
        self._spool.close()

    def is_acknowledged(self, through: int) -> bool:
        """Whether all commands through that number are, or lost with the spool."""
        return self.last - self.waiting >= through and next(iter(self._sent), through + 1) > through

    def _has_room(self, size: int) -> bool:
        return not self._sent or (
            self._sent_bytes + size <= self._limits.queue_bytes and len(self._sent) < MOST_COMMANDS
        )

    def _give(self, number: int, sent: _Sent) -> None:
        if not self._sent:
            self._progress_s = self._clock.monotonic_s()
        self._sent[number] = sent
        record = sent.record
        self._sent_bytes += len(record.value)
        self._on_giving(record)
        acknowledged = partial(self._acknowledged, number)
        self._publisher.publish(
            self._topic, record.partition, record.volume.encode(), record.value, acknowledged
        )

    def _acknowledged(self, number: int, position: int) -> None:
        with self._lock:
            sent = self._sent.pop(number)
            self._sent_bytes -= len(sent.record.value)
            self._progress_s = self._clock.monotonic_s()
            regions, held = sent.regions, self._held.get(sent.record.partition)
            if held is not None and held.last == sent.spooled:
                del self._held[sent.record.partition]
                regions = [*regions, *held.regions]
            self._on_acknowledged(sent.record, position, regions)

    def _first_needed(self) -> int:
        """The first record of the spool that isn't acknowledged."""
        return next(
            (sent.spooled for sent in self._sent.values() if sent.spooled), self._spool.taken + 1
        )

    def _spill(self) -> bool:
        """Whether everything that isn't acknowledged is in the spool, in order."""
        if self.waiting:
            return True
        whole = True
        for sent in self._sent.values():
            if not sent.spooled:
                whole = whole and self._spool.append(sent.record)
            if not whole:
                break
            sent.spooled = sent.spooled or self._spool.last
            self._names.add(sent.record.volume)
        self._spool.skip()
        return whole

    def _give_back(self) -> None:
        """Removes the files of which nothing is needed any more.

        1. The activity log counts on them no longer, durably.
        2. They are removed.
        """
        if self._spool.is_empty:
            return
        below = self._spool.droppable(self._first_needed())
        if below == self._spool.kept:
            return
        if self._noted[0] <= self._noted[1]:
            noted = (below, max(self._noted[1], below - 1))
            try:
                self._note([ActivityEntry(ActivityOp.SPOOL, records=noted)])  # 1
            except DeviceFailed:
                return  # the next write that needs the activity log hears of it
            self._noted = noted
        self._spool.drop(below)  # 2
        if below > self._spool.last:
            self._names.clear()

    def _lose(self) -> None:
        """What waits can't be read: nobody knows what it names."""
        try:
            self._on_lost(sorted(self._names))
        except DeviceFailed:
            return  # nothing may be forgotten that the activity log can't say instead
        for sent in self._sent.values():
            sent.spooled = 0
        self._held.clear()
        self._spool.skip()
        self._give_back()
