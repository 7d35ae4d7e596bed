"""The node's table after weeks of writes, and the commands topic that it came from, simulated.

A volume of 1 TiB takes WRITES_A_SECOND writes of 4 KiB. Nine of ten go to the hot hundredth of it,
the others anywhere, at random. The table has what the log's roll-ups leave: a record for each of
the last seconds, of the last hours' minutes, of each hour and of each day. Records of one tier
share a few sets of blocks, so that weeks are made in a minute; their number, ranges and sizes are
real. It has the publication delays, too, as the node keeps them: one row a minute for six hours,
and one an hour before that. The commands are made when they are read.

The one host sends a command when it holds 500 writes, and the broker appends it 5 ms later.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from mirrorlog.codec.events import encode
from mirrorlog.domain.bitmaps import BlockSet, PackedBlocks, pack
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.histories import History
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.streams import Message
from mirrorlog.settings import Settings
from mirrorlog.streams.compaction.rollups import RangeBlocks, cut_to_size
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.keys import delays_key, head_key, record_key, watermark_key
from mirrorlog.tracking_log.publication_delays import PublicationDelays
from mirrorlog.tracking_log.record_parts import PackedRecord
from mirrorlog.tracking_log.records import LogRecord

VOLUME_BYTES, BLOCK = 1 << 40, 4096
BLOCKS: Final = VOLUME_BYTES // BLOCK
HOT_BLOCKS: Final = BLOCKS // 100
EXTENTS_A_COMMAND: Final = 500
BEGAN_US: Final = 1_800_000_000_000_000
HOUR_S, DAY_S = 3600, 86_400
SECONDS_KEPT_S, MINUTES_KEPT_S = 360, 3 * HOUR_S
DELAY_MINUTES_KEPT_S: Final = 6 * HOUR_S
_APPENDED_AFTER_US: Final = 5000
_FETCHED: Final = 125
"""Commands of 8 KB that Kafka's client gets at a time: 1 MiB."""
_MADE_MAX: Final = 5000
_VARIANTS: Final = 2
GENERATION: Final = "11111111-1111-4111-8111-111111111111"
HISTORY: Final = History(
    cluster=None, topic=None, epoch=1, id="22222222-2222-4222-8222-222222222222"
)


