"""Faust's Kafka transport with two changes.

- The commit gate decides what the consumer commits, not the acknowledgements of Faust's streams.
- The records that one poll brings for a partition of the commands topic are handed on as one
  message, whose value is an EventBatch. Faust wraps every message in several tasks, which costs
  more than folding a small command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from mirrorlog.streams.faust_worker.partition_loops import FetchBudget
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.commit_gate import CommitGate


@dataclass(frozen=True, slots=True)
class _FetchedRecords:
    """The records of one partition that stand in the place of one record."""

    records: Sequence[Any]


class GatedConsumer(driver.Consumer):
    """Faust's consumer. Commits what `gate` allows, and fetches while `fetch_budget` has room."""

    gate: ClassVar[CommitGate]
    fetch_budget: ClassVar[FetchBudget]

    def _new_offset(self, tp: TP) -> int | None:
        """Return the offset to commit; None to commit nothing for this partition."""
        if tp.topic != self.gate.topic:
            return super()._new_offset(tp)
        # Faust's own list of acknowledged offsets is not used: keep it from growing.
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return self.gate.committable_offset(tp.partition)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the committed offsets, and for the commands to where the gate expects them.

        The gate decides: where the log has lost committed commands its partition begins below. And
        aiokafka does not seek to a committed offset of 0: what was fetched and dropped in a
        rebalance would be passed over.
        """
        committed = dict(await super().seek_to_committed())
        expected = {
            tp: self.gate.expected_position(tp.partition)
            for tp in committed
            if tp.topic == self.gate.topic and self.gate.is_assigned(tp.partition)
        }
        if expected:
            await self.seek_wait(expected)
        return committed | expected

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Note that Faust never saw these offsets: not for the commands.

        Between the last offsets of two messages lies a batch, not a gap. BatchFolder finds the real
        gaps.
        """
        if tp.topic != self.gate.topic:
            await super()._add_gap(tp, offset_from, offset_to)

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:
        """Fetch once the budget has room; return (records by partition, active partitions)."""
        has_room: Any = self.fetch_budget.has_room
        await self.wait(has_room)  # it also returns when the consumer is stopped
        records, active = await super()._wait_next_records(timeout)
        if records is None:
            return None, active
        return {
            tp: [_FetchedRecords(fetched)] if tp.topic == self.gate.topic else fetched
            for tp, fetched in records.items()
        }, active

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        """Return Faust's message: for commands one for the whole fetch, at its last offset."""
        if not isinstance(record, _FetchedRecords):
            return super()._to_message(tp, record)
        message: Any = super()._to_message(tp, record.records[-1])
        message.key = None
        message.value = EventBatch(
            tp.topic,
            tp.partition,
            [event.offset for event in record.records],
            [event.key for event in record.records],
            [event.value for event in record.records],
        )
        return message  # type: ignore[no-any-return]


def gated_transport(gate: CommitGate, fetch_budget: FetchBudget) -> type[driver.Transport]:
    """Return a transport class whose consumer uses this gate and this budget."""
    consumer = type("NodeConsumer", (GatedConsumer,), {"gate": gate, "fetch_budget": fetch_budget})
    return type("NodeTransport", (driver.Transport,), {"Consumer": consumer})
