"""When the broker appended the commands of a partition: it ties times to positions.

The commands topic tells, and an archive of it, for the commands that they keep. Below them, and for
commands that were appended while the topic held hosts' times, the log's position times tell, less
finely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mirrorlog.changed.partition_commands import PartitionCommands
from mirrorlog.codec.events import decode
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.streams import Message
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import position_times_prefix
from mirrorlog.tracking_log.position_times import consistent_times, position_at, position_behind

_MS: Final = 1000
"""Kafka's times are milliseconds, rounded down."""
_LOOK_BACK: Final = (1, 100)
"""How many positions below a command the one before it is looked for, first and then."""


@dataclass(frozen=True, slots=True)
class _Split:
    """Where a time splits the commands that are kept.

    position: of the first command appended at the time or later; the end if there is none.
    below: whether everything below the position was appended before the time, by the broker's
        clock. above: whether everything else was appended at the time or later.
    """

    position: int
    below: bool
    above: bool


class AppendTimes:
    """Answers for the partition of one volume. Every answer is rounded outwards."""

    def __init__(self, volume: Volume, commands: PartitionCommands, changelog: str) -> None:
        """volume: the description. changelog: the name of the topic with the position times."""
        self._volume, self._commands, self._changelog = volume, commands, changelog
        self._times: list[Watermark] | None = None

    def before(self, at_us: int, *, watermark: int) -> tuple[int, bool]:
        """Return (position, exact): every command through it was appended before the time.

        exact: the command behind it was appended at the time or later, in the same millisecond at
        the earliest. Otherwise some behind it may have been appended before, too; the position is
        BEFORE_FIRST if nothing is known. watermark: the log is complete through it.
        """
        at_us = max(at_us // _MS * _MS, 0)
        split = self._split(at_us)
        if split.below:
            return split.position - 1, True
        return position_at(self._position_times(watermark), at_us - 1), False

    def through(self, at_us: int, *, watermark: int) -> int | None:
        """Return a position above which no command was appended at the time or before.

        Return None if no such position is known. watermark: the log is complete through it.
        """
        split = self._split(max((at_us // _MS + 1) * _MS, 0))
        if not split.above:
            return None
        through = split.position - 1
        if split.below:
            return through
        # What isn't kept below the position may all have been appended later.
        noted = position_behind(self._position_times(watermark), at_us)
        return through if noted is None else min(through, noted)

    def _split(self, at_us: int) -> _Split:
        commands = self._commands
        position, end = commands.appended_from(at_us)
        before: Message | None = None
        above = position == end
        for back in _LOOK_BACK:
            start = commands.kept_from(position - back)
            for message in commands.messages(start=start, end=min(position + 1, end)):
                if message.position >= position:
                    above = message.by_broker
                else:
                    before = message
            if before is not None or start > position - back:
                break
        # From a message with the broker's time on, all have it.
        below = position == 0 if before is None else before.by_broker
        return _Split(position, below, above)

    def _position_times(self, watermark: int) -> list[Watermark]:
        """Return the position times of the partition's history, in the order of time.

        They are read once, from the whole log of the partition.
        """
        if self._times is None:
            self._times = self._read_times()
        return consistent_times(self._times, complete_through=watermark)

    def _read_times(self) -> list[Watermark]:
        volume, topic, commands = self._volume, self._changelog, self._commands
        prefix, rows = position_times_prefix(volume.partition), dict[bytes, bytes | None]()
        end = commands.admin.end_position(topic, volume.partition)
        for message in commands.read_topic(topic, volume.partition, start=None, end=end):
            if message.key is not None and message.key.startswith(prefix):
                rows[message.key] = message.value
        times = [decode(value, Watermark) for value in rows.values() if value is not None]
        return [time for time in times if _is_of(time, volume)]


def _is_of(time: Watermark, volume: Volume) -> bool:
    """Return whether the time may be of the volume's history of the partition."""
    known = time.history and volume.history_id
    return not known or (time.history is not None and time.history.id == volume.history_id)
