"""BatchFolder: the way of one batch of events to the durable log. Faust brings the batches."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

from mirrorlog.domain.histories import anchor_of
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.errors import OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.reading.catalog import Catalog
from mirrorlog.streams.fold.authenticity import HostKeySource
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.batch_plan import BatchPlanner, LogRows, PlannedFlush
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.flush_plan import FlushPlan
from mirrorlog.tracking_log.publication_delays import PublicationDelays

_PAUSE_S: Final = 2.0
"""After a pause of the stream that is longer, the broker may have gone back in time: it takes a
restart, or the election of a leader that lagged behind."""


class DurableLog(LogRows, Protocol):
    """The part of LogTable that the fold needs (streams/table/log_table.py)."""

    def take_doubt(self, partition: int) -> bool:
        """Return whether others appended rows to the partition since the last call."""

    async def complete_empty(self, partition: int, *, through: int, now_us: int) -> None:
        """Move the watermark to `through`, behind which no command is missing."""

    async def flush(self, plan: FlushPlan) -> None:
        """Make the plan durable. Raise ChangelogRefused if the broker doesn't take it."""


class CommandsSource(Protocol):
    """The part of SourceTopic that the fold needs (streams/partitions/source_topic.py)."""

    def gap_reason(self, partition: int, *, first: int, end: int) -> str | None:
        """Return what happened to the commands in [first, end).

        None: there are none, as behind the marker of a transaction. The call blocks: it asks the
        broker.
        """

    def batches(self, partition: int, *, first: int, end: int) -> Iterator[EventBatch]:
        """Yield the commands in [first, end) that are kept. Each step blocks."""


class LogMaintenance(Protocol):
    """The part of LogCompactor that the fold needs (streams/compaction/compactor.py)."""

    def note_appended(self, partition: int, *, through: int, at_us: int | None) -> None:
        """Note when the broker appended the command at `through`; None if nobody knows."""

    def note_delays(self, delays: PublicationDelays) -> None:
        """Note the delays of commands that the log has recorded."""

    async def work(self, partition: int) -> float:
        """Do a little work; return in how many seconds at the latest there is more."""

    def revoke(self, partitions: Iterable[int]) -> None:
        """Forget what is known of the partitions' records."""


class Histories(Protocol):
    """The part of PartitionHistories that the fold needs (streams/history/)."""

    async def doubt(self, partition: int) -> str | None:
        """Return what shows that the history ended since the last flush; None if nothing does.

        Raise as check_not_renewed().
        """

    async def check_not_renewed(self, partition: int) -> None:
        """Raise OutOfRetention if another worker has renewed the history."""

    async def renew(self, partition: int, reason: str) -> int:
        """Renew the history; return the position from which the commands are folded again."""


