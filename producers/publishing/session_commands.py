"""The tracking commands of one session: made, numbered and counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.ports.clock import Clock
from mirrorlog.producers.batches.batch import ClosedBatch
from mirrorlog.producers.publishing.acknowledged_positions import AcknowledgedPositions

NO_EXTENTS: Final = ClosedBatch(ExtentColumns.of(()))


@dataclass(frozen=True, slots=True)
class CommandSource:
    """The host and the session that send commands, and the topic that they send them to.

    ask_end: asks where a partition of the topic ends, before the session's first command there.
        With it, every command names a position that was acknowledged when it was made. By that the
        node tells it from bytes that are sent again, so a host with a key has it.
    """

    topic: str
    host: str
    session: str
    ask_end: Callable[[int], int] | None = None


@dataclass(slots=True)
class WrittenCount:
    """What WRITES commands of a session name of one volume: extents, and their bytes."""

    writes: int = 0
    size_bytes: int = 0


class SessionCommands:
    """Makes the commands of one session. The caller holds the outbox's lock.

    A command has the sequence number that follows the last one counted of its volume. So the caller
    counts a command that was queued before it makes the next one.

    commands, extents: the number of commands and extents counted.
    written: by volume, what the counted WRITES commands name.
    """

    def __init__(
        self, source: CommandSource, clock: Clock, positions: AcknowledgedPositions
    ) -> None:
        self.commands = 0
        self.extents = 0
        self.written: Final[defaultdict[str, WrittenCount]] = defaultdict(WrittenCount)
        self._source: Final = source
        self._clock: Final = clock
        self._positions: Final = positions
        self._sequences: Final[defaultdict[tuple[str, int], int]] = defaultdict(int)

    def make(
        self,
        kind: CommandKind,
        partition: int,
        *,
        volume: str = "",
        generation: str = "",
        batch: ClosedBatch = NO_EXTENTS,
        note: str | None = None,
        for_session: str | None = None,
    ) -> TrackingCommand:
        """Return the session's next command. volume: empty for all its volumes in the partition.

        for_session: see Outbox.send().
        """
        now_us = self._clock.now_us()
        return TrackingCommand(
            volume=volume,
            generation=generation,
            host=self._source.host,
            session=for_session or self._source.session,
            sequence=-1 if for_session else self._sequences[volume, partition],
            kind=kind,
            extents=batch.extents,
            first_at_us=now_us if batch.first_at_us is None else batch.first_at_us,
            last_at_us=now_us,
            acknowledged_position=self._positions.for_command(partition),
            note=note,
            forks=batch.forks,
        )

    def count(self, partition: int, command: TrackingCommand, volume_bytes: int = 0) -> None:
        """Count a command that was queued. volume_bytes: the size of its volume."""
        if command.session == self._source.session:
            self._sequences[command.volume, partition] += 1
        self.commands += 1
        self.extents += len(command.extents)
        if command.kind is CommandKind.WRITES:
            written = self.written[command.volume]
            written.writes += len(command.extents)
            written.size_bytes += command.extents.total_bytes(longest=volume_bytes)

    def count_resent(self) -> None:
        """Count a command of an earlier session that was queued again."""
        self.commands += 1
