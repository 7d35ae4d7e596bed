"""The table that holds the tracking log, and the order in which a flush becomes durable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.flush_plan import FlushPlan
from mirrorlog.streams.table.local_store import LocalStore, Row
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.keys import beat_key, head_key, record_key, watermark_key

Send: TypeAlias = Callable[[Sequence[Outgoing]], Awaitable[list[int]]]
"""Sends messages in order; their positions, once every in-sync replica has them all. ChangelogRefused where it can't be."""


class LogTable:
    """The tracking log of the partitions that this worker has."""

    def __init__(self, send: Send, store: LocalStore, topics: Topics, gate: CommitGate) -> None:
        self._send, self._store, self._topics, self._gate = send, store, topics, gate
        self._flushed: dict[int, dict[str, int]] = defaultdict(dict)

    def heads(self, partition: int, volumes: Sequence[str]) -> dict[str, VolumeHead]:
        """The heads of those volumes that have one."""
        found = {volume: self._store.get(partition, head_key(volume)) for volume in volumes}
        return {
            volume: decode(value, VolumeHead)
            for volume, value in found.items()
            if value is not None
        }

    def complete_through(self, partition: int) -> int:
        """Up to which position the partition's log is complete."""
        value = self._store.get(partition, watermark_key(partition))
        return BEFORE_FIRST if value is None else decode(value, Watermark).through

    def get(self, partition: int, key: bytes) -> bytes | None:
        """A row's value."""
        return self._store.get(partition, key)

    def keys(
        self, partition: int, start: bytes, end: bytes, limit: int | None = None
    ) -> list[bytes]:
        """The first `limit` keys from `start` on and below `end`, in their order."""
        return self._store.keys(partition, start, end, limit)

    def take_flushed(self, partition: int) -> Mapping[str, int]:
        """The volumes of which a flush wrote a record since the last call, and the position after which it begins."""
        return self._flushed.pop(partition, {})

    async def append(self, partition: int, rows: Sequence[Row]) -> None:
        """Rows that no flush wrote: acknowledged by the changelog, then in the local store. One call at a time, and none
        beside a flush of the partition: the store tells its place in the changelog by the last one."""
        if rows:
            positions = await self._send(
                [Outgoing(self._topics.changelog, partition, *row) for row in rows]
            )
            self._store.write(partition, rows, positions)

    async def repeat_watermark(self, partition: int) -> None:
        """The watermark once more, so that what was appended counts: readers wait for it."""
        key = watermark_key(partition)
        if (value := self._store.get(partition, key)) is not None:
            await self.append(partition, [(key, value)])

    async def flush(self, plan: FlushPlan) -> None:
        """Executes a plan. The order keeps the data safe (invariants 2, 3, 5, 11):

        1. What is put aside goes first: refused events to the quarantine, misplaced ones to their partition, marks for
           what is missing to the commands, volumes that a command changed to their descriptions; every acknowledgement is
           waited for. Once a head is written, a replay takes these commands for known and wouldn't mark anything; and
           whoever reads it must find the description that it names.
        2. Records, heads and heartbeats go to the changelog, acknowledged too.
        3. The watermark goes to the changelog: only now does the log claim to be complete up to there.
        4. The local store takes the same, with the changelog's position: never ahead of the changelog.
        5. Every command is answered.
        6. The gate opens: the source offset may be committed.

        A crash between any two steps repeats them: the same range gives the same records under the same keys.
        ChangelogRefused where a message isn't acknowledged; nothing behind that step has happened then.
        """
        partition, topics = plan.partition, self._topics
        aside = [
            Outgoing(topics.quarantine, 0, each.key, encode(each)) for each in plan.quarantined
        ]
        aside += [
            Outgoing(topics.commands, to, message.key, message.value)
            for to, message in plan.forwarded
        ]
        aside += [
            Outgoing(topics.commands, partition, each.volume.encode(), encode(each))
            for each in plan.marks
        ]
        aside += [
            Outgoing(topics.volumes, 0, each.volume.encode(), encode(each))
            for each in plan.descriptions
        ]
        await self._send(aside)  # 1
        rows = changelog_rows(plan)
        positions = await self._send(
            [Outgoing(topics.changelog, partition, *row) for row in rows]
        )  # 2
        mark = (watermark_key(partition), encode(plan.watermark))
        positions += await self._send([Outgoing(topics.changelog, partition, *mark)])  # 3
        self._store.write(partition, [*rows, mark], positions)  # 4
        for record in (*plan.records, *(packed.header for packed in plan.packed)):
            self._flushed[partition].setdefault(record.volume, record.after)
        replies = [
            Outgoing(
                topics.status,
                partition,
                status.volume.encode() if status.volume else None,
                encode(status),
            )
            for status in plan.statuses
        ]
        replies += [
            Outgoing(topics.status, partition, each.volume.encode(), encode(each))
            for each in plan.accepted
        ]
        await self._send(replies)  # 5
        self._gate.mark_durable(partition, plan.last)  # 6


def changelog_rows(plan: FlushPlan) -> list[Row]:
    """What a flush writes to the table before its watermark."""
    return [
        *((record_key(record), encode(record)) for record in plan.records),
        *((record_key(packed.header), encode(packed)) for packed in plan.packed),
        *((head_key(head.volume), encode(head)) for head in plan.heads),
        *((beat_key(beat.session), encode(beat)) for beat in plan.beats),
        *((beat_key(session), None) for session in plan.ended_sessions),
    ]
