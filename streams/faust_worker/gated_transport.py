"""Faust's Kafka transport with four changes.

- The node decides what the consumer commits, not the acknowledgements of Faust's streams.
- What one poll brings of a partition of the commands topic is read by column
  (fetched_columns.py), and handed on as one message, whose value is an EventBatch. Faust wraps
  every message in several tasks, which costs more than folding a small command.
- Large records are sent with fewer copies (large_records.py).
- A watch of mirrorlog's own finds partitions on which the worker is stuck (partition_watch.py says
  what is wrong with Faust's).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from aiokafka import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from mirrorlog.adapters.schema_registry.wire_format import WireFormat
from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.errors import KafkaFailed
from mirrorlog.streams.engine import BatchSink, CommitPositions
from mirrorlog.streams.faust_worker.fetched_columns import FetchedColumns, fetch_by_column
from mirrorlog.streams.faust_worker.large_answers import receive_in_place
from mirrorlog.streams.faust_worker.large_records import send_in_place
from mirrorlog.streams.faust_worker.partition_watch import PartitionView, PartitionWatch
from mirrorlog.streams.fold.batch import EventBatch

log = logging.getLogger("mirrorlog.node")

_REGISTRY_RETRY_S: Final = 2.0


class ColumnThread(driver.AIOKafkaConsumerThread):
    """Faust's thread of the consumer. It hands on the commands by column."""

    consumer: GatedConsumer

    def _create_consumer(self, loop: asyncio.AbstractEventLoop) -> Any:
        """Return aiokafka's consumer, which isn't started."""
        consumer: Any = super()._create_consumer(loop)
        receive_in_place(consumer._client)
        return consumer

    async def _fetch_records(self, consumer: Any, *arguments: Any, **named: Any) -> Any:
        """Return what was fetched, by partition: of a partition of the commands FetchedColumns."""
        commands = self.consumer
        fetch_by_column(consumer._fetcher, commands.gate.topic, with_headers=commands.with_headers)
        return await super()._fetch_records(consumer, *arguments, **named)


class LargeRecordProducer(driver.Producer):
    """Faust's producer. It sends large records with fewer copies (large_records.py)."""

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        producer: Any = super()._new_producer(transactional_id)
        send_in_place(producer)
        return producer


