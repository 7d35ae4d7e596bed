"""A tracking log on a broker in memory: the real planner folds commands in flushes of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import notation
from notation import message

from mirrorlog.changed.logs import TopicLogSource
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.codec.command_columns import decode_columns
from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.histories import History
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.streams import Message, TopicReader
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.batch_delays import batch_delays
from mirrorlog.streams.fold.flush_plan import FlushRange, plan_flush
from mirrorlog.streams.fold.response import check_command, read_command
from mirrorlog.streams.table.log_table import changelog_rows
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.keys import delays_key, key_kind, watermark_key
from mirrorlog.tracking_log.publication_delays import PublicationDelays
from mirrorlog.tracking_log.records import LogRecord


class Log:
    """Partition 0 of all topics. The changelog is what a node would write; `heads` is its table.

    at_once: how many messages a poll returns at most.
    history: of the partition. Flushes note publication delays then.
    """

    def __init__(self, volumes: Iterable[Volume], history: History | None = None) -> None:
        self.broker_clock = ManualClock()
        self.broker, self.topics = MemoryBroker(clock=self.broker_clock), Topics()
        self.broker.create(self.topics.specs(single_copy=True), 1)
        self.volumes = {volume.volume: volume for volume in volumes}
        self.heads: dict[str, VolumeHead] = {}
        self.next, self.through = 0, -1
        self.history = history
        self._flushes: list[list[int]] = []
        self.at_once = 1000
        self._on_poll: Callable[[], object] = lambda: None
        publisher = self.broker.publisher()
        for volume in self.volumes.values():
            publish_volume(publisher, self.topics, volume)
        publisher.flush(0)

    def publish(
        self,
        commands: Sequence[TrackingCommand | bytes],
        appended_s: Sequence[float] | None = None,
    ) -> None:
        """Append commands, or bytes that are none.

        appended_s: the broker's time of each. By default the broker's clock agrees with the hosts',
        as far as it only goes forward; it is a millisecond behind, so that a test may ask for the
        time of a command.
        """
        for number, command in enumerate(commands):
            if appended_s is not None:
                self.broker_clock.now_s = appended_s[number]
            elif isinstance(command, TrackingCommand):
                self.broker_clock.now_s = max(
                    self.broker_clock.now_s, command.last_at_us / 1e6 - 0.001
                )
            self.broker.append(
                self.topics.commands,
                0,
                b"k",
                command if isinstance(command, bytes) else encode(command),
            )

    def flush(self, count: int, record_max_bytes: int = 900_000) -> None:
        """Fold the next `count` events."""
        events = self.broker.messages(self.topics.commands)[self.next : self.next + count]
        if not events:
            return
        responses = []
        flush_range = FlushRange(partition=0, first=events[0].position, last=events[-1].position)
        for event in events:
            read = read_command(message(event.position, event.value))
            name = read.volume if isinstance(read, TrackingCommand) else ""
            responses.append(check_command(event, read, self.volumes.get(name)))
        plan = plan_flush(
            flush_range,
            responses,
            (),
            self.heads,
            now_us=99,
            record_max_bytes=record_max_bytes,
            before=Watermark(partition=0, through=self.through, at_us=99, history=self.history),
        )
        rows = [*changelog_rows(plan), (watermark_key(0), encode(plan.watermark))]
        self._flushes.append([self.broker.append(self.topics.changelog, 0, *row) for row in rows])
        self.heads |= {head.volume: head for head in plan.heads}
        self.next, self.through = events[-1].position + 1, plan.watermark.through
        if (delays := self.delays_of(events[0].position, events[-1].position + 1)) is not None:
            self.put_delays([*self.delays(), delays])

    def delays_of(self, first: int, end: int) -> PublicationDelays | None:
        """Return the publication delays of the commands at [first, end), as the node finds them."""
        batch = EventBatch.from_messages(self.broker.messages(self.topics.commands)[first:end])
        responses = []
        for row, position in enumerate(batch.positions):
            read = read_command(batch.message(row))
            name = read.volume if isinstance(read, TrackingCommand) else ""
            event = message(position, batch.values[row])
            responses.append(check_command(event, read, self.volumes.get(name)))
        return batch_delays(batch, decode_columns(batch.values), responses, self.history)

    def delays(self) -> list[PublicationDelays]:
        """Return the publication delays that the log holds, in the order of positions."""
        rows = {
            message.key: message.value
            for message in self.broker.messages(self.topics.changelog)
            if key_kind(message.key or b"") is PublicationDelays
        }
        held = [decode(value, PublicationDelays) for value in rows.values() if value is not None]
        return sorted(held, key=lambda delays: delays.after)

    def put_delays(self, delays: Sequence[PublicationDelays]) -> None:
        """Let the log hold these publication delays and no others."""
        rows: dict[bytes, bytes | None] = {
            delays_key(0, after=part.after): None for part in self.delays()
        }
        rows |= {delays_key(0, after=part.after): encode(part) for part in delays}
        for key, value in rows.items():
            self.broker.append(self.topics.changelog, 0, key, value)

    def rewind(self, position: int) -> None:
        """Start the node again at a position that is behind its table: its new records overlap."""
        self.next = position

    @property
    def flushes(self) -> int:
        """The number of flushes."""
        return len(self._flushes)

    def lose_records(self, flushes: Sequence[int]) -> None:
        """Remove the records of these flushes."""
        gone = {position for flush in flushes for position in self._flushes[flush]}
        changelog = self.broker.partition(self.topics.changelog, 0)
        changelog.messages = [
            m for m in changelog.messages if m.position not in gone or not _is_record(m)
        ]

    def report(self, progress: SiteProgress) -> None:
        """Publish a site's report."""
        self.broker.append(
            self.topics.progress, 0, f"{progress.site} {progress.volume}".encode(), encode(progress)
        )

    def on_poll(self, act: Callable[[], object]) -> None:
        """Call `act` before every poll of every reader."""
        self._on_poll = act

    def ports(self) -> QueryPorts:
        """Return the ports of a query."""
        clock = SystemClock()
        catalog = Catalog(self.broker.reader(), self.broker, self.topics, clock)
        logs = TopicLogSource(self.open_reader, self.broker, self.topics.changelog, clock)
        return QueryPorts(self.open_reader, self.broker, catalog, self.topics, clock, logs)

    def open_reader(self) -> TopicReader:
        """Return a reader with `at_once` and `on_poll`."""
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


def log_written_at(*at_s: float) -> Log:
    """Return a log in which v was written to at these times, each time another block.

    Half a second behind each, the volume `other` was.
    """
    log = Log([notation.volume(), notation.volume("other")])
    for number, second in enumerate(at_s):
        times = {"first_at_us": int(second * 1e6), "last_at_us": int(second * 1e6)}
        of_v = notation.command(f"{number * 4096}+4096", sequence=number, **times)
        of_other = notation.command("0+4096", "other", sequence=number, **times)
        log.publish([of_v, of_other], [second, second + 0.5])
        log.flush(2)
    return log
