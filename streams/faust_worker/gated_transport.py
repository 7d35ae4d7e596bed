"""Faust's Kafka transport, with the commit gate deciding what its consumer commits, and batches for messages.

Faust wraps every message that it hands on in several tasks, which costs more than folding a small command. What was
fetched of one partition of the commands topic is therefore handed on as one message, whose value is an EventBatch.
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
    """Records of one partition in the place of one record."""

    records: Sequence[Any]


class GatedConsumer(driver.Consumer):
    """Faust's consumer, with the gate deciding what is committed and the fetch_budget when more is fetched."""

    gate: ClassVar[CommitGate]
    fetch_budget: ClassVar[FetchBudget]

    def _new_offset(self, tp: TP) -> int | None:
        if tp.topic != self.gate.topic:
            return super()._new_offset(tp)
        # Faust's own list of acknowledged offsets has no use any more: it mustn't grow.
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return self.gate.committable_offset(tp.partition)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        # The gate knows better: where the log lost what was committed its partition begins below. And aiokafka doesn't go to
        # a committed position that is 0: what was fetched and dropped in a rebalance would be passed over.
        found = dict(await super().seek_to_committed())
        mine = [
            tp
            for tp in found
            if tp.topic == self.gate.topic and self.gate.is_assigned(tp.partition)
        ]
        begins = {tp: self.gate.expected_position(tp.partition) for tp in mine}
        if begins:
            await self.seek_wait(begins)
        return found | begins

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        # Between the last positions of two batches lies a batch, not a gap. Of real ones the node asks what they were.
        if tp.topic != self.gate.topic:
            await super()._add_gap(tp, offset_from, offset_to)

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:
        room: Any = (
            self.fetch_budget.room
        )  # ends when there is room, and when the consumer is stopped
        await self.wait(room)
        found, active = await super()._wait_next_records(timeout)
        if found is None:
            return None, active
        return {
            tp: [_FetchedRecords(each)] if tp.topic == self.gate.topic else each
            for tp, each in found.items()
        }, active

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if not isinstance(record, _FetchedRecords):
            return super()._to_message(tp, record)
        message: Any = super()._to_message(tp, record.records[-1])
        message.key = None
        message.value = EventBatch(
            tp.topic,
            tp.partition,
            [each.offset for each in record.records],
            [each.key for each in record.records],
            [each.value for each in record.records],
        )
        return message  # type: ignore[no-any-return]


def gated_transport(gate: CommitGate, fetch_budget: FetchBudget) -> type[driver.Transport]:
    """A transport whose consumer asks `gate` and `fetch_budget`."""
    consumer = type("NodeConsumer", (GatedConsumer,), {"gate": gate, "fetch_budget": fetch_budget})
    return type("NodeTransport", (driver.Transport,), {"Consumer": consumer})
