"""What the node does with the log between two flushes: rolls records up, drops what is held elsewhere or too old.

The order keeps the log whole (invariants 2, 3, 5). For some volumes at a time, in turns of little work each:

1. Rolled-up records go to the changelog, acknowledged, and then to the local store.
2. The partition's watermark goes there once more, acknowledged: readers let a record count only from the next watermark on.
   So whoever is at the changelog's end, wherever that is just then, has the parts or a roll-up that counts.
3. The tombstones of the parts go to the changelog, acknowledged, and then the local store drops them.

A crash anywhere leaves the parts, or both, or the roll-up. Where both are left, the survey of the partition's next owner
finds records that lie inside one of a higher tier. They go once it is proved, block by block, that the higher one holds
them; where it doesn't, they stay.

**Compaction under a reader.** A reader may find a part no more, because the cleaner came first, before it has met the roll-up;
and the cleaner swaps one group of segments after the other, so that an old watermark may still be there in between. Nothing
would tell then that the part is missing. But before the tombstones of the parts, the roll-up and a watermark were in the
changelog: a reader that lets nothing count before it was at the changelog's end has them (LogReader).

**A worker that lost the partition and still sends** (paused longer than its session lasts) changes nothing that counts. Its
roll-up says what the commands in its range say, under a key of its own or the key of an equal: parts of both fit each other,
because records are cut by what they hold alone. Its tombstones follow its roll-up, so what they remove is held, also where
its successor has just written a part again: the same key has the same blocks. Its watermark may be an old one; readers keep
the highest. Its table lacks what its successor wrote, so a roll-up of its may claim positions of which another record knows
more: that record is dropped by nobody, because nobody drops what he hasn't proved to be held, and readers take the lowest
tier first.

Times only pace the work: which records become one, and what a record covers, is told by positions (invariant 10). The age
of a record is that of the first moment at or above its end (moments.py).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, groupby
from typing import Final, Protocol, TypeAlias

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.bitmaps import BitMap64
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.streams.compaction import position_times as at
from mirrorlog.streams.compaction.retention import (
    kept_at_all_s,
    kept_once_held_s,
    limit,
    needs_after,
)
from mirrorlog.streams.compaction.rollups import (
    Blocks,
    Entry,
    Holders,
    Source,
    chains,
    entries,
    header,
    is_within,
    pieces,
    united,
)
from mirrorlog.streams.table.local_store import Row
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import (
    RECORD_PREFIX,
    RecordKey,
    first_key_after,
    position_time_key,
    position_times_prefix,
    read_record_key,
    record_key,
    split_log_name,
    tier_prefix,
)
from mirrorlog.tracking_log.records import LogRecord

log = logging.getLogger("mirrorlog.node")

_TURN_S: Final = 0.05
"""A flush waits for a turn: no step of one takes much longer."""
_SEND_BYTES: Final = 4 << 20
_SEND_ROWS: Final = 5000
_VOLUMES_AT_ONCE: Final = 256
_KEYS_AT_ONCE: Final = 2000
_PIECES_HELD: Final = 64
_WITH_BLOCKS_BYTES: Final = 64 << 10
"""The blocks of a smaller record are kept from the first look at it to the union."""
_WARN_EVERY_S: Final = 3600.0
_HELD: Final = (
    "volume %s: site %s has applied only position %s, so records of positions %d to %d stay though they are older than the "
    "log is kept; bring the site up to date or remove it, or set node_keep_past_sites_after_s"
)
_LEFT_BEHIND: Final = (
    "volume %s: site %s has applied only position %s, and the records through position %d are deleted now "
    "(node_keep_past_sites_after_s): the site will need a full copy"
)


@dataclass(frozen=True, slots=True)
class WatermarkDue:
    """A step of a job: the watermark is due, after every row before it."""


Step: TypeAlias = Row | WatermarkDue | None
"""None: a little work was done, and nothing is to be written."""
Job: TypeAlias = Iterator[Step]


class ProgressReports(Protocol):
    """What sites and backups last said of a volume."""

    def refresh(self) -> None:
        """Reads all that was published before the call; KafkaFailed where it can't."""

    def of(self, volume: str) -> Sequence[SiteProgress]:
        """The last report of each."""