@dataclass(frozen=True)
class AuditState:
    """A volume that was written to for `days` and two and a half hours. Hours are kept for ever.

    touched_blocks: all writes go to so many blocks, the first of the volume; 0: nine of ten go to a
        hundredth of the volume, and one to the rest.
    """

    days: int
    writes_a_second: int
    touched_blocks: int = 0

    @property
    def commands_a_second(self) -> int:
        """The number of commands that hosts published in a second."""
        return self.writes_a_second // EXTENTS_A_COMMAND

    @property
    def seconds(self) -> int:
        """For how long the volume was written to."""
        return self.days * DAY_S + 2 * HOUR_S + HOUR_S // 2

    @property
    def end(self) -> int:
        """The position behind the last command."""
        return self.seconds * self.commands_a_second

    @cached_property
    def volume(self) -> Volume:
        """The volume's description."""
        return Volume(
            volume="vol-0001",
            generation=GENERATION,
            size_bytes=VOLUME_BYTES,
            block_size=BLOCK,
            partition=0,
            origin_position=-1,
            initially_zeroed=True,
            primary="nbd://primary",
            created_at_us=BEGAN_US,
            history_id=HISTORY.id,
            epoch=HISTORY.epoch,
        )

    def made_at_us(self, position: int) -> int:
        """Return when the last write of a command was made, by its host's clock."""
        return BEGAN_US + position * 1_000_000 // self.commands_a_second

    def first_made_at_us(self, position: int) -> int:
        """Return when the first write of a command was made: behind the command before it."""
        return self.made_at_us(position) - 1_000_000 // self.commands_a_second

    def appended_at_us(self, position: int) -> int:
        """Return when the broker appended a command, in whole milliseconds as Kafka does."""
        return (self.made_at_us(position) + _APPENDED_AFTER_US) // 1000 * 1000

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of the node's table."""
        for tier, width_s, spans in self._spans():
            variants = [self._parts(width_s, seed) for seed in range(_VARIANTS)]
            for number, second in enumerate(spans):
                yield from self._record(tier, second, width_s, variants[number % _VARIANTS])
        for first_s, end_s in self._delay_spans():
            delays = self._delays(first_s * self.commands_a_second, end_s * self.commands_a_second)
            yield delays_key(0, after=delays.after), encode(delays)
        head = VolumeHead(self.volume.volume, GENERATION, through=self.end - 1, epoch=HISTORY.epoch)
        yield head_key(self.volume.volume), encode(head)
        mark = Watermark(
            partition=0,
            through=self.end - 1,
            at_us=self.made_at_us(self.end),
            history=HISTORY,
        )
        yield watermark_key(0), encode(mark)

    def _spans(self) -> Iterator[tuple[int, int, range]]:
        """Yield tiers with the width of their records and the seconds at which records begin."""
        whole_minutes = self.seconds // 60 * 60
        whole_hours = self.seconds // HOUR_S * HOUR_S
        yield 0, 1, range(max(0, self.seconds - SECONDS_KEPT_S), self.seconds)
        yield 1, 60, range(max(0, whole_minutes - MINUTES_KEPT_S), whole_minutes, 60)
        yield 2, HOUR_S, range(0, whole_hours, HOUR_S)
        yield 3, DAY_S, range(0, self.days * DAY_S, DAY_S)

    def _delay_spans(self) -> Iterator[tuple[int, int]]:
        """Yield the seconds at which rows of publication delays begin and end."""
        minutes_from = max(0, self.seconds - DELAY_MINUTES_KEPT_S) // HOUR_S * HOUR_S
        yield from ((first, first + HOUR_S) for first in range(0, minutes_from, HOUR_S))
        yield from ((first, first + 60) for first in range(minutes_from, self.seconds, 60))

    def _delays(self, first: int, end: int) -> PublicationDelays:
        """Return the delays of the commands at [first, end)."""
        positions = range(first, min(end, first + 1000))
        appended = [(position, self.appended_at_us(position)) for position in positions]
        return PublicationDelays(
            partition=0,
            history_id=HISTORY.id,
            after=first - 1,
            through=end - 1,
            first_appended_us=self.appended_at_us(first),
            last_appended_us=self.appended_at_us(end - 1),
            longest_us=max(at_us - self.first_made_at_us(position) for position, at_us in appended),
            shortest_us=min(at_us - self.made_at_us(position) for position, at_us in appended),
        )

    def _parts(self, width_s: int, seed: int) -> list[tuple[PackedBlocks, PackedBlocks]]:
        """Return the packed bitmaps of the parts of a record with that many seconds of writes."""
        random = np.random.default_rng(seed)
        blocks = self.drawn(random, width_s * self.writes_a_second)
        pieces = []
        for start in range(0, BLOCKS, 1 << 26):
            mask = BlockSet.of_range(start, start + (1 << 26))
            if here := blocks & mask:
                pieces.append(RangeBlocks(here, BlockSet()))
        cut = cut_to_size(pieces, Settings().node_record_max_bytes)
        return [(pack(piece.changed), pack(piece.zeroed)) for piece in cut if piece]

    def drawn(self, random: np.random.Generator, writes: int) -> BlockSet:
        """Return the blocks that so many writes change."""
        if self.touched_blocks:
            return _random_blocks(random, 0, self.touched_blocks, writes)
        cold = writes // 10
        return _random_blocks(random, 0, HOT_BLOCKS, writes - cold) | _random_blocks(
            random, HOT_BLOCKS, BLOCKS - HOT_BLOCKS, cold
        )

    def _record(
        self,
        tier: int,
        second: int,
        width_s: int,
        parts: Sequence[tuple[PackedBlocks, PackedBlocks]],
    ) -> Iterator[tuple[bytes, bytes]]:
        first = second * self.commands_a_second
        end = first + width_s * self.commands_a_second
        writes = width_s * self.writes_a_second
        for number, (changed, zeroed) in enumerate(parts):
            header = LogRecord(
                volume=self.volume.volume,
                generation=GENERATION,
                tier=tier,
                after=first - 1,
                through=end - 1,
                block_size=BLOCK,
                changed=BlockSet(),
                zeroed=BlockSet(),
                first_at_us=self.first_made_at_us(first),
                last_at_us=self.made_at_us(end - 1),
                commands=end - first,
                writes=writes,
                bytes_written=writes * BLOCK,
                hosts=("host-01",),
                part=number,
                parts=len(parts),
            )
            yield record_key(header), encode(PackedRecord(header, changed, zeroed))


