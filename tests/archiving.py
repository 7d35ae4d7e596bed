"""A commands topic, a log and an archive in memory, for tests of archives."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from mirrorlog.archive.archive import Archive, CommandsWanted
from mirrorlog.codec.events import encode
from mirrorlog.consumers.archive.archiver import Archiver, ArchiverPorts, RowFileMaker, no_row_files
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.domain.histories import NO_EPOCH, History, anchor_of
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.streams import Message
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_archive import MemoryArchive
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

SESSION = str(UUID(int=7))
GENERATION = str(UUID(int=9))


def described(name: str, size_bytes: int = 1 << 30, *, epoch: int = NO_EPOCH) -> Volume:
    """Return the description of a volume of ArchiveWorld."""
    return Volume(
        volume=name,
        generation=GENERATION,
        size_bytes=size_bytes,
        block_size=4096,
        partition=0,
        origin_position=-1,
        initially_zeroed=True,
        primary="",
        epoch=epoch,
    )


class ArchiveWorld:
    """One partition of commands, and what the node recorded of it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.broker = MemoryBroker(clock=self.clock)
        self.topics = Topics()
        self.broker.create(self.topics.specs(single_copy=True), partitions=1)
        self.store = MemoryArchive()
        self.epoch = 1
        self._sequence = 0

    @property
    def history(self) -> History:
        """The history that the node records in."""
        return History(
            cluster=self.broker.cluster_id(),
            topic=self.broker.identity(self.topics.commands),
            epoch=self.epoch,
            id=str(UUID(int=self.epoch)),
        )

    def write(self, volume: str = "vol1", extents: Iterable[tuple[int, int]] = ((0, 4096),)) -> int:
        """Append a command of writes; return its position."""
        self._sequence += 1
        now_us = self.clock.now_us()
        command = TrackingCommand(
            volume=volume,
            generation=GENERATION,
            host="host1",
            session=SESSION,
            sequence=self._sequence,
            kind=CommandKind.WRITES,
            extents=ExtentColumns.of(Extent(offset, length) for offset, length in extents),
            first_at_us=now_us,
            last_at_us=now_us,
        )
        return self.append(volume.encode(), encode(command))

    def append(self, key: bytes | None, value: bytes | None) -> int:
        """Append a message to the commands; return its position."""
        return self.broker.append(self.topics.commands, 0, key, value)

    def record(self, through: int | None = None) -> None:
        """Let the log be complete through a position; None: through the last one."""
        topic = self.topics.commands
        position = self.broker.end_position(topic, 0) - 1 if through is None else through
        anchor = next(
            (
                anchor_of(message.key, message.value)
                for message in self.broker.partition(topic, 0).messages
                if message.position == position
            ),
            None,
        )
        watermark = Watermark(
            partition=0,
            through=position,
            at_us=self.clock.now_us(),
            history=self.history,
            anchor=anchor,
        )
        self.broker.append(self.topics.changelog, 0, watermark_key(0), encode(watermark))

    def renew(self) -> None:
        """Let the node renew the partition's history, and record all that is there now."""
        self.epoch += 1
        self.record()

    def archiver(
        self,
        *,
        range_bytes: int = 1 << 20,
        accepts_hole: bool = False,
        make_rows: RowFileMaker = no_row_files,
    ) -> Archiver:
        """Return a new archiver, as a new process has one."""
        ports = ArchiverPorts(
            store=self.store,
            open_reader=self.broker.reader,
            admin=self.broker,
            topics=self.topics,
            clock=self.clock,
            make_rows=make_rows,
        )
        return Archiver(ports, accepts_hole=accepts_hole, range_bytes=range_bytes)

    def in_topic(self) -> list[tuple[int, bytes | None, bytes | None, int]]:
        """Return the messages of the topic."""
        return as_rows(self.broker.messages(self.topics.commands))

    def in_archive(self) -> list[tuple[int, bytes | None, bytes | None, int]]:
        """Return the messages of the archive's line for the present topic."""
        archive = Archive(self.store)
        line = archive.line(0, self.broker.identity(self.topics.commands))
        return as_rows(archive.commands(line, CommandsWanted(-1, 1 << 62)))


def as_rows(messages: Iterable[Message]) -> list[tuple[int, bytes | None, bytes | None, int]]:
    """Return what must be the same in topic and archive."""
    return [(m.position, m.key, m.value, m.at_us) for m in messages]
