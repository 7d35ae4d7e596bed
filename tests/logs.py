"""A tracking log on a broker in memory: commands folded by the real planner, in flushes of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from notation import message

from mirrorlog.changed.logs import TopicLogSource
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import Message, TopicReader
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.streams.fold.flush_plan import FlushRange, plan_flush
from mirrorlog.streams.fold.response import check_command, read_command
from mirrorlog.streams.table.log_table import changelog_rows
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.heads import VolumeHead
from mirrorlog.tracking_log.keys import watermark_key
from mirrorlog.tracking_log.records import LogRecord


class Log:
    """Partition 0 of everything. The changelog is what a node would write; its table is `heads`.

    at_once: how many messages a poll gives at most.
    """

    def __init__(self, volumes: Iterable[Volume]) -> None:
        self.broker, self.topics = MemoryBroker(), Topics()
        self.broker.create(self.topics.specs(single_copy=True), 1)
        self.volumes = {each.volume: each for each in volumes}
        self.heads: dict[str, VolumeHead] = {}
        self.next, self.through = 0, -1
        self._flushes: list[list[int]] = []
        self.at_once = 1000
        self._on_poll: Callable[[], object] = lambda: None
        publisher = self.broker.publisher()
        for each in self.volumes.values():
            publish_volume(publisher, self.topics, each)
        publisher.flush(0)

    def publish(self, commands: Sequence[TrackingCommand | bytes]) -> None:
        """Appends commands, or bytes that aren't one."""
        for each in commands:
            self.broker.append(
                self.topics.commands, 0, b"k", each if isinstance(each, bytes) else encode(each)
            )

    def flush(self, count: int, record_max_bytes: int = 900_000) -> None:
        """Folds the next `count` events that are there."""
        events = self.broker.messages(self.topics.commands)[self.next : self.next + count]
        if not events:
            return
        responses = []
        flush_range = FlushRange(partition=0, first=events[0].position, last=events[-1].position)
        for event in events:
            found = read_command(message(event.position, event.value))
            name = found.volume if isinstance(found, TrackingCommand) else ""
            responses.append(check_command(event, found, self.volumes.get(name)))
        plan = plan_flush(
            flush_range,
            responses,
            (),
            self.heads,
            now_us=99,
            record_max_bytes=record_max_bytes,
            complete_through=self.through,
        )
        rows = [*changelog_rows(plan), (watermark_key(0), encode(plan.watermark))]
        self._flushes.append([self.broker.append(self.topics.changelog, 0, *row) for row in rows])
        self.heads |= {head.volume: head for head in plan.heads}
        self.next, self.through = events[-1].position + 1, plan.watermark.through

    def rewind(self, position: int) -> None:
        """The node starts again from there, with its table ahead: its records overlap what it wrote before."""
        self.next = position

    @property
    def flushes(self) -> int:
        """How many there were."""
        return len(self._flushes)

    def lose_records(self, flushes: Sequence[int]) -> None:
        """Takes the records of these flushes away."""
        gone = {position for flush in flushes for position in self._flushes[flush]}
        found = self.broker.partition(self.topics.changelog, 0)
        found.messages = [m for m in found.messages if m.position not in gone or not _is_record(m)]

    def report(self, progress: SiteProgress) -> None:
        """A site's report."""
        self.broker.append(
            self.topics.progress, 0, f"{progress.site} {progress.volume}".encode(), encode(progress)
        )

    def on_poll(self, act: Callable[[], object]) -> None:
        """Runs `act` whenever somebody polls."""
        self._on_poll = act

    def ports(self) -> QueryPorts:
        """What a query needs."""
        clock = SystemClock()
        catalog = Catalog(self.broker.reader(), self.broker, self.topics, clock)
        logs = TopicLogSource(self.open_reader, self.broker, self.topics.changelog, clock)
        return QueryPorts(self.open_reader, self.broker, catalog, self.topics, clock, logs)

    def open_reader(self) -> TopicReader:
        """A reader that polls as was asked for."""
        return _Reader(self.broker, self._on_poll, self.at_once)


class _Reader(MemoryReader):
    def __init__(self, broker: MemoryBroker, on_poll: Callable[[], object], at_once: int) -> None:
        super().__init__(broker)
        self._on_poll, self._at_once = on_poll, at_once

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        self._on_poll()
        return super().poll(timeout_s, max_messages=min(max_messages, self._at_once))


def _is_record(message: Message) -> bool:
    return message.value is not None and isinstance(decode(message.value, object), LogRecord)