class GatedConsumer(driver.Consumer):
    """Faust's consumer. Commits what `gate` allows, and fetches while `batches` has room.

    stuck: what is stuck, by partition. wire_format: of commands, if there is a schema registry.
    with_headers: whether batches have the headers of their events.
    """

    wire_format: ClassVar[WireFormat | None]
    gate: ClassVar[CommitPositions]
    batches: ClassVar[BatchSink]
    stuck: ClassVar[dict[int, str]]
    with_headers: ClassVar[bool]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._watch = PartitionWatch(self.app.conf.stream_processing_timeout)
        self._stuck_reports = RetryReports()
        self._handed_on: dict[int, int] = {}

    def _new_consumer_thread(self) -> ColumnThread:
        return ColumnThread(self, loop=self.loop, beacon=self.beacon)

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
        self._watch.clear()
        self._handed_on.clear()
        self.stuck.clear()
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
        """Fetch once there is room; return (records by partition, active partitions)."""
        has_room: Any = self.batches.has_room
        await self.wait(has_room)  # it also returns when the consumer is stopped
        records, active = await super()._wait_next_records(timeout)
        if records is None:
            return None, active
        if self.wire_format is not None and await self._learn_schemas(self.wire_format, records):
            active = self._get_active_partitions()  # it took a moment
        return records, active

    async def _learn_schemas(self, wire_format: WireFormat, records: Mapping[TP, Any]) -> bool:
        """Ask the registry for the schemas of commands that aren't known. Return whether one was.

        While it doesn't answer nothing is handed on, as if nothing had been fetched: a command
        that can't be read may hold addresses.
        """
        commands = (
            value
            for tp, fetched in records.items()
            if tp.topic == self.gate.topic
            for columns in fetched
            for value in columns.values
        )
        unknown = wire_format.unknown_ids(commands)
        for schema_id in unknown:
            await self._learn_schema(wire_format, schema_id)
        return bool(unknown)

    async def _learn_schema(self, wire_format: WireFormat, schema_id: int) -> None:
        """Ask the registry until it answers, or the consumer stops and hands nothing on anyway."""
        while not self.should_stop:
            try:
                await asyncio.to_thread(wire_format.learn, schema_id)
                return
            except KafkaFailed as error:
                log.warning("commands wait for the schema with id %d: %s", schema_id, error)
                await self.sleep(_REGISTRY_RETRY_S)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        """Return Faust's message: for commands one for the whole fetch, at its last offset."""
        if not isinstance(record, FetchedColumns):
            return super()._to_message(tp, record)
        message: Any = super()._to_message(tp, record.last)
        message.key = None
        message.value = EventBatch(
            tp.topic,
            tp.partition,
            record.offsets,
            record.keys,
            self._plain_values(record.values),
            record.timestamps[-1] * 1000 if record.ends_by_broker else None,
            record.timestamps if record.all_by_broker else None,
            record.headers,
        )
        self._handed_on[tp.partition] = record.offsets[-1]
        return message  # type: ignore[no-any-return]

    def _plain_values(self, values: Sequence[bytes | None]) -> Sequence[bytes | None]:
        """Return the values of commands in the plain format."""
        return values if self.wire_format is None else list(map(self.wire_format.incoming, values))

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Look whether the worker is stuck on a partition of the commands, and log it.

        Faust calls it about once a second for each assigned partition, the changelog's too, unless
        a rebalance is under way. now: monotonic seconds.
        """
        if tp.topic != self.gate.topic or not self.gate.is_assigned(tp.partition):
            return
        look = self._watch.look(tp.partition, self._view(tp), now_s=now)
        if look.stuck is None:
            self.stuck.pop(tp.partition, None)
        else:
            self.stuck[tp.partition] = look.stuck
        if look.stuck is not None:
            if text := self._stuck_reports.failed(tp.partition, look.stuck, now_s=now):
                log.error("partition %d is stuck: %s", tp.partition, text)
        elif look.is_well and (text := self._stuck_reports.worked(tp.partition, now_s=now)):
            log.warning("partition %d %s", tp.partition, text)

    def _view(self, tp: TP) -> PartitionView:
        """Return what is known of an assigned partition of the commands topic."""
        consumer: Any = self._thread
        subscription = consumer._ensure_consumer()._fetcher._subscriptions.subscription
        assignment = None if subscription is None else subscription.assignment
        state = assignment and assignment.state_value(TopicPartition(tp.topic, tp.partition))
        return PartitionView(
            fetch_mark=(state.timestamp, state.highwater) if state else None,
            handed_on=self._handed_on.get(tp.partition),
            recorded=self.gate.expected_position(tp.partition),
            committed=self._committed_offset[tp] or 0,
        )


def gated_transport(
    gate: CommitPositions,
    batches: BatchSink,
    stuck: dict[int, str],
    wire_format: WireFormat | None = None,
    *,
    with_headers: bool = False,
) -> type[driver.Transport]:
    """Return a transport class whose consumer commits and fetches as these say.

    stuck: where the consumer notes, by partition, what is stuck. wire_format: with a registry.
    with_headers: see GatedConsumer.
    """
    parts = {
        "gate": gate,
        "batches": batches,
        "stuck": stuck,
        "wire_format": wire_format,
        "with_headers": with_headers,
    }
    consumer = type("NodeConsumer", (GatedConsumer,), parts)
    clients = {"Consumer": consumer, "Producer": LargeRecordProducer}
    return type("NodeTransport", (driver.Transport,), clients)
