"""PartitionState: what the compactor remembers of one partition while this worker has it.

Nothing of it is stored, because the survey finds all of it again. Each class here is changed by its
own methods alone.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from mirrorlog.ports.clock import Clock
from mirrorlog.streams.compaction.broker_times import BrokerTimes
from mirrorlog.streams.compaction.partition_records import DamagedRecord, PartitionRecords
from mirrorlog.streams.compaction.retention import KeepPolicy
from mirrorlog.streams.compaction.rollups import CoverIndex, StoredRecord
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.position_times import position_at, times_to_prune
from mirrorlog.tracking_log.publication_delays import (
    JoinedDelays,
    PublicationDelays,
    delays_to_join,
)

_NOTED_MAX: Final = 1000


def next_tick_s(clock: Clock, period_s: float) -> float:
    """Return the monotonic time at which the wall clock shows the next multiple of the period."""
    return clock.monotonic_s() + period_s - clock.now_us() / 1e6 % period_s


class RollUpQueue:
    """Which volumes may get a record of a higher tier, and when.

    A volume waits for the next tick of a tier once it has new records in the tier below. At the
    tick it is queued. A volume with nothing new costs nothing.
    """

    def __init__(self, tiers_s: Sequence[int], clock: Clock) -> None:
        self._tiers_s, self._clock = tiers_s, clock
        self._next_tick_s = {
            tier: next_tick_s(clock, period_s) for tier, period_s in enumerate(tiers_s, start=1)
        }
        self._unrolled: dict[tuple[str, int], int] = {}
        self._waiting: dict[int, dict[str, None]] = defaultdict(dict)
        self._queue: list[tuple[int, list[str]]] = []

    def add(self, volume: str, *, tier: int, after: int) -> None:
        """Note that the volume has records in `tier`, from `after` on, that no higher tier holds.

        The volume waits for the next tick of the tier above, if there is one.
        """
        known = self._unrolled.get((volume, tier), after)
        self._unrolled[volume, tier] = min(known, after)
        if tier < len(self._tiers_s):
            self._waiting[tier + 1][volume] = None

    def take_start(self, volume: str, *, tier: int) -> int | None:
        """Return and forget the lowest `after` of the volume's records to roll up from `tier`.

        Return None if there are none.
        """
        return self._unrolled.pop((volume, tier), None)

    def put_back(self, volume: str, *, tier: int, after: int) -> None:
        """Note records from `after` on that can be rolled up only with further ones.

        The volume doesn't wait for a tick: it costs nothing until it has something new.
        """
        self._unrolled[volume, tier] = after

    def queue_due(self) -> None:
        """Queue the volumes whose tick has come."""
        now_s = self._clock.monotonic_s()
        for tier, due_s in self._next_tick_s.items():
            if now_s >= due_s:
                self._next_tick_s[tier] = next_tick_s(self._clock, self._tiers_s[tier - 1])
                if volumes := list(self._waiting.pop(tier, ())):
                    self._queue.append((tier, volumes))

    def take_batch(self, limit: int) -> tuple[int, list[str]] | None:
        """Return and forget up to `limit` queued volumes and the tier that they get a record of.

        Return None if no volume is queued.
        """
        if not self._queue:
            return None
        tier, volumes = self._queue[0]
        batch, volumes[:limit] = volumes[:limit], []
        if not volumes:
            self._queue.pop(0)
        return tier, batch

    @property
    def has_queued(self) -> bool:
        """Return whether a volume is queued."""
        return bool(self._queue)

    @property
    def due_s(self) -> float:
        """The monotonic time of the next tick."""
        return min(self._next_tick_s.values())


@dataclass(order=True, slots=True)
class _Sweep:
    """The sources of a rolled-up record are deleted at `due_s`, on the monotonic clock."""

    due_s: float
    number: int
    volume: str = field(compare=False)
    rolled_up: StoredRecord = field(compare=False)


class SweepSchedule:
    """Which rolled-up records still have their sources beside them, and when these are deleted."""

    def __init__(self) -> None:
        self._sweeps: list[_Sweep] = []
        self._rolled_up: dict[str, list[StoredRecord]] = defaultdict(list)
        self._numbers = count()

    def schedule(self, volume: str, rolled_up: StoredRecord, *, due_s: float) -> None:
        """Delete the sources of `rolled_up` at `due_s`."""
        self.keep_sources(volume, rolled_up)
        sweep = _Sweep(due_s, next(self._numbers), volume, rolled_up)
        heapq.heappush(self._sweeps, sweep)

    def keep_sources(self, volume: str, rolled_up: StoredRecord) -> None:
        """Keep the sources of `rolled_up`, and don't roll them up again."""
        self._rolled_up[volume].append(rolled_up)

    def is_known(self, volume: str, rolled_up: StoredRecord) -> bool:
        """Return whether the sources of `rolled_up` are scheduled or kept."""
        return rolled_up in self._rolled_up.get(volume, ())

    def rolled_up(self, volume: str) -> CoverIndex:
        """Return the records whose sources must not be rolled up again."""
        return CoverIndex(self._rolled_up.get(volume, ()))

    def has_due(self, now_s: float) -> bool:
        """Return whether a sweep is due."""
        return bool(self._sweeps) and self._sweeps[0].due_s <= now_s

    def take_due(self, now_s: float) -> tuple[str, StoredRecord] | None:
        """Return and forget the volume and record of a sweep that is due, None if none is."""
        if not self.has_due(now_s):
            return None
        sweep = heapq.heappop(self._sweeps)
        self._rolled_up[sweep.volume].remove(sweep.rolled_up)
        return sweep.volume, sweep.rolled_up

    @property
    def due_s(self) -> float:
        """The monotonic time of the next sweep, infinite if there is none."""
        return self._sweeps[0].due_s if self._sweeps else float("inf")


