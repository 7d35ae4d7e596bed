"""Fold records and commands of one volume: what changed, who wrote it, what is known to be zero.

A block is known to be zero if a zero or discard covered it whole and nothing in the range may have
written to it. The order doesn't matter: neither positions nor clocks order the writes of two
sessions, and a record doesn't order its own. Of a record this is known only if all that it holds
are zeros that don't overlap. At the edges, where commands are folded, it is always known, unless
the volume is authenticated.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.changed.points import (
    NO_TIMES,
    AnsweringClock,
    AskedTimes,
    AtPosition,
    AtTime,
    Point,
)
from mirrorlog.domain.bitmaps import BlockSet, touched, zeroed
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import MAX_BYTE, ExtentColumns, ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.records import LogRecord

_SMALL_SET_BLOCKS: Final = 1 << 16
_RANGE_BITS: Final = 23
_MAX_PENDING_BLOCKS: Final = 1 << 20
"""The number of blocks of small sets that wait to be sorted together: 8 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class ChangedBlocks:
    """The blocks that changed in `(since, until]`, positions of the volume's partition.

    zeroed: those of `changed` that are known to be zeroed or discarded whole and not written.
    hosts, first_write_at_us, last_write_at_us, writes: of the whole range. Times are microseconds
        by the hosts' clocks, None if nothing changed. If records overlap, after a crash of the
        node, some writes count twice.
    has_more_hosts: whether records left hosts out.
    asked: the times that the question named.
    """

    volume: Volume
    since: int
    until: int
    changed: BlockSet
    zeroed: BlockSet
    hosts: tuple[str, ...]
    first_write_at_us: int | None
    last_write_at_us: int | None
    writes: int
    has_more_hosts: bool = False
    asked: AskedTimes = NO_TIMES

    @property
    def points(self) -> tuple[Point, Point]:
        """The points with which the same is asked for again.

        They are positions, so the question stays the same while writes go on. Times by the writes'
        own clock have no positions, so they stay times.
        """
        since: Point = AtPosition(self.since)
        until: Point = AtPosition(self.until)
        if self.asked.clock is AnsweringClock.OWN:
            if self.asked.since_us is not None:
                since = AtTime(self.asked.since_us)
            if self.asked.until_us is not None:
                until = AtTime(self.asked.until_us)
        return since, until


class BlockUnion:
    """Unites many sets of blocks.

    The blocks of small sets are collected and sorted together. Adding a set to a Roaring set walks
    the whole Roaring set, and ten thousand small sets of a large volume share few neighbours. For
    the same reason large sets are united by the range in which they begin: the parts of a record
    lie one behind the other, and each is added to those of other records in its range alone.
    """

    def __init__(self) -> None:
        self._united = BlockSet()
        self._large: dict[int, BlockSet] = {}
        self._pending: list[npt.NDArray[np.uint64]] = []
        self._pending_blocks = 0

    def add(self, blocks: BlockSet) -> None:
        """Add a set. The set itself isn't changed."""
        if len(blocks) > _SMALL_SET_BLOCKS:
            number = blocks.min() >> _RANGE_BITS
            if number in self._large:
                self._large[number] |= blocks
            else:
                self._large[number] = blocks.copy()
        elif blocks:
            self._pending.append(np.frombuffer(blocks.to_array(), np.uint64))
            self._pending_blocks += len(blocks)
            if self._pending_blocks > _MAX_PENDING_BLOCKS:
                self._unite_pending()

    def result(self) -> BlockSet:
        """Return the union of all sets added."""
        self._unite_pending()
        for number in sorted(self._large):
            self._united |= self._large.pop(number)
        return self._united

    def _unite_pending(self) -> None:
        if not self._pending:
            return
        blocks = np.concatenate(self._pending)
        blocks.sort()
        is_first = np.concatenate(([True], blocks[1:] != blocks[:-1]))
        self._united |= BlockSet(array("Q", blocks[is_first].tobytes()))
        self._pending, self._pending_blocks = [], 0


