"""How a worker's tables follow the changelog: before the worker uses them, and as standby copies.

Faust assigns partitions and standbys. What Faust does to bring their tables up to the changelog is
not used (docs/decisions/recovery.md). For each partition:

1. The table is trusted if its rows came from this changelog, it is not ahead of it, and the last
   row that it took still has the same value there, unless compaction removed it. Otherwise it is
   emptied: no site would ever read what it holds beside the changelog (invariant 3). Rows that it
   took and lost when the worker was killed count, too: it knows where they ended, and the last
   watermark among them (AcknowledgedEnd).
2. Rows are read from the table's position on, and written in their order, with the position. Of
   two heads of a volume in one history the later one stays (later_head): a worker that lost the
   partition may have appended an older one behind it. Readers keep the later one, too.
3. A partition to work on has caught up when its table reaches the end that the changelog had at
   the start, and each head ends where the volume's records do (heads_behind_records). A standby
   follows until the next rebalance.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.streams import Message, TopicReader
from mirrorlog.streams.table.kept_heads import heads_behind_records, later_head
from mirrorlog.streams.table.local_store import FollowedStore, Row
from mirrorlog.tracking_log.keys import HEAD_PREFIX, watermark_key

log = logging.getLogger("mirrorlog.node")

_ROWS_AT_ONCE: Final = 1000
_POLL_S: Final = 0.5
PROGRESS_S: Final = 10.0
"""How often catch_up() tells how far it is."""
_RETRY_S: Final = 5.0
_GATHERED_BYTES: Final = 32 << 20
"""How much the tables that are read into gather in memory, all together."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ChangelogSource:
    """The changelog topic, as the follower asks about it. The calls block, from one thread.

    open_reader: opens a reader, which the follower closes.
    bounds:      of a partition: (the oldest position that is kept, the next message's position).
    identity:    the topic's own id. A topic that is created again under the same name has another.
    """

    topic: str
    open_reader: Callable[[], TopicReader]
    bounds: Callable[[int], tuple[int, int]]
    identity: Callable[[], str]


@dataclass(frozen=True, slots=True)
class _ChangelogReading:
    """A reader that is open. ends: by partition, where the changelog ended when it was opened."""

    ends: Mapping[int, int]
    poll: Callable[[], Awaitable[Sequence[Message]]]
    reached: Callable[[int], int]

    def missing(self) -> int:
        """Return how many positions of the changelog weren't read yet, over all partitions."""
        return sum(max(end - self.reached(number), 0) for number, end in self.ends.items())

    def is_complete(self) -> bool:
        """Return whether the reader has reached the end of every partition."""
        return all(self.reached(partition) >= end for partition, end in self.ends.items())


def reason_to_rebuild(
    *,
    position: int | None,
    acknowledged: int | None,
    origin: str | None,
    identity: str,
    first_kept: int,
    end: int,
) -> str | None:
    """Return why the table can't be continued at `position`; None if it can.

    position:        the last changelog position that the table holds; None for an empty table.
    acknowledged:    the last changelog position that it ever took; None if it isn't known.
    origin:          the identity of the changelog that the table's rows came from.
    identity:        the identity of the changelog now.
    first_kept, end: the changelog's oldest kept and next position.
    """
    taken = max(
        (known for known in (position, acknowledged) if known is not None), default=BEFORE_FIRST
    )
    if taken == BEFORE_FIRST:
        return None
    if origin != identity:
        return "its rows came from another changelog"
    if taken >= end:
        return f"it is at position {taken}, and the changelog ends at {end}"
    if position is not None and position < first_kept:
        return f"it is at position {position}, and the changelog is kept from {first_kept} on"
    return None


class _TableReset(Exception):
    """A table was emptied while it was read into: the reading begins again."""


@dataclass(frozen=True, slots=True)
class RecoveryProgress:
    """How far the tables of partitions have caught up with the changelog.

    read, total: positions of the changelog, over all partitions. total: 0 if nothing was missing.
    """

    partitions: tuple[int, ...]
    read: int
    total: int


def _ignore_progress(progress: RecoveryProgress) -> None:
    del progress