def _random_blocks(random: np.random.Generator, first: int, count: int, writes: int) -> BlockSet:
    """Return the blocks of [first, first + count) that so many writes at random places change."""
    if writes < count // 64:
        drawn = random.integers(first, first + count, writes).astype(np.uint64)
        return BlockSet(array("Q", drawn.tobytes()))
    density, blocks = 1 - np.exp(-writes / count), BlockSet()
    for start in range(first, first + count, 1 << 24):
        size = min(1 << 24, first + count - start)
        here = np.flatnonzero(random.random(size, np.float32) < density)
        blocks |= BlockSet(array("Q", (here + start).astype(np.uint64).tobytes()))
    return blocks


class SimulatedCommands:
    """The commands topic: TopicAdmin's questions about it, and readers that make its messages.

    read: how many commands were read. The first ones stay in memory: a later question for them
    doesn't wait until they are made.
    """

    def __init__(self, state: AuditState) -> None:
        self._state = state
        self.read = 0
        self.made: dict[int, Message] = {}

    def first_position(self, topic: str, partition: int) -> int:
        """Return 0: all commands are kept."""
        return 0

    def end_position(self, topic: str, partition: int) -> int:
        """Return the position behind the last command."""
        return self._state.end

    def appended_from(self, topic: str, partition: int, at_us: int) -> tuple[int, int]:
        """Return (position, end): of the first command with that time or later (TopicAdmin)."""
        low, high = 0, self._state.end
        while low < high:
            middle = (low + high) // 2
            if self._state.appended_at_us(middle) // 1000 >= at_us // 1000:
                high = middle
            else:
                low = middle + 1
        return low, self._state.end

    def reader(self) -> _CommandReader:
        """Open a reader."""
        return _CommandReader(self, self._state)


class _CommandReader:
    """A TopicReader of the one partition."""

    def __init__(self, topic: SimulatedCommands, state: AuditState) -> None:
        self._topic, self._state, self._next = topic, state, 0

    def assign(self, topic: str, positions: Mapping[int, int | None]) -> None:
        self._next = positions[0] or 0

    def unassign(self, topic: str, partitions: Collection[int]) -> None:
        raise AssertionError("a question assigns a partition once")

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        end = min(self._next + min(max_messages, _FETCHED), self._state.end)
        positions = range(self._next, end)
        self._next = end
        self._topic.read += len(positions)
        return [self._kept(position) for position in positions]

    def _kept(self, position: int) -> Message:
        made = self._topic.made
        message = made.get(position) or self._message(position)
        if len(made) < _MADE_MAX:
            made[position] = message
        return message

    def _message(self, position: int) -> Message:
        state = self._state
        random = np.random.default_rng(position)
        hot = random.integers(0, HOT_BLOCKS, EXTENTS_A_COMMAND - EXTENTS_A_COMMAND // 10)
        cold = random.integers(HOT_BLOCKS, BLOCKS, EXTENTS_A_COMMAND // 10)
        offsets = np.concatenate([hot, cold]).astype(np.uint64) * np.uint64(BLOCK)
        command = TrackingCommand(
            volume=state.volume.volume,
            generation=GENERATION,
            host="host-01",
            session="5e55",
            sequence=position,
            kind=CommandKind.WRITES,
            extents=ExtentColumns(offsets, np.full(EXTENTS_A_COMMAND, BLOCK, np.uint64)),
            first_at_us=state.first_made_at_us(position),
            last_at_us=state.made_at_us(position),
        )
        appended_us = state.appended_at_us(position)
        return Message("commands", 0, position, b"vol-0001", encode(command), appended_us, True)

    def reached(self, topic: str, partition: int) -> int:
        return self._next

    def at_end(self, topic: str, partition: int) -> bool:
        return self._next >= self._state.end

    def close(self) -> None:
        """Do nothing."""
