"""Records and commands of one volume folded into what changed, who wrote it and what is known to be zero.

Zero: a block is called zero where a zero or discard covered it whole and nothing in the range may have written to it, in
whatever order: neither positions nor clocks order the writes of two sessions, nor a record its own. Of a record that is
known only where all that it holds are zeros that don't overlap; of the edges, where commands are folded, it is known.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.bitmaps import BitMap64, touched, union, zeroed
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns, ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.records import LogRecord

_SMALL_SET: Final = 1 << 16
_PILE_AT_MOST: Final = 1 << 20
"""Blocks: 8 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class ChangedBlocks:
    """What changed in `(since, until]`, positions of the volume's partition.

    zeroed: those of `changed` that are known to have been zeroed or discarded whole and not written.
    hosts, times (microseconds, by the hosts' clocks; None where nothing changed) and writes are of the whole range. Where
    records overlap, after a crash of the node, some writes count twice.
    """

    volume: Volume
    since: int
    until: int
    changed: BitMap64
    zeroed: BitMap64
    hosts: tuple[str, ...]
    first_write_at_us: int | None
    last_write_at_us: int | None
    writes: int


class Union:
    """Unites many sets. Of small ones the blocks are collected and sorted at once: a Roaring set is walked for each that is
    added to it, and ten thousand small sets of a large volume share few neighbours."""

    def __init__(self) -> None:
        self._united = BitMap64()
        self._pile: list[npt.NDArray[np.uint64]] = []
        self._piled = 0

    def add(self, blocks: BitMap64) -> None:
        """Adds a set, which stays as it is."""
        if len(blocks) > _SMALL_SET:
            self._united |= blocks
        elif blocks:
            self._pile.append(np.frombuffer(blocks.to_array(), np.uint64))
            self._piled += len(blocks)
            if self._piled > _PILE_AT_MOST:
                self._settle()

    def result(self) -> BitMap64:
        """The set of all."""
        self._settle()
        return self._united

    def _settle(self) -> None:
        if not self._pile:
            return
        found = np.concatenate(self._pile)
        found.sort()
        first_of_its_kind = np.concatenate(([True], found[1:] != found[:-1]))
        self._united |= BitMap64(array("Q", found[first_of_its_kind].tobytes()))
        self._pile, self._piled = [], 0


@dataclass(slots=True)
class Fold:
    """Records and commands, united; `times` are the first and the last, empty before there is one.

    written: what may have been written; zeroed: what was zeroed whole; touched: these and what was zeroed in part.
    """

    volume: Volume
    touched: Union = field(default_factory=Union)
    zeroed: Union = field(default_factory=Union)
    written: Union = field(default_factory=Union)
    hosts: set[str] = field(default_factory=set)
    times: list[int] = field(default_factory=list)
    writes: int = 0

    def add_record(self, parts: Sequence[LogRecord]) -> None:
        """All parts of a record that lies inside the range."""
        one = len(parts) == 1
        changed = parts[0].changed if one else union(part.changed for part in parts)
        zero = parts[0].zeroed if one else union(part.zeroed for part in parts)
        if self._only_zeroed(changed, zero, parts[0].bytes_written):
            self.zeroed.add(zero)
        else:
            self.written.add(changed)
        self._note(parts[0].hosts, parts[0].first_at_us, parts[0].last_at_us, parts[0].writes)

    def _only_zeroed(self, changed: BitMap64, zero: BitMap64, bytes_written: int) -> bool:
        """Each block was zeroed whole, and together the extents are no longer than the blocks: there was no other."""
        if not changed or changed != zero:
            return False
        _, last_bytes = self.volume.byte_range(first=changed.max(), count=1)
        return bytes_written == (len(changed) - 1) * self.volume.block_size + last_bytes

    def add_command(self, command: TrackingCommand, extents: ExtentColumns) -> None:
        """One command, with its extents clipped to the volume."""
        if not len(extents):
            return
        size = self.volume.block_size
        if command.kind is CommandKind.WRITES and extents.kinds is not None:
            self.touched.add(touched(extents, size))
            self.zeroed.add(zeroed(extents, block_size=size, size_bytes=self.volume.size_bytes))
            is_write = extents.kinds == np.uint8(ExtentKind.WRITE)
            self.written.add(
                touched(ExtentColumns(extents.offsets[is_write], extents.lengths[is_write]), size)
            )
        else:
            self.written.add(touched(extents, size))
        self._note((command.host,), command.first_at_us, command.last_at_us, len(extents))

    def _note(self, hosts: Iterable[str], first_at_us: int, last_at_us: int, writes: int) -> None:
        self.hosts.update(hosts)
        self.times = [min([first_at_us, *self.times]), max([last_at_us, *self.times])]
        self.writes += writes

    def result(self, since: int, until: int) -> ChangedBlocks:
        """The answer for `(since, until]`."""
        written, zero = self.written.result(), self.zeroed.result()
        changed = self.touched.result() | written | zero
        for blocks in (changed, zero):
            if blocks and blocks.max() >= self.volume.blocks:  # the volume was larger once
                blocks.remove_range(self.volume.blocks, blocks.max() + 1)
        first, last = self.times or (None, None)
        return ChangedBlocks(
            self.volume,
            since,
            until,
            changed,
            zero - written,
            tuple(sorted(self.hosts)),
            first,
            last,
            self.writes,
        )