class BatchFolder:
    """Makes batches of commands durable in the log, and maintains the log between two batches.

    Call `record` and `maintain` for one partition one after the other, never at the same time.
    While `record` runs, `plan_ahead` may plan the batch behind it.
    """

    def __init__(
        self,
        log: DurableLog,
        gate: CommitGate,
        catalog: Catalog,
        source: CommandsSource,
        *,
        clock: Clock,
        record_max_bytes: int,
        compactor: LogMaintenance,
        histories: Histories,
    ) -> None:
        self._log, self._gate, self._source = log, gate, source
        self._clock, self._compactor, self._histories = clock, compactor, histories
        self._planner = BatchPlanner(log, catalog, clock, record_max_bytes=record_max_bytes)
        self._recorded_at_s: dict[int, float] = {}
        self._in_flight: dict[int, FlushPlan] = {}

    def judge_by(self, host_keys: HostKeySource | None) -> None:
        """Judge the codes of commands by these keys from now on. None: the node has no keys."""
        self._planner.judge_by(host_keys)

    def plan_ahead(self, batch: EventBatch) -> PlannedFlush | None:
        """Plan the flush of a batch while `record` makes the batch before it durable.

        Nothing is written, sent or asked. Return None if that can't be (BatchPlanner.plan_after),
        or if no flush of the partition is under way: `record` plans the batch then.
        """
        plan = self._in_flight.get(batch.partition)
        return None if plan is None else self._planner.plan_after(batch, plan)

    async def record(self, batch: EventBatch, ahead: PlannedFlush | None = None) -> None:
        """Make one batch durable in the log. Every exception must stop the node.

        ahead: what plan_ahead returned for this batch. It is used only if everything that it was
        made of is still so when the batch's turn has come (BatchPlanner.is_current).

        1. `_check_continues`: no command lies unread before the batch or inside it (invariant 7).
        2. `_ended_reason`: the commands that the log holds are still the ones that it recorded.
        3. `BatchPlanner.plan` decodes the commands, checks and answers each of them (response), and
           turns its extents into addresses inside its volume (extraction). `plan_flush` makes them
           records, heads and a watermark (log, planned).
        4. `LogTable.flush`: the plan is written, and the gate advances (log, durable).

        What the log holds already is flushed by itself (a replay): folded together with new
        commands it would make a site copy again what it has.

        If step 2 or a command of step 3 shows that the history of the partition ended, it is
        renewed, and what the topic holds now is folded in the place of the batch.

        The gate must have been told where the partition begins (`CommitGate.assign`).
        """
        await self._check_continues(batch.partition, batch.positions)
        reason = await self._ended_reason(batch)
        if reason is None:
            reason = await self._fold(batch, ahead)
        if reason is not None:
            await self._fold_again(batch, reason)
        self._recorded_at_s[batch.partition] = self._clock.monotonic_s()

    async def _fold(self, batch: EventBatch, ahead: PlannedFlush | None = None) -> str | None:
        """Flush the batch. Return what shows that the history ended, with nothing flushed then."""
        watermark = self._log.watermark(batch.partition)
        through = BEFORE_FIRST if watermark is None else watermark.through
        for part in batch.split_after(through):
            planned: PlannedFlush | str
            if ahead is not None and ahead.batch is part and self._planner.is_current(ahead):
                planned = ahead
            else:
                before = self._log.watermark(batch.partition)
                planned = await self._planner.plan(part, before)
            if isinstance(planned, str):
                return planned
            await self._flush(planned)
        self._compactor.note_appended(
            batch.partition, through=batch.positions[-1], at_us=batch.appended_us
        )
        return None

    async def _flush(self, planned: PlannedFlush) -> None:
        partition = planned.batch.partition
        self._in_flight[partition] = planned.plan
        try:
            await self._log.flush(planned.plan)
        finally:
            del self._in_flight[partition]
        if planned.delays is not None:
            self._compactor.note_delays(planned.delays)

    async def _ended_reason(self, batch: EventBatch) -> str | None:
        """Return what shows that the history ended before the batch; None if nothing does.

        The command at the watermark tells (its anchor). A replay brings it. Otherwise it is read
        from the topic, but only after a pause: a broker can't go back in time while it delivers.
        Or if others appended rows to the log: another worker may have renewed the history.
        """
        watermark = self._log.watermark(batch.partition)
        if watermark is None:
            return None
        row = bisect_left(batch.positions, watermark.through)
        if row < len(batch.positions) and batch.positions[row] == watermark.through:
            anchor = anchor_of(batch.keys[row], batch.values[row])
            if watermark.anchor in (None, anchor):
                return None
            return f"the command at position {watermark.through} was read again, and is another one"
        paused_s = self._clock.monotonic_s() - self._recorded_at_s.get(batch.partition, 0.0)
        if self._log.take_doubt(batch.partition) or paused_s > _PAUSE_S:
            return await self._histories.doubt(batch.partition)
        return None

    async def _fold_again(self, batch: EventBatch, reason: str) -> None:
        """Renew the history, and fold what the topic holds now up to the end of the batch.

        The batch itself may come from before the broker went back in time. It isn't folded: what
        follows it in the stream is a replay then, or the consumer begins anew.
        """
        partition = batch.partition
        await self._histories.check_not_renewed(partition)
        start = await self._histories.renew(partition, reason)
        self._gate.assign(partition, position=start)
        self._compactor.revoke([partition])
        batches = self._source.batches(partition, first=start, end=batch.positions[-1] + 1)
        while (again := await asyncio.to_thread(next, batches, None)) is not None:
            if (reason_again := await self._fold(again)) is not None:
                raise OutOfRetention(
                    f"the history of the partition ended again at once: {reason_again}",
                    where=f"topic {self._gate.topic}, partition {partition}",
                    next="Start the node again when the broker runs steadily.",
                )

    def recorded_end(self, partition: int) -> int:
        """Return the first position of the partition that isn't in the log."""
        return self._gate.expected_position(partition)

    async def pass_empty(self, partition: int, end: int) -> None:
        """Let the log be complete up to `end` if no command lies between the log and `end`.

        Positions without a command are those of a transaction's markers. If there is a command,
        nothing happens: it is on its way here.
        """
        first = self._gate.expected_position(partition)
        if first < end and not await self._reason_of_gap(partition, first=first, end=end):
            await self._log.complete_empty(partition, through=end - 1, now_us=self._clock.now_us())

    async def maintain(self, partition: int) -> float:
        """Do a little work on the partition's log between two batches.

        Return in how many seconds at the latest there is more work.
        """
        return await self._compactor.work(partition)

    async def _check_continues(self, partition: int, positions: Sequence[int]) -> None:
        """Raise OutOfRetention if commands lie between the log and the batch, or inside the batch.

        positions: of the batch, ascending. A jump over positions that hold no command is allowed.
        """
        expected = self._gate.expected_position(partition)
        if positions[0] <= expected and positions[-1] - positions[0] == len(positions) - 1:
            return
        for position in positions:
            if position > expected and (
                reason := await self._reason_of_gap(partition, first=expected, end=position)
            ):
                raise OutOfRetention(
                    f"commands at positions {expected} to {position - 1} {reason}",
                    where=f"topic {self._gate.topic}, partition {partition}",
                    next="Nothing behind them is committed. Start the node again; if they were "
                    "deleted it says what to do.",
                )
            expected = max(expected, position + 1)

    async def _reason_of_gap(self, partition: int, *, first: int, end: int) -> str | None:
        return await asyncio.to_thread(self._source.gap_reason, partition, first=first, end=end)