@dataclass(slots=True)
class ChangeFold:
    """Unites records and commands of one volume.

    written: blocks that may have been written.
    zeroed: blocks that a zero or discard covered whole.
    touched: blocks of which a command wrote, zeroed or discarded a part.
    times_us: the first and the last write; empty before there is one.
    """

    volume: Volume
    touched: BlockUnion = field(default_factory=BlockUnion)
    zeroed: BlockUnion = field(default_factory=BlockUnion)
    written: BlockUnion = field(default_factory=BlockUnion)
    hosts: set[str] = field(default_factory=set)
    times_us: list[int] = field(default_factory=list)
    writes: int = 0
    has_more_hosts: bool = False

    def add_record(self, parts: Sequence[LogRecord]) -> None:
        """Add a record that lies in the range: all its parts, with their bitmaps."""
        is_only_zeroed = self._is_only_zeroed(parts)
        for part in parts:
            if is_only_zeroed:
                self.zeroed.add(part.zeroed)
            else:
                self.written.add(part.changed)
        self._note(
            parts[0].hosts,
            has_more_hosts=parts[0].has_more_hosts,
            first_at_us=parts[0].first_at_us,
            last_at_us=parts[0].last_at_us,
            writes=parts[0].writes,
        )

    def _is_only_zeroed(self, parts: Sequence[LogRecord]) -> bool:
        """Return whether each block was zeroed whole, and no other extent touched it.

        The extents together are then as long as the blocks. MAX_BYTE may stand for any larger sum.
        """
        bytes_written = parts[0].bytes_written
        if bytes_written == MAX_BYTE or any(part.changed != part.zeroed for part in parts):
            return False
        sets = [part.changed for part in parts if part.changed]
        if not sets:
            return False
        _, last_bytes = self.volume.byte_range(first=max(map(BlockSet.max, sets)), count=1)
        blocks = sum(map(len, sets))
        return bytes_written == (blocks - 1) * self.volume.block_size + last_bytes

    def add_command(self, command: TrackingCommand, extents: ExtentColumns) -> None:
        """Add one command. `extents` are its extents, clipped to the volume."""
        if not len(extents):
            return
        size = self.volume.block_size
        is_believed = not self.volume.is_authenticated  # nobody here can judge the codes
        if command.kind is CommandKind.WRITES and extents.kinds is not None and is_believed:
            self.touched.add(touched(extents, size))
            self.zeroed.add(zeroed(extents, block_size=size, size_bytes=self.volume.size_bytes))
            is_write = extents.kinds == np.uint8(ExtentKind.WRITE)
            self.written.add(
                touched(ExtentColumns(extents.offsets[is_write], extents.lengths[is_write]), size)
            )
        else:
            self.written.add(touched(extents, size))
        self._note(
            (command.host,),
            first_at_us=command.first_at_us,
            last_at_us=command.last_at_us,
            writes=len(extents),
        )

    def _note(
        self,
        hosts: Iterable[str],
        *,
        first_at_us: int,
        last_at_us: int,
        writes: int,
        has_more_hosts: bool = False,
    ) -> None:
        self.hosts.update(hosts)
        self.has_more_hosts |= has_more_hosts
        self.times_us = [min([first_at_us, *self.times_us]), max([last_at_us, *self.times_us])]
        self.writes += writes

    def result(self, *, since: int, until: int) -> ChangedBlocks:
        """Return what changed in `(since, until]`, which is what was added."""
        written, zero = self.written.result(), self.zeroed.result()
        changed = self.touched.result() | written | zero
        for blocks in (changed, zero):
            if blocks and blocks.max() >= self.volume.blocks:  # the volume was larger once
                blocks.remove_range(self.volume.blocks, blocks.max() + 1)
        first_at_us, last_at_us = self.times_us or (None, None)
        return ChangedBlocks(
            volume=self.volume,
            since=since,
            until=until,
            changed=changed,
            zeroed=zero - written,
            hosts=tuple(sorted(self.hosts)),
            first_write_at_us=first_at_us,
            last_write_at_us=last_at_us,
            writes=self.writes,
            has_more_hosts=self.has_more_hosts,
        )
