"""The world's node: the real fold and the real compaction, on a table in memory."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from copy import copy
from random import Random
from typing import Any, TypeVar

from mirrorlog.codec.events import encode
from mirrorlog.ports.streams import Message
from mirrorlog.ports.tracing import Tracer
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.commands_now import anchor_at, commands_now
from mirrorlog.reading.read_through import ReadPatience
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings
from mirrorlog.simulation.coroutines import CoroutineRunner
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_engine import MemoryStore
from mirrorlog.simulation.world.crashes import Fuse
from mirrorlog.streams.compaction.compactor import CompactionSettings, LogCompactor
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.batch_plan import BatchPlanner, PlannedFlush
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.flush_plan import FlushPlan
from mirrorlog.streams.fold.fold_batch import BatchFolder
from mirrorlog.streams.fold.traced_batches import TracedFolder
from mirrorlog.streams.history.partition_histories import PartitionHistories
from mirrorlog.streams.history.renewal import RenewalPorts
from mirrorlog.streams.partitions.start_positions import PartitionBounds, plan_start_position
from mirrorlog.streams.questions.answering_folder import AnsweringFolder
from mirrorlog.streams.questions.open_questions import OpenQuestions
from mirrorlog.streams.questions.question_reader import read_question
from mirrorlog.streams.questions.table_census import TableCensus
from mirrorlog.streams.table.changelog_follower import ChangelogFollower, ChangelogSource
from mirrorlog.streams.table.log_table import LogTable, changelog_rows
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.tracking_log.breaks import CommandsNow

T = TypeVar("T")

_RECORD_MAX_BYTES = 400
_CLOCK_STEP_S = 0.3
_COMMANDS_AT_ONCE = 20
_AHEAD_SHARE = 0.5
"""The share of sends during which the next batch is planned, until it is."""
_AHEAD_COMMANDS = 6
_TABLE_FILE_S = 300.0
_FILE_SHARE = 0.1
"""The share of sends before which the table's rows go to a file."""
_LOST_BUFFER_SHARE = 0.5
"""The share of crashes, of those that leave the disk, that lose the rows that are in no file."""


