"""The table that holds the tracking log: a Faust table whose changelog is acknowledged before anything else happens.

Faust's own `table[key] = value` writes the local store at once and sends the changelog record without waiting for it.
Nothing here uses it: `flush` sends, waits, and only then writes the local store, through the store's public batch call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import faust
from faust.types import TP

from mirrorlog.codec import decode, encode
from mirrorlog.streams.acknowledged import Outgoing, send_all
from mirrorlog.streams.commit_gate import CommitGate
from mirrorlog.streams.log import FlushPlan
from mirrorlog.topics import Topics
from mirrorlog.tracking_log import VolumeHead, Watermark, beat_key, head_key, record_key, watermark_key


class LogTable:
    """The tracking log of the partitions that this worker has."""

    def __init__(
        self, app: faust.App, topics: Topics, gate: CommitGate, hold_back_s: float, options: Mapping[str, int]
    ):
        self._app, self._topics, self._gate, self._hold_back_s = app, topics, gate, hold_back_s
        self._table: Any = app.Table(
            "log",
            key_type=bytes,
            value_type=bytes,
            changelog_topic=app.topic(topics.changelog, key_serializer="raw", value_serializer="raw", compacting=True),
            options=dict(options),
        )

    @property
    def faust_table(self) -> Any:
        """The table itself, for its signals."""
        return self._table

    def heads(self, partition: int, volumes: Sequence[str]) -> dict[str, VolumeHead]:
        """The heads of those volumes that have one."""
        store = self._store(partition)
        found = {volume: store.get(head_key(volume)) for volume in volumes}
        return {volume: decode(value, VolumeHead) for volume, value in found.items() if value is not None}

    def watermark(self, partition: int) -> Watermark | None:
        """Through which position the partition's log is complete."""
        value = self._store(partition).get(watermark_key(partition))
        return None if value is None else decode(value, Watermark)

    def _store(self, partition: int) -> Any:
        # Faust's store finds the partition by the current event, and there is none in a batch: ask by its number.
        return self._table.data._db_for_partition(partition)

    async def flush(self, plan: FlushPlan) -> None:
        """Executes a plan. The order keeps the data safe (invariants 2, 3, 5, 11):

        1. Records, heads and heartbeats go to the changelog, and every acknowledgement is waited for.
        2. Refused events go to the quarantine, misplaced ones to their partition; acknowledged too.
        3. The watermark goes to the changelog: only now does the log claim to be complete up to there.
        4. The local store takes the same, with the changelog's offset in the same step: never ahead of the changelog.
        5. Every command is answered.
        6. The gate opens: the source offset may be committed.

        A crash between any two steps repeats them: the same range gives the same records under the same keys.
        ChangelogRefused where a message isn't acknowledged; nothing behind that step has happened then.
        """
        producer, partition = self._app.producer, plan.partition
        changelog: list[tuple[bytes, bytes | None]] = []
        changelog += [(record_key(record), encode(record)) for record in plan.records]
        changelog += [(head_key(head.volume), encode(head)) for head in plan.heads]
        changelog += [(beat_key(beat.session), encode(beat)) for beat in plan.beats]
        changelog += [(beat_key(session), None) for session in plan.ended_sessions]
        offsets = await send_all(producer, self._changelog(partition, changelog), self._hold_back_s)
        aside = [Outgoing(self._topics.quarantine, 0, q.key, encode(q)) for q in plan.quarantined]
        aside += [Outgoing(self._topics.commands, to, m.key, m.value) for to, m in plan.forwarded]
        await send_all(producer, aside, self._hold_back_s)
        mark: list[tuple[bytes, bytes | None]] = [(watermark_key(partition), encode(plan.watermark))]
        offsets += await send_all(producer, self._changelog(partition, mark), self._hold_back_s)
        self._write_locally(partition, changelog + mark, offsets)
        replies = [
            Outgoing(self._topics.status, partition, s.volume.encode() if s.volume else None, encode(s))
            for s in plan.statuses
        ]
        await send_all(producer, replies, self._hold_back_s)
        self._gate.durable(partition, plan.watermark.through)

    def _changelog(self, partition: int, rows: Sequence[tuple[bytes, bytes | None]]) -> list[Outgoing]:
        return [Outgoing(self._topics.changelog, partition, key, value) for key, value in rows]

    def _write_locally(
        self, partition: int, rows: Sequence[tuple[bytes, bytes | None]], offsets: Sequence[int]
    ) -> None:
        tp = TP(self._topics.changelog, partition)
        events = [
            SimpleNamespace(message=SimpleNamespace(tp=tp, partition=partition, offset=offset, key=key, value=value))
            for (key, value), offset in zip(rows, offsets, strict=True)
        ]
        self._table.data.apply_changelog_batch(events, to_key=None, to_value=None)
