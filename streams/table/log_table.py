"""LogTable: the table of the tracking log, and the order in which a flush becomes durable."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.errors import OutOfRetention
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.flush_plan import FlushPlan
from mirrorlog.streams.table.flush_counters import FlushCounters
from mirrorlog.streams.table.local_store import LocalStore, Row
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.heads import SessionBeat, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import (
    RECORD_PREFIX,
    beat_key,
    head_key,
    position_time_key,
    read_record_key,
    record_key,
    watermark_key,
)

SendMessages: TypeAlias = Callable[[Sequence[Outgoing]], Awaitable[list[int]]]
"""Sends messages in order and returns their offsets once every in-sync replica has all of them.

ChangelogRefused if they can't be acknowledged.
"""
SignOwn: TypeAlias = Callable[[int, TrackingCommand, bytes], Iterable[tuple[str, bytes]]]
"""Takes a partition of the commands topic, a command of the node and its bytes."""
OnWritten: TypeAlias = Callable[[int, Sequence[Row]], None]
"""Takes a partition, and rows that were written to its table."""


class LogTable:
    """The tracking log of the partitions that this worker has.

    A flush and an `append` of the same partition must never run at the same time: the store
    remembers its position in the changelog by the last one.

    on_written: called with the rows that were written to the store; None: nobody wants to know.
    sign: makes the headers of the node's own commands; None: they have none.
    counters: what was written since the worker's start.
    """

    def __init__(
        self,
        send: SendMessages,
        store: LocalStore,
        topics: Topics,
        gate: CommitGate,
        on_written: OnWritten | None = None,
        sign: SignOwn | None = None,
    ) -> None:
        self._send, self._store, self._topics, self._gate = send, store, topics, gate
        self._on_written, self._sign = on_written, sign
        self._flushed: dict[int, dict[str, int]] = defaultdict(dict)
        self.counters: Final = FlushCounters()
        # By partition, the highest position of a row that this worker appended.
        self._acknowledged: dict[int, int] = {}
        self._with_strangers: set[int] = set()
        self._doubted: set[int] = set()

    def heads(self, partition: int, volumes: Sequence[str]) -> dict[str, VolumeHead]:
        """Return the heads of those volumes that have one, by name."""
        values = {volume: self._store.get(partition, head_key(volume)) for volume in volumes}
        return {
            volume: decode(value, VolumeHead)
            for volume, value in values.items()
            if value is not None
        }

    def watermark(self, partition: int) -> Watermark | None:
        """Return the partition's watermark, None if the log has none."""
        value = self._store.get(partition, watermark_key(partition))
        return None if value is None else decode(value, Watermark)

    def beats(self, partition: int, sessions: Collection[str]) -> dict[str, int]:
        """Return the position of the last heartbeat of those sessions that have one, by name."""
        values = {session: self._store.get(partition, beat_key(session)) for session in sessions}
        return {
            session: decode(value, SessionBeat).position
            for session, value in values.items()
            if value is not None
        }

    def complete_through(self, partition: int) -> int:
        """Return the position through which the partition's log is complete."""
        watermark = self.watermark(partition)
        return BEFORE_FIRST if watermark is None else watermark.through

    def discarded(self, partition: int) -> dict[bytes, bytes]:
        """Return the watermark and the heads of tables that were discarded (LocalStore)."""
        return self._store.discarded(partition)

    def forget_discarded(self, partition: int) -> None:
        """Forget the rows of tables that were discarded."""
        self._store.forget_discarded(partition)

    def get(self, partition: int, key: bytes) -> bytes | None:
        """Return the value of the row with this key, None if the table has no such row."""
        return self._store.get(partition, key)

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        """Return the keys in [start, end) in their order, at most the first `limit` of them."""
        return self._store.keys(partition, start, end, limit)

    def empty_write_buffer(self, partition: int) -> None:
        """Let the rows that the table gathers in memory go to a file soon (RowStore)."""
        self._store.empty_write_buffer(partition, wait=False)

    def take_flushed(self, partition: int) -> Mapping[str, int]:
        """Return the volumes of which a flush wrote a record since the last call.

        The value is the `after` of the first such record.
        """
        return self._flushed.pop(partition, {})

    async def append(self, partition: int, rows: Sequence[Row]) -> None:
        """Write rows that belong to no flush: to the changelog, acknowledged, then to the store.

        Raise ChangelogRefused if a row isn't acknowledged, and OutOfRetention if the changelog went
        back in time; the store is unchanged then.
        """
        if rows:
            positions = await self._send_rows(partition, rows)
            self._write(partition, rows, positions)
            for key, value in rows:
                if value is not None and key.startswith(RECORD_PREFIX):
                    self.counters.note_record(read_record_key(key).tier)

    def _write(self, partition: int, rows: Sequence[Row], positions: Sequence[int]) -> None:
        """Write acknowledged rows to the store.

        The store's changelog position moves only if nobody else's rows lie before or between these.
        A worker that lost the partition may still send some. The table lacks them, so the next
        start reads the changelog from the position where they began.
        """
        end = self._store.changelog_position(partition)
        if end is not None and max(positions) != end + len(positions):
            positions = [end] * len(rows)
        self._store.write(partition, rows, positions)
        if self._on_written is not None:
            self._on_written(partition, rows)

    async def _send_rows(self, partition: int, rows: Sequence[Row]) -> list[int]:
        """Append rows to the changelog; return their positions there, acknowledged.

        Raise OutOfRetention if they lie at or below the table's position there. The table then
        holds rows that no reader will ever see.
        """
        topic = self._topics.changelog
        positions = await self._send([Outgoing(topic, partition, *row) for row in rows])
        stored = self._store.changelog_position(partition)
        end = max(
            BEFORE_FIRST if stored is None else stored,
            self._acknowledged.get(partition, BEFORE_FIRST),
        )
        if positions and min(positions) <= end:
            raise OutOfRetention(
                f"the broker went back in time: a row of the log was acknowledged at position "
                f"{min(positions)}, and an earlier one at {end}",
                where=f"topic {topic}, partition {partition}",
                next="Start the node again: it rebuilds its table, and renews the history of the "
                "partition if commands were lost too.",
            )
        if positions:
            before = self._acknowledged.get(partition)
            if before is not None and max(positions) != before + len(positions):
                self._with_strangers.add(partition)
                self._doubted.add(partition)
            self._acknowledged[partition] = max(positions)
        return positions

    def take_strangers(self, partition: int) -> bool:
        """Return whether others appended rows among this worker's since the last call.

        A worker that has lost the partition may have: its heads may have taken the place of this
        one's for whoever reads the changelog after compaction. A transaction's marker looks alike.
        """
        has_some = partition in self._with_strangers
        self._with_strangers.discard(partition)
        return has_some

    def take_doubt(self, partition: int) -> bool:
        """Return the same as take_strangers(), since the last call of this one.

        Whoever has appended them may have renewed the history of the partition, too.
        """
        is_doubted = partition in self._doubted
        self._doubted.discard(partition)
        return is_doubted

    async def repeat_watermark(self, partition: int) -> None:
        """Append the partition's watermark again, so that readers let what was appended count."""
        key = watermark_key(partition)
        if (value := self._store.get(partition, key)) is not None:
            await self._probe(partition)
            await self.append(partition, [(key, value)])

    async def _probe(self, partition: int) -> None:
        """Append a row that says nothing. Raise OutOfRetention if the changelog went back in time.

        A watermark must never be the first row after that: it would claim rows that are gone.
        """
        await self.append(partition, [(position_time_key(partition, at_us=0), None)])

    async def complete_empty(self, partition: int, *, through: int, now_us: int) -> None:
        """Move the watermark to `through`. No command may lie between it and that position.

        The order is that of a flush: the changelog, the store, the gate. No command is at
        `through`, so the watermark has no anchor.
        """
        value = self._store.get(partition, watermark_key(partition))
        known = (
            Watermark(partition=partition, through=BEFORE_FIRST, at_us=now_us)
            if value is None
            else decode(value, Watermark)
        )
        anchor = known.anchor if known.through >= through else None
        moved = replace(known, through=max(known.through, through), at_us=now_us, anchor=anchor)
        await self._probe(partition)
        await self.append(partition, [(watermark_key(partition), encode(moved))])
        self._gate.mark_durable(partition, through=through)

    async def flush(self, plan: FlushPlan) -> None:
        """Execute a plan. The order keeps the data safe (invariants 2, 3, 5, 11):

        1. Messages to other topics go first: refused events to the quarantine, events of another
           partition there, MARK_DIRTY commands for missing ones to the commands, and volumes that a
           command changed to their descriptions. All are acknowledged before step 2. Once a head is
           written, a replay takes these commands for known and marks nothing dirty. And a reader of
           a head must find the description that the head names.
        2. Records, heads and heartbeats go to the changelog. All are acknowledged before step 3.
        3. The watermark goes to the changelog. Only now does the log claim to be complete through
           the flush.
        4. The local store takes the same rows, with their changelog positions. So it is never ahead
           of the changelog. No row is left out because the store has its blocks already.
        5. Every command is answered.
        6. The commit gate advances: the source offset may be committed.

        A crash between two steps repeats them: the same range gives the same records under the same
        keys. Raise ChangelogRefused if a message isn't acknowledged, and OutOfRetention if the
        changelog went back in time; no later step has happened then.

        Sites read the rows next (LogReader.poll in mirrorlog/reading/log_reader.py).
        """
        partition, began_s = plan.flush_range.partition, time.perf_counter()
        await self._send(self._messages_aside(plan))  # 1
        rows = changelog_rows(plan)
        if not rows:
            await self._probe(partition)
        positions = await self._send_rows(partition, rows)  # 2
        watermark = (watermark_key(partition), encode(plan.watermark))
        positions += await self._send_rows(partition, [watermark])  # 3
        self._write(partition, [*rows, watermark], positions)  # 4
        for record in (*plan.records, *(packed.header for packed in plan.packed)):
            self._flushed[partition].setdefault(record.volume, record.after)
        await self._send(self._replies(plan))  # 5
        self._gate.mark_durable(partition, through=plan.flush_range.last)  # 6
        self.counters.note_flush(plan, time.perf_counter() - began_s)

    def _messages_aside(self, plan: FlushPlan) -> list[Outgoing]:
        """Return what a flush sends to topics other than the changelog before its records."""
        partition, topics = plan.flush_range.partition, self._topics
        messages = [
            Outgoing(topics.quarantine, 0, event.key, encode(event)) for event in plan.quarantined
        ]
        messages += [
            Outgoing(topics.commands, to_partition, message.key, message.value)
            for to_partition, message in plan.forwarded
        ]
        messages += [self._own_command(partition, command) for command in plan.mark_dirty]
        messages += [
            Outgoing(topics.volumes, 0, volume.volume.encode(), encode(volume))
            for volume in plan.descriptions
        ]
        return messages

    def _own_command(self, partition: int, command: TrackingCommand) -> Outgoing:
        topic, value = self._topics.commands, encode(command)
        headers = () if self._sign is None else self._sign(partition, command, value)
        return Outgoing(topic, partition, command.volume.encode(), value, tuple(headers))

    def _replies(self, plan: FlushPlan) -> list[Outgoing]:
        partition, topic = plan.flush_range.partition, self._topics.status
        replies = [
            Outgoing(
                topic, partition, status.volume.encode() if status.volume else None, encode(status)
            )
            for status in plan.statuses
        ]
        replies += [
            Outgoing(topic, partition, accepted.volume.encode(), encode(accepted))
            for accepted in plan.accepted
        ]
        return replies


def changelog_rows(plan: FlushPlan) -> list[Row]:
    """Return the rows that a flush writes to the table before its watermark."""
    return [
        *((record_key(record), encode(record)) for record in plan.records),
        *((record_key(packed.header), encode(packed)) for packed in plan.packed),
        *((head_key(head.volume), encode(head)) for head in plan.heads),
        *((beat_key(beat.session), encode(beat)) for beat in plan.beats),
        *((beat_key(session), None) for session in plan.ended_sessions),
    ]