class PositionTimes:
    """The position times of a partition (`position_times`), and when the next one is noted.

    note_every_s: seconds. The first note is due at once.
    since_s: the monotonic time at which this worker began with the partition.
    """

    def __init__(self, clock: Clock, note_every_s: float) -> None:
        self._clock, self._note_every_s = clock, note_every_s
        self._times: list[Watermark] = []
        self.since_s = self.due_s = clock.monotonic_s()

    def load(self, times: Iterable[Watermark]) -> None:
        """Take the notes that the table holds, in the order of time."""
        self._times = list(times)

    def start_note(self) -> bool:
        """Return whether a note is due; the next one is due at the next tick then."""
        if self._clock.monotonic_s() < self.due_s:
            return False
        self.due_s = next_tick_s(self._clock, self._note_every_s)
        return True

    def note(self, time: Watermark) -> bool:
        """Add a note, and return whether it says anything new.

        It doesn't if the log is where it was, or if the broker's clock was set back: the older
        notes hold until it has caught up.
        """
        if self._times and (
            self._times[-1].through == time.through or self._times[-1].at_us >= time.at_us
        ):
            return False
        self._times.append(time)
        return True

    def prune(self, now_us: int) -> list[Watermark]:
        """Forget and return the notes that may be deleted."""
        pruned = times_to_prune(self._times, now_us)
        for time in pruned:
            self._times.remove(time)
        return pruned

    def position_at(self, at_us: float) -> int:
        """Return a position so that records through it are at least as old as the time `at_us`."""
        return position_at(self._times, at_us)


class DelayNotes:
    """The publication delays of a partition: those that the table holds, and those since then."""

    def __init__(self) -> None:
        self._stored: list[PublicationDelays] = []
        self._noted: list[PublicationDelays] = []

    def load(self, stored: Iterable[PublicationDelays]) -> None:
        """Take what the table holds, in the order of positions."""
        self._stored = list(stored)

    def note(self, delays: PublicationDelays) -> None:
        """Note the delays of commands that the log has recorded.

        If too much is noted that can't be joined, the oldest of it is forgotten: a question then
        reads more commands.
        """
        joined = self._noted[-1].joined(delays) if self._noted else None
        if joined is not None:
            self._noted[-1] = joined
            return
        self._noted.append(delays)
        del self._noted[:-_NOTED_MAX]

    def take_noted(self) -> list[PublicationDelays]:
        """Return what was noted since the last call. It counts as stored from now on."""
        noted, self._noted = self._noted, []
        begins = {delays.after for delays in noted}
        kept = [delays for delays in self._stored if delays.after not in begins]
        self._stored = sorted([*kept, *noted], key=lambda delays: delays.after)
        return noted

    def take_joined(self, now_us: int) -> list[JoinedDelays]:
        """Return what becomes one statement by its age. Each counts as stored from now on."""
        joins = delays_to_join(self._stored, now_us)
        gone = {part for join in joins for part in join.parts}
        kept = [delays for delays in self._stored if delays not in gone]
        whole = [join.whole for join in joins]
        self._stored = sorted([*kept, *whole], key=lambda delays: delays.after)
        return joins


class OldestRecords:
    """For each volume, a position at or below the end of its oldest record."""

    def __init__(self) -> None:
        self._positions: dict[str, int] = {}

    def note_flushed(self, volume: str, *, after: int) -> None:
        """Note a new record of a volume. It is the oldest one if no other is known."""
        self._positions.setdefault(volume, after)

    def set(self, volume: str, position: int) -> None:
        """Set the position of a volume whose records were looked at."""
        self._positions[volume] = position

    def items(self) -> list[tuple[str, int]]:
        """Return (volume, position) for every volume."""
        return list(self._positions.items())


class DamagedRecords:
    """The records that can't be read. No roll-up spans one."""

    def __init__(self) -> None:
        self._records: set[tuple[str, int, int, int]] = set()

    def add(self, damaged: DamagedRecord) -> None:
        """Remember a damaged record."""
        self._records.add(_identity(damaged.volume, damaged.record))

    def has(self, volume: str, record: StoredRecord) -> bool:
        """Return whether the record is known to be damaged."""
        return _identity(volume, record) in self._records


def _identity(volume: str, record: StoredRecord) -> tuple[str, int, int, int]:
    return volume, record.tier, record.after, record.through


@dataclass(frozen=True, slots=True)
class PartitionState:
    """The state on which the jobs of one partition work.

    records: the table. roll_ups, sweeps, times, delays, oldest, damaged: what is remembered.
    broker_times: the broker's clock, for all partitions.
    """

    records: PartitionRecords
    policy: KeepPolicy
    clock: Clock
    roll_ups: RollUpQueue
    sweeps: SweepSchedule
    times: PositionTimes
    delays: DelayNotes
    oldest: OldestRecords
    damaged: DamagedRecords
    broker_times: BrokerTimes