@dataclass(frozen=True, slots=True)
class CompactionSettings:
    """tiers_s: of the tiers above the lowest, each so many seconds. keep_s, keep_past_sites_after_s: as in the settings."""

    tiers_s: Sequence[int]
    keep_s: Mapping[str, float]
    keep_past_sites_after_s: float | None
    record_max_bytes: int


@dataclass(order=True, slots=True)
class _Sweep:
    """The parts of a record, to be dropped at a time of the clock that only goes forward."""

    due_s: float
    number: int
    volume: str = field(compare=False)
    entry: Entry = field(compare=False)


@dataclass(slots=True)
class _Partition:
    """What is remembered of one partition while it is this worker's; all of it is found again by a survey.

    unrolled: by volume and tier, the lowest start of records that no higher one holds.
    waiting: by tier, the volumes that the next tick may give a record of it. queue: those whose tick came.
    held: by volume, records of which parts are there that no roll-up may take again.
    oldest: by volume, a position at or below the end of its oldest record.
    """

    next_tick_s: dict[int, float]
    next_moment_s: float
    job: Job | None = None
    surveyed: bool = False
    unrolled: dict[tuple[str, int], int] = field(default_factory=dict)
    waiting: dict[int, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    queue: list[tuple[int, list[str]]] = field(default_factory=list)
    sweeps: list[_Sweep] = field(default_factory=list)
    held: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    oldest: dict[str, int] = field(default_factory=dict)
    moments: list[Watermark] = field(default_factory=list)
    damaged: set[tuple[str, int, int, int]] = field(default_factory=set)
    retain: bool = False


class _Damaged(Exception):
    """A record of the table can't be read: it is left where it is, and nothing is rolled up across it."""

    def __init__(self, key: RecordKey) -> None:
        self.span = (key.volume, key.tier, key.after, key.through)


class LogCompactor:
    """Looks after the log of this worker's partitions. Call `turn` between two flushes of a partition, never beside one.

    volumes: their descriptions, as far as they are known.
    """

    def __init__(
        self,
        table: LogTable,
        volumes: Mapping[str, Volume],
        make_reports: Callable[[], ProgressReports],
        clock: Clock,
        periods: CompactionSettings,
    ) -> None:
        self._table, self._volumes, self._clock, self._periods = table, volumes, clock, periods
        self._make_reports = make_reports
        self._reports: ProgressReports | None = None
        self._top = len(periods.tiers_s)
        self._partitions: dict[int, _Partition] = {}
        self._warned_s: dict[tuple[str, str, str], float] = {}
        self._numbers = count()

    def revoke(self, partitions: Iterable[int]) -> None:
        """The partitions went to another worker, or come back and begin anew."""
        for partition in partitions:
            self._partitions.pop(partition, None)

    async def work(self, partition: int) -> float:
        """A little work, durable when it returns; in how many seconds at the latest there is more. 0.0: at once."""
        mine = self._partitions.get(partition)
        if mine is None:
            mine = self._partitions[partition] = self._begin()
        self._take_flushed(partition, mine)
        until_s = self._clock.monotonic_s() + _TURN_S
        if mine.job is None:
            mine.job = await self._next_job(partition, mine)
        rows: list[Row] = []
        size_bytes = 0
        while mine.job is not None:
            try:
                step = next(mine.job)
            except StopIteration:
                mine.job = None
                break
            if isinstance(step, WatermarkDue):
                await self._table.append(partition, rows)
                await self._table.repeat_watermark(partition)
                rows, size_bytes = [], 0
            elif step is not None:
                rows.append(step)
                size_bytes += len(step[1] or b"")
            if (
                size_bytes >= _SEND_BYTES
                or len(rows) >= _SEND_ROWS
                or self._clock.monotonic_s() >= until_s
            ):
                break
        await self._table.append(partition, rows)
        return self._rest_s(mine)

    def _begin(self) -> _Partition:
        ticks = {
            tier: self._next_s(period) for tier, period in enumerate(self._periods.tiers_s, start=1)
        }
        return _Partition(ticks, self._clock.monotonic_s())

    def _next_s(self, period_s: float) -> float:
        """When the clock on the wall shows the next multiple of the period."""
        return self._clock.monotonic_s() + period_s - self._clock.now_us() / 1e6 % period_s

    def _rest_s(self, mine: _Partition) -> float:
        if mine.job is not None or not mine.surveyed or mine.queue or mine.retain:
            return 0.0
        dues = [
            *mine.next_tick_s.values(),
            mine.next_moment_s,
            *(sweep.due_s for sweep in mine.sweeps[:1]),
        ]
        return max(0.0, min(dues) - self._clock.monotonic_s())

    def _take_flushed(self, partition: int, mine: _Partition) -> None:
        for volume, after in self._table.take_flushed(partition).items():
            self._is_unrolled(mine, volume, 0, after)
            mine.oldest.setdefault(volume, after)

    def _is_unrolled(self, mine: _Partition, volume: str, tier: int, after: int) -> None:
        known = mine.unrolled.get((volume, tier), after)
        mine.unrolled[volume, tier] = min(known, after)
        if tier < self._top:
            mine.waiting[tier + 1][volume] = None

    async def _next_job(self, partition: int, mine: _Partition) -> Job | None:
        if not mine.surveyed:
            return self._survey(partition, mine)
        now_s = self._clock.monotonic_s()
        for tier, due_s in mine.next_tick_s.items():
            if now_s >= due_s:
                mine.next_tick_s[tier] = self._next_s(self._periods.tiers_s[tier - 1])
                if volumes := list(mine.waiting.pop(tier, ())):
                    mine.queue.append((tier, volumes))
        if (
            mine.sweeps and mine.sweeps[0].due_s <= now_s
        ):  # before what would roll up the holders themselves
            return self._sweep(partition, mine, now_s)
        if mine.queue:
            tier, volumes = mine.queue[0]
            batch, volumes[:_VOLUMES_AT_ONCE] = volumes[:_VOLUMES_AT_ONCE], []
            if not volumes:
                mine.queue.pop(0)
            return self._roll_up(partition, mine, tier, batch)
        if now_s >= mine.next_moment_s:
            mine.next_moment_s = self._next_s(min(at.EVERY_S, self._periods.tiers_s[0]))
            mine.retain = True
            return self._note_moment(partition, mine)
        if mine.retain:
            mine.retain = False
            return await self._retention(partition, mine)
        return None

    # Reading

    def _load(self, partition: int, key: RecordKey) -> LogRecord:
        try:
            return decode(self._table.get(partition, record_key(key)) or b"", LogRecord)
        except BadInput as error:
            log.error("%s is damaged in the table and stays as it is: %s", key, error)
            raise _Damaged(key) from error

    def _entries(
        self, partition: int, volume: str, tier: int, after: int, through: int | None = None
    ) -> list[Entry]:
        """The tier's records that begin in `[after, through)`; None: to the last."""
        end = (
            _behind(tier_prefix(volume, tier))
            if through is None
            else first_key_after(volume, tier=tier, position=through)
        )
        keys = self._table.keys(partition, first_key_after(volume, tier=tier, position=after), end)
        return entries(read_record_key(key) for key in keys)

    def _source(self, partition: int, volume: str, entry: Entry) -> Source:
        key = entry.keys(volume)[0]
        size_bytes = len(self._table.get(partition, record_key(key)) or b"")
        first = self._load(partition, key)
        if first.parts > 1 or size_bytes > _WITH_BLOCKS_BYTES:
            first = replace(first, changed=BitMap64(), zeroed=BitMap64())
        return Source(entry, first, size_bytes)

    def _united(
        self, partition: int, volume: str, sources: Sequence[Source]
    ) -> Iterator[Blocks | None]:
        def parts(source: Source) -> Iterator[LogRecord]:
            if source.first.changed:
                return iter([source.first])
            return (self._load(partition, key) for key in source.entry.keys(volume))

        return united([parts(source) for source in sources])

    # Jobs

    def _survey(self, partition: int, mine: _Partition) -> Job:
        """What is there: read once when the partition comes, keys alone."""
        prefix = position_times_prefix(partition)
        rows = {
            key: self._table.get(partition, key)
            for key in self._table.keys(partition, prefix, _behind(prefix))
        }
        noted = {key: decode(value or b"", Watermark) for key, value in rows.items()}
        mine.moments = at.sound(list(noted.values()), self._table.complete_through(partition))
        for key, moment in noted.items():
            if moment not in mine.moments:
                yield key, None
        waiting: list[RecordKey] = []
        start = RECORD_PREFIX
        while chunk := self._table.keys(partition, start, _behind(RECORD_PREFIX), _KEYS_AT_ONCE):
            start = chunk[-1] + b"\0"
            waiting += [read_record_key(key) for key in chunk]
            by_volume = [list(group) for _, group in groupby(waiting, key=lambda key: key.volume)]
            for keys in by_volume[:-1]:
                self._surveyed(mine, keys)
            waiting = by_volume[-1]
            yield None
        if waiting:
            self._surveyed(mine, waiting)
        mine.surveyed = True

    def _surveyed(self, mine: _Partition, keys: Sequence[RecordKey]) -> None:
        """All keys of one volume."""
        volume, found = keys[0].volume, entries(keys)
        holders = Holders(found)
        for entry in found:
            holder = holders.holder(entry)
            if holder is None:
                self._is_unrolled(mine, volume, entry.tier, entry.after)
            elif holder not in mine.held[volume]:
                self._sweep_later(mine, volume, holder, self._clock.monotonic_s())
        mine.oldest[volume] = min(entry.through for entry in found)

    def _sweep_later(self, mine: _Partition, volume: str, entry: Entry, due_s: float) -> None:
        mine.held[volume].append(entry)
        heapq.heappush(mine.sweeps, _Sweep(due_s, next(self._numbers), volume, entry))

    def _note_moment(self, partition: int, mine: _Partition) -> Job:
        """That the log is complete through here, now."""
        now_us, through = self._clock.now_us(), self._table.complete_through(partition)
        if through == BEFORE_FIRST or (mine.moments and mine.moments[-1].through == through):
            return
        if mine.moments and mine.moments[-1].at_us >= now_us:
            return  # the clock was set back: what was noted holds until it has caught up
        moment = Watermark(partition, through, now_us)
        mine.moments.append(moment)
        yield position_time_key(partition, at_us=now_us), encode(moment)
        for old in at.superfluous(mine.moments, now_us):
            mine.moments.remove(old)
            yield position_time_key(partition, at_us=old.at_us), None

    def _roll_up(self, partition: int, mine: _Partition, tier: int, volumes: Sequence[str]) -> Job:
        """Records of `tier` for some volumes; the steps are those on top of this file."""
        made: list[tuple[str, Entry, list[Source]]] = []
        for volume in volumes:
            found = yield from self._chains(partition, mine, tier, volume)
            for chain in found:
                try:
                    entry = yield from self._write(partition, tier, volume, chain)  # 1
                except _Damaged as damaged:
                    mine.damaged.add(damaged.span)
                    self._is_unrolled(mine, volume, tier - 1, chain[0].entry.after)
                else:
                    made.append((volume, entry, chain))
            yield None
        if not made:
            return
        yield WatermarkDue()  # 2
        for volume, entry, chain in made:
            self._is_unrolled(mine, volume, tier, entry.after)
            if keep_s := self._kept_once_held_s(volume, tier - 1):
                self._sweep_later(mine, volume, entry, self._clock.monotonic_s() + keep_s)
                continue
            for source in chain:
                yield from _dropped(volume, source.entry)  # 3

    def _chains(
        self, partition: int, mine: _Partition, tier: int, volume: str
    ) -> Generator[Step, None, list[list[Source]]]:
        """What of the tier below becomes records now; where what may later on begins is remembered."""
        below = tier - 1
        after = mine.unrolled.pop((volume, below), None)
        if after is None:
            return []
        complete_through = self._table.complete_through(partition)
        held = Holders(mine.held.get(volume, ()))
        sources, later = [], []
        for entry in self._entries(partition, volume, below, after):
            if (volume, entry.tier, entry.after, entry.through) in mine.damaged or held.holder(
                entry
            ) is not None:
                continue
            if entry.through > complete_through:  # of a flush that a crash cut off: it comes again
                later.append(entry.after)
                continue
            try:
                sources.append(self._source(partition, volume, entry))
            except _Damaged as damaged:
                mine.damaged.add(damaged.span)
            yield None
        found = chains(source for source in sources if source.is_whole)
        later += [chain[0].entry.after for chain in found[-1:] if len(chain) == 1]
        if later:  # costs nothing until the volume has something new
            mine.unrolled[volume, below] = min(later)
        return [chain for chain in found if len(chain) > 1]

    def _write(
        self, partition: int, tier: int, volume: str, chain: Sequence[Source]
    ) -> Generator[Step, None, Entry]:
        """The rows of one record. Each of its parts says how many there are: a large one is united twice."""
        first: list[Blocks] = []
        parts = 0
        for piece in pieces(self._united(partition, volume, chain), self._periods.record_max_bytes):
            if piece is None:
                yield None
                continue
            parts += 1
            if parts <= _PIECES_HELD:
                first.append(piece)
        whole = replace(header(tier, chain), parts=max(parts, 1))
        again = pieces(self._united(partition, volume, chain), self._periods.record_max_bytes)
        number = 0
        for piece in first or [(BitMap64(), BitMap64())] if parts <= _PIECES_HELD else again:
            if piece is None:
                yield None
                continue
            part = replace(whole, changed=piece[0], zeroed=piece[1], part=number)
            yield record_key(part), encode(part)
            number += 1
        return Entry(tier, whole.after, whole.through, tuple(range(number)))

    def _sweep(self, partition: int, mine: _Partition, now_s: float) -> Job:
        """Drops what records of higher tiers hold, where it has been kept for long enough."""
        yield WatermarkDue()  # a roll-up that the survey found may have had none behind it
        for _ in range(_VOLUMES_AT_ONCE):
            if not mine.sweeps or mine.sweeps[0].due_s > now_s:
                return
            sweep = heapq.heappop(mine.sweeps)
            volume, whole = sweep.volume, sweep.entry
            mine.held[volume].remove(whole)
            keep_s = self._kept_once_held_s(volume, whole.tier - 1)
            if keep_s and whole.through > at.position_at(
                mine.moments, self._clock.now_us() - keep_s * 1e6
            ):
                self._sweep_later(mine, volume, whole, self._next_s(at.EVERY_S))
                continue
            try:
                yield from self._sweep_one(partition, mine, volume, whole)
            except _Damaged as damaged:
                mine.damaged.add(damaged.span)
                mine.held[volume].append(whole)

    def _sweep_one(self, partition: int, mine: _Partition, volume: str, whole: Entry) -> Job:
        if whole not in self._entries(partition, volume, whole.tier, whole.after, whole.after + 1):
            if (further := self._holder(partition, volume, whole)) is not None:
                self._sweep_later(mine, volume, further, self._clock.monotonic_s())
            return
        holder = self._source(partition, volume, whole)
        inside = yield from self._inside(partition, volume, whole, holder.first.generation)
        if not holder.is_whole:  # a crash cut it off: its parts are rolled up again
            for source in inside:
                self._is_unrolled(mine, volume, source.entry.tier, source.entry.after)
            return
        if not inside:
            return
        proved = False
        parts, held = (
            self._united(partition, volume, inside),
            self._united(partition, volume, [holder]),
        )
        for answer in is_within(parts, held):
            proved = bool(answer)
            yield None
        if not proved:
            mine.held[volume].append(whole)  # its parts stay, and aren't taken again
            log.error("volume %s: %s doesn't hold all that its parts do; they stay", volume, whole)
            return
        for source in inside:
            yield from _dropped(volume, source.entry)

    def _inside(
        self, partition: int, volume: str, whole: Entry, generation: str
    ) -> Generator[Step, None, list[Source]]:
        """The records of lower tiers and the same generation that lie inside one."""
        found = []
        for tier in range(whole.tier):
            for entry in self._entries(partition, volume, tier, whole.after, whole.through):
                if entry.is_inside(whole):
                    source = self._source(partition, volume, entry)
                    found += [source] if source.first.generation == generation else []
                    yield None
        return found

    def _holder(self, partition: int, volume: str, gone: Entry) -> Entry | None:
        """What holds a record that isn't there any more: it was rolled up itself. None where it was too old to be kept."""
        higher = (
            entry
            for tier in range(gone.tier + 1, self._top + 1)
            for entry in self._entries(partition, volume, tier, BEFORE_FIRST, gone.after + 1)
            if gone.is_inside(entry)
        )
        return next(higher, None)

    async def _retention(self, partition: int, mine: _Partition) -> Job | None:
        """Drops what is older than the log is kept: oldest records only, and none that a site still needs."""
        due: dict[str, tuple[int, int]] = {}
        now_us, past_s = self._clock.now_us(), self._periods.keep_past_sites_after_s
        for volume, oldest in mine.oldest.items():
            keep_s = kept_at_all_s(self._top, self._words(volume), self._periods.keep_s)
            if (
                keep_s is None
                or (cut := at.position_at(mine.moments, now_us - keep_s * 1e6)) < oldest
            ):
                continue
            past = (
                BEFORE_FIRST
                if past_s is None
                else at.position_at(mine.moments, now_us - (keep_s + past_s) * 1e6)
            )
            due[volume] = (cut, past)
        if not due:
            return None
        try:
            if (reports := self._reports) is None:
                reports = self._reports = await asyncio.to_thread(self._make_reports)
            await asyncio.to_thread(reports.refresh)
        except KafkaFailed as error:
            log.warning(
                "nothing is deleted for its age: where the sites are can't be read: %s", error
            )
            return None
        return self._retain(partition, mine, due, reports)

    def _retain(
        self,
        partition: int,
        mine: _Partition,
        due: Mapping[str, tuple[int, int]],
        reports: ProgressReports,
    ) -> Job:
        for volume, (cut, past) in due.items():
            described, said = self._described(volume), reports.of(split_log_name(volume)[0])
            found = limit(described, cut, past, said)
            dropped, left = [], []
            for tier in range(self._top + 1):
                begun = self._entries(partition, volume, tier, BEFORE_FIRST, cut)
                dropped += [entry for entry in begun if entry.through <= found.through]
                left += [entry.through for entry in begun if entry.through > found.through]
                following = self._table.keys(
                    partition,
                    first_key_after(volume, tier=tier, position=cut),
                    _behind(tier_prefix(volume, tier)),
                    1,
                )
                left += [read_record_key(key).through for key in following]
                yield None
            mine.oldest[volume] = min(left, default=cut + 1)
            if any(through <= cut for through in left):
                for report in found.held_by:
                    self._warn(report, _HELD, report.applied_position, found.through, cut)
            reached = max((entry.through for entry in dropped), default=BEFORE_FIRST)
            for report in said:
                if needs_after(described, report) < reached:
                    self._warn(report, _LEFT_BEHIND, report.applied_position, reached)
            for entry in dropped:
                yield from _dropped(volume, entry)

    def _warn(self, report: SiteProgress, text: str, *words: object) -> None:
        """Once an hour for a volume and site."""
        name, now_s = (report.volume, report.site, text), self._clock.monotonic_s()
        if now_s - self._warned_s.get(name, float("-inf")) >= _WARN_EVERY_S:
            self._warned_s[name] = now_s
            log.warning(text, report.volume, report.site, *words)

    def _described(self, volume: str) -> Volume | None:
        """A missed log is kept as that of its volume is."""
        return self._volumes.get(split_log_name(volume)[0])

    def _words(self, volume: str) -> Mapping[str, float]:
        described = self._described(volume)
        return {} if described is None else described.keep_s

    def _kept_once_held_s(self, volume: str, tier: int) -> float:
        return kept_once_held_s(tier, self._words(volume), self._periods.keep_s)


def _dropped(volume: str, entry: Entry) -> Iterator[Row]:
    for key in entry.keys(volume):
        yield record_key(key), None


def _behind(prefix: bytes) -> bytes:
    """Above every key that begins with `prefix`: none goes on with 0xff."""
    return prefix + b"\xff"