class GatheredRows:
    """What tables gather in memory while they are read into, so that all together is bounded.

    RocksDB bounds it for each table alone, and lets several full buffers of each wait for the disk
    while rows arrive faster than they go there.
    """

    def __init__(self, limit_bytes: int = _GATHERED_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes: dict[int, int] = defaultdict(int)

    def add(self, partition: int, rows: Sequence[Row]) -> int | None:
        """Note rows that were written. Return the partition whose table goes to a file now.

        It is the one that gathers the most; None while all tables together have room.
        """
        self._bytes[partition] += sum(len(key) + len(value or b"") for key, value in rows)
        if sum(self._bytes.values()) < self._limit_bytes:
            return None
        fullest = max(self._bytes, key=self._bytes.__getitem__)
        del self._bytes[fullest]
        return fullest


class ChangelogFollower:
    """Copies the changelog into the tables. Make one call at a time for a partition.

    on_progress: called by catch_up() when it begins to read, every PROGRESS_S seconds, and when
        the tables have caught up; not if nothing was missing.
    file_every_s: how often what a standby table gathers goes to a file.
    """

    def __init__(
        self,
        store: FollowedStore,
        changelog: ChangelogSource,
        on_progress: Callable[[RecoveryProgress], None] = _ignore_progress,
        *,
        file_every_s: float = math.inf,
    ) -> None:
        self._store, self._changelog, self._on_progress = store, changelog, on_progress
        self._file_every_s = file_every_s

    async def catch_up(self, partitions: Sequence[int]) -> None:
        """Return when the tables hold all that the changelog held at the call."""
        reached_end = not partitions
        while not reached_end:
            with suppress(_TableReset):
                async with self._open(partitions) as reading:
                    await self._read_to_end(partitions, reading)
                    for partition in partitions:
                        self._correct_heads(partition)
                reached_end = True

    async def _read_to_end(self, partitions: Sequence[int], reading: _ChangelogReading) -> None:
        """Read what is missing, and tell how far the reading is."""
        now_s = asyncio.get_running_loop().time
        total, told_s, gathered = reading.missing(), now_s(), GatheredRows()
        if total:
            self._on_progress(RecoveryProgress(tuple(partitions), 0, total))
        while not reading.is_complete():
            self._write(await reading.poll(), gathered)
            if now_s() - told_s >= PROGRESS_S:
                told_s, read = now_s(), total - reading.missing()
                self._on_progress(RecoveryProgress(tuple(partitions), read, total))
        if total:
            self._on_progress(RecoveryProgress(tuple(partitions), total, total))

    def _correct_heads(self, partition: int) -> None:
        """Let each head end where the volume's records do."""
        position = self._store.changelog_position(partition)
        rows = list(heads_behind_records(self._store, partition))
        if rows and position is not None:
            self._store.write(partition, rows, [position] * len(rows))

    async def stand_by(self, partitions: Sequence[int]) -> None:
        """Follow the changelog until cancelled.

        A MirrorlogError is logged and the reading begins again: a standby must not stop the
        worker's own partitions.
        """
        reports, now_s = RetryReports(), asyncio.get_running_loop().time
        doing = f"standing by for partitions {', '.join(map(str, sorted(partitions)))}"
        while True:
            try:
                async with self._open(partitions) as reading:
                    gathered, emptied_s = GatheredRows(), now_s()
                    while True:
                        self._write(await reading.poll(), gathered)
                        if now_s() - emptied_s >= self._file_every_s:
                            emptied_s = now_s()
                            for partition in partitions:
                                self._store.empty_write_buffer(partition, wait=False)
                        if text := reports.worked(doing, now_s=now_s()):
                            log.warning("%s %s", doing, text)
            except _TableReset:
                continue
            except MirrorlogError as error:
                if text := reports.failed(doing, str(error), now_s=now_s()):
                    log.warning("%s: %s", doing, text)
            await asyncio.sleep(_RETRY_S)

    @asynccontextmanager
    async def _open(self, partitions: Sequence[int]) -> AsyncIterator[_ChangelogReading]:
        """Open a reader at the tables' positions; empty those tables that can't be trusted."""
        changelog = self._changelog
        # One thread: it never closes a reader that polls, even if this task is cancelled meanwhile.
        thread = ThreadPoolExecutor(1, "mirrorlog-changelog")

        async def call(function: Callable[..., Result], *arguments: Any) -> Result:
            return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)

        reader: TopicReader | None = None
        try:
            identity = await call(changelog.identity)
            bounds = {
                partition: await call(changelog.bounds, partition) for partition in partitions
            }
            starts = {
                partition: self._start_position(partition, identity, *bounds[partition])
                for partition in partitions
            }
            opened = reader = await call(changelog.open_reader)
            await call(opened.assign, changelog.topic, starts)
            yield _ChangelogReading(
                {partition: end for partition, (_, end) in bounds.items()},
                lambda: call(partial(opened.poll, _POLL_S, max_messages=_ROWS_AT_ONCE)),
                lambda partition: opened.reached(changelog.topic, partition),
            )
        finally:
            if reader is not None:
                thread.submit(reader.close)
            thread.shutdown(wait=False)

    def _start_position(
        self, partition: int, identity: str, first_kept: int, end: int
    ) -> int | None:
        """Return the position to read from; None for the oldest one, into an empty table.

        It is the position of the last row that the table holds: `_check_last_row` compares them.
        """
        position = self._store.changelog_position(partition)
        acknowledged = self._store.acknowledged_end(partition)
        reason = reason_to_rebuild(
            position=position,
            acknowledged=None if acknowledged is None else acknowledged.position,
            origin=self._store.changelog_identity(partition),
            identity=identity,
            first_kept=first_kept,
            end=end,
        )
        if reason is not None or (position is None and acknowledged is None):
            self._reset(partition, identity, reason)
            return None
        return position

    def _reset(self, partition: int, identity: str, reason: str | None) -> None:
        """Empty the partition's table. reason: None if it was empty before."""
        if reason is not None:
            log.warning(
                "the table of partition %d is rebuilt from the changelog: %s", partition, reason
            )
        self._store.reset(partition, identity)

    def _check_last_row(self, message: Message) -> None:
        """Reset the table if the row at its own position is not the one that it holds."""
        partition, key = message.partition, message.key
        if key is None or message.position != self._store.changelog_position(partition):
            return
        stored = self._store.get(partition, key)
        if stored != message.value and stored != later_head(stored, key, message.value):
            self._reset_differing(message)

    def _check_watermark(self, messages: Sequence[Message]) -> None:
        """Reset the table if another row is at the position of its newest acknowledged watermark.

        messages: of one partition, in order.
        """
        partition = messages[0].partition
        end = self._store.acknowledged_end(partition)
        if end is None or (at := end.watermark_position) is None:
            return
        if not messages[0].position <= at <= messages[-1].position:
            return
        message = next((message for message in messages if message.position == at), None)
        if message is not None and (
            message.key != watermark_key(partition)
            or message.value != self._store.acknowledged_watermark(partition)
        ):
            self._reset_differing(message)

    def _reset_differing(self, message: Message) -> None:
        """Empty the table that took another row at the message's position. Raise _TableReset."""
        partition = message.partition
        reason = f"the row at position {message.position} isn't the one that it took there"
        self._reset(partition, self._store.changelog_identity(partition) or "", reason)
        raise _TableReset

    def _write(self, messages: Sequence[Message], gathered: GatheredRows) -> None:
        """Write the rows to their tables, in order. _TableReset if a table was emptied instead."""
        by_partition: dict[int, list[Message]] = defaultdict(list)
        for message in messages:
            by_partition[message.partition].append(message)
        for partition, in_order in by_partition.items():
            self._check_last_row(in_order[0])
            self._check_watermark(in_order)
            rows: list[Row] = []
            positions: list[int] = []
            heads: dict[bytes, bytes | None] = {}
            for message in in_order:
                if (key := message.key) is None:
                    continue
                value = message.value
                if key.startswith(HEAD_PREFIX):
                    known = heads[key] if key in heads else self._store.get(partition, key)
                    value = heads[key] = later_head(known, key, value)
                rows.append((key, value))
                positions.append(message.position)
            self._store.write(partition, rows, positions)
            if (fullest := gathered.add(partition, rows)) is not None:
                self._store.empty_write_buffer(fullest, wait=True)