class _Source:
    """The commands topic as the node asks about it. A command in a gap was passed over."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self._broker, self._topic = broker, topic
        self._patience = ReadPatience(ManualClock(look_s=_CLOCK_STEP_S), 60.0, "reading commands")

    def cluster_id(self) -> str:
        return self._broker.cluster_id()

    def commands_now(self, partition: int, position: int) -> CommandsNow:
        broker = self._broker
        return commands_now(broker.reader, broker, self._topic, partition, position, self._patience)

    def anchor_at(self, partition: int, position: int) -> bytes | None:
        return anchor_at(self._broker.reader, self._topic, partition, position, self._patience)

    def batches(self, partition: int, *, first: int, end: int) -> Iterator[EventBatch]:
        messages = [
            message
            for message in self._broker.partition(self._topic, partition).messages
            if first <= message.position < end
        ]
        for start in range(0, len(messages), _COMMANDS_AT_ONCE):
            yield EventBatch.from_messages(messages[start : start + _COMMANDS_AT_ONCE])

    def gap_reason(self, partition: int, *, first: int, end: int) -> str | None:
        messages = self._broker.partition(self._topic, partition).messages
        is_empty = all(not first <= message.position < end for message in messages)
        return None if is_empty else "were lost"


class _WatchedTable(LogTable):
    """A table that calls `before_flush` with each plan before anything of it is sent."""

    before_flush: Callable[[FlushPlan], None]

    async def flush(self, plan: FlushPlan) -> None:
        """Execute a plan."""
        self.before_flush(plan)
        await super().flush(plan)

    def written(self, plan: FlushPlan) -> list[object]:
        """Return everything that a flush writes and sends."""
        rows = [*changelog_rows(plan), encode(plan.watermark)]
        return [plan.flush_range, *self._messages_aside(plan), *rows, *self._replies(plan)]


class NodeModel:
    """One worker with partition 0.

    store: its table. After a crash it is there, or the rows that are in no file yet are lost, or
        all of it. What is lost is read again from the changelog.

    While it sends what it records, it plans the next batch now and then, as PartitionLoops does.
    Each such plan that is used is compared with what would be planned in its turn.

    planned_ahead: how many plans were used that were made ahead. dropped_plans: how many weren't.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        settings: Settings,
        fuse: Fuse,
        random: Random,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer, self._coroutines = tracer, CoroutineRunner()
        self._broker, self._settings, self._fuse, self._random = broker, settings, fuse, random
        # Draws of its own: other draws of the world don't depend on when the node sends.
        self._ahead_random = Random()
        self._ahead_random.setstate(random.getstate())
        self.planned_ahead = self.dropped_plans = 0
        self._committed = 0
        self._clock = ManualClock(look_s=_CLOCK_STEP_S)
        self._file_random = Random()
        self._file_random.setstate(random.getstate())
        self.store = MemoryStore(self._fuse.step)
        self.start()

    def start(self) -> None:
        """Start the worker again, as after a crash.

        The table follows the changelog, and the history of the partition is renewed if it ended.
        """
        if self._random.random() < 0.5:
            self.store.lose(0)
        elif self._file_random.random() < _LOST_BUFFER_SHARE:
            self.store.lose_write_buffer(0)
        topic, broker = self._settings.topics.changelog, self._broker
        changelog = ChangelogSource(
            topic,
            broker.reader,
            lambda partition: (
                broker.first_position(topic, partition),
                broker.end_position(topic, partition),
            ),
            lambda: broker.identity(topic),
        )
        self._coroutines.run(ChangelogFollower(self.store, changelog).catch_up([0]))
        self._build()
        self._coroutines.run(self._assign())

    async def _assign(self) -> None:
        """Begin where the history or the log says, as PartitionHandover does."""
        topics, broker = self._settings.topics, self._broker
        first_kept, end = (
            broker.first_position(topics.commands, 0),
            broker.end_position(topics.commands, 0),
        )
        self._catalog.refresh()
        start = await self._histories.enter(0)
        if start is None:
            bounds = PartitionBounds(first_kept, end, self._committed)
            start = plan_start_position(bounds, self._table.complete_through(0))
        self._position = start
        self._gate.assign(0, position=start)

    def left_behind(self) -> NodeModel:
        """Return a worker that doesn't know that it has lost the partition.

        Its table stays as this one's is now, except for what it writes itself.
        """
        other = copy(self)
        other._clock, other._fuse = copy(self._clock), Fuse()
        other.store = self.store.copied(other._fuse.step)
        other.store.forget_discarded(0)
        other._build()
        other._catalog.refresh()
        other._gate.assign(0, position=other._committed)
        return other

    def _build(self) -> None:
        topics = self._settings.topics
        self._ahead: PlannedFlush | None = None
        self._using: PlannedFlush | None = None
        self._recorded_end = 0
        self._gate = CommitGate(topics.commands)
        census = TableCensus(self.store)
        self._table = table = _WatchedTable(
            self.send, self.store, topics, self._gate, census.note_rows
        )
        table.before_flush = self._check_ahead
        self._catalog = catalog = Catalog(
            self._broker.reader(), self._broker, topics, ManualClock(look_s=_CLOCK_STEP_S)
        )
        source = _Source(self._broker, topics.commands)
        self._histories = PartitionHistories(
            RenewalPorts(table, self.send, catalog, topics), source, self._clock
        )
        compaction = CompactionSettings(
            self._settings.node_tiers_s, self._settings.node_keep_s, None, 45, _TABLE_FILE_S
        )
        self._folder = BatchFolder(
            table,
            self._gate,
            catalog,
            source,
            clock=self._clock,
            record_max_bytes=_RECORD_MAX_BYTES,
            compactor=LogCompactor(table, catalog, self._reports, self._clock, compaction),
            histories=self._histories,
        )
        self._questions = OpenQuestions()
        self._answering = AnsweringFolder(
            self._folder, self._questions, census, table, source, self._clock
        )
        self._question_reader = self._broker.reader()
        for name in topics.mirrored_questions:
            self._question_reader.assign(name, {0: None})

    def fold(self, max_messages: int) -> bool:
        """Fold one batch of commands; False if there is none."""
        if self._position > self._broker.end_position(self._settings.topics.commands, 0):
            self._position = 0  # Kafka's client begins anew at the oldest position
        messages = self._commands_from(self._position)
        if not messages:
            end = self._broker.end_position(self._settings.topics.commands, 0)
            self._coroutines.run(self._folder.pass_empty(0, end))
            return False
        folder: BatchFolder | TracedFolder = self._folder
        if self._tracer is not None:
            folder = TracedFolder(self._folder, self._tracer, self._clock)
        ahead, self._ahead = self._ahead, None
        if ahead is None or not _begins_with(messages, ahead.batch):
            ahead, batch = None, EventBatch.from_messages(messages[:max_messages])
        else:
            batch = ahead.batch
        self._using = ahead
        self._recorded_end = batch.positions[-1] + 1
        self._coroutines.run(folder.record(batch, ahead))
        if self._using is not None:
            self.dropped_plans += 1
        self._position = self._recorded_end
        return True

    def _commands_from(self, position: int) -> list[Message]:
        """Return the commands at or above a position."""
        return self._broker.partition(self._settings.topics.commands, 0).messages_from(position)

    def _plan_ahead(self) -> None:
        """Plan the batch behind the one that is recorded, if there is one."""
        limit = self._ahead_random.randint(1, _AHEAD_COMMANDS)
        messages = self._commands_from(self._recorded_end)[:limit]
        if messages:
            self._ahead = self._folder.plan_ahead(EventBatch.from_messages(messages))

    def _check_ahead(self, plan: FlushPlan) -> None:
        """Compare a plan that was made ahead, and is about to be written, with one made now."""
        ahead = self._using
        if ahead is None or ahead.plan is not plan:
            return
        self._using = None
        self.planned_ahead += 1
        planner = BatchPlanner(
            self._table,
            self._catalog,
            ManualClock(now_s=(plan.watermark.at_us + 0.5) / 1e6),  # when it was made
            record_max_bytes=_RECORD_MAX_BYTES,
        )
        in_turn = _result_at_once(planner.plan(ahead.batch, self._table.watermark(0)))
        assert isinstance(in_turn, PlannedFlush), in_turn
        assert self._table.written(plan) == self._table.written(in_turn.plan), (
            "what was planned ahead isn't what would be planned now"
        )
        assert ahead.delays == in_turn.delays

    @property
    def history_id(self) -> str | None:
        """The id of the history that the node's log has."""
        watermark = self._table.watermark(0)
        return watermark.history.id if watermark and watermark.history else None

    def knows_sessions(self) -> bool:
        """Return whether the log names a session of every volume."""
        heads = self._table.heads(0, list(self._catalog))
        return all(name in heads and heads[name].sessions for name in self._catalog)

    def note_outage(self) -> None:
        """Let time pass in which nothing comes from the broker."""
        self._clock.now_s += 10

    def maintain(self) -> bool:
        """Answer questions, and do a little compaction; False if there is none to do for now."""
        for message in self._question_reader.poll(0):
            if (question := read_question(message)) is not None:
                self._questions.take(question)
        return self._coroutines.run(self._answering.maintain(0)) == 0

    def commit(self) -> None:
        """Commit the source offset as far as the gate allows it."""
        self._committed = self._gate.committable_offset(0) or 0

    def _reports(self) -> SiteReports:
        return SiteReports(self._broker.reader(), self._broker, self._settings.topics, self._clock)

    async def send(self, messages: Sequence[Outgoing]) -> list[int]:
        """Append the messages; return their positions. Each is a step of the fuse."""
        positions = []
        if self._ahead is None and self._ahead_random.random() < _AHEAD_SHARE:
            self._plan_ahead()
        if self._file_random.random() < _FILE_SHARE:
            self.store.empty_write_buffer(0, wait=False)
        for message in messages:
            self._fuse.step()
            positions.append(
                self._broker.append(
                    message.topic, message.partition or 0, message.key, message.value
                )
            )
        self._fuse.step()
        return positions


def _begins_with(messages: Sequence[Message], batch: EventBatch) -> bool:
    first = messages[: len(batch.positions)]
    return [(message.position, message.key, message.value) for message in first] == list(
        zip(batch.positions, batch.keys, batch.values, strict=True)
    )


def _result_at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that waits for nothing; AssertionError if it waits."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")
