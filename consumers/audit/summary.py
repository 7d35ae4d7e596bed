"""What a history amounts to: who wrote, where, how often the same, and how much an hour.

Memory is bounded however long the history is: bitmaps of the volume, and numbers for each host, for
each of some thousand ranges and for each hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from mirrorlog.consumers.audit.changes import Changes, changes_of
from mirrorlog.consumers.audit.range_grid import RangeGrid
from mirrorlog.domain.bitmaps import BlockSet, touched
from mirrorlog.domain.volumes import Volume
from mirrorlog.history.batches import HistoryBatch

HOUR_US: Final = 3_600_000_000
_SECTOR_BYTES: Final = 512
_MAX_UNITS: Final = 1 << 31
"""A bitmap of so many units takes at most 256 MiB."""
_MAX_HOSTS: Final = 10_000
_MAX_RANGES: Final = 1 << 14
_OPEN_HOURS: Final = 48
"""The hours whose bitmaps are kept: what is older by so many hours is closed."""


@dataclass(slots=True)
class _Written:
    """writes: how many. written_bytes: their bytes; bytes written twice count twice."""

    writes: int = 0
    written_bytes: int = 0

    def add(self, writes: int, written_bytes: int) -> None:
        self.writes += writes
        self.written_bytes += written_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSums:
    """What one host wrote. host: None stands for unknown hosts, and for those beyond 10,000."""

    host: str | None
    writes: int
    written_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeSums:
    """What was written to the bytes [offset, offset + length). writes: those that touch it."""

    offset: int
    length: int
    writes: int
    written_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HourSums:
    """What was written in one hour.

    at_us: its beginning, microseconds since 1970. dirty_bytes: of the distinct blocks that were
    written: the hour's working set, and what a backup at its end has to copy.
    """

    at_us: int
    writes: int
    written_bytes: int
    dirty_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryFigures:
    """A summary of rows.

    distinct_bytes: the bytes that were written at least once, in units of `distinct_unit_bytes`,
    rounded outwards. dirty_bytes: the same in blocks. hosts, ranges: those with the most bytes
    first. hours: those with a write, ascending. hours_are_exact: False: the rows came in so wild an
    order that blocks of an hour may count twice.
    """

    writes: int
    written_bytes: int
    distinct_unit_bytes: int
    distinct_bytes: int
    dirty_bytes: int
    hosts: tuple[HostSums, ...]
    ranges: tuple[RangeSums, ...]
    hours: tuple[HourSums, ...]
    hours_are_exact: bool

    @property
    def rewrite_factor(self) -> float | None:
        """How often a byte that was written was written, on average; None without a write."""
        return self.written_bytes / self.distinct_bytes if self.distinct_bytes else None

    @property
    def hourly_backup_bytes(self) -> int:
        """What a backup each hour would have copied, all of them together."""
        return sum(hour.dirty_bytes for hour in self.hours)

    @property
    def median_hour_bytes(self) -> float | None:
        """The median working set of the hours that had a write; None without one."""
        return median(hour.dirty_bytes for hour in self.hours) if self.hours else None

    @property
    def largest_hour(self) -> HourSums | None:
        """The hour with the largest working set."""
        return max(self.hours, key=lambda hour: hour.dirty_bytes, default=None)


class HistorySummary:
    """Sums the rows of one volume up, batch by batch."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._unit_bytes = min(_SECTOR_BYTES, volume.block_size)
        while volume.size_bytes > _MAX_UNITS * self._unit_bytes:
            self._unit_bytes *= 2
        self._units, self._blocks = BlockSet(), BlockSet()
        self._grid = RangeGrid.of(volume, at_most=_MAX_RANGES)
        self._range_writes = np.zeros(self._grid.ranges, np.int64)
        self._range_bytes = np.zeros(self._grid.ranges, np.uint64)
        self._hosts: dict[str | None, _Written] = {}
        self._hours: dict[int, _Written] = {}
        self._open_hours: dict[int, BlockSet] = {}
        self._closed_hours: dict[int, int] = {}
        self._is_exact = True

    def add(self, batch: HistoryBatch) -> None:
        """Add the rows of the next batch."""
        changes = changes_of(batch)
        if not len(changes):
            return
        self._units |= touched(changes.extents, self._unit_bytes)
        self._range_writes += self._grid.counts(changes.offsets, changes.lengths)
        self._range_bytes += self._grid.bytes_in(changes.offsets, changes.lengths)
        self._add_hosts(changes)
        hours = changes.at_us // HOUR_US
        for hour in sorted(set(hours.tolist())):
            self._add_hour(hour, changes.take(hours == hour))

    def figures(self, *, top: int) -> SummaryFigures:
        """Return the summary of what was added. top: how many hosts and ranges are named."""
        volume = self._volume
        hosts = [
            HostSums(host=name, writes=sums.writes, written_bytes=sums.written_bytes)
            for name, sums in self._hosts.items()
        ]
        hosts.sort(key=lambda host: (-host.written_bytes, host.host or ""))
        return SummaryFigures(
            writes=sum(host.writes for host in hosts),
            written_bytes=sum(host.written_bytes for host in hosts),
            distinct_unit_bytes=self._unit_bytes,
            distinct_bytes=min(len(self._units) * self._unit_bytes, volume.size_bytes),
            dirty_bytes=volume.bytes_of(len(self._blocks)),
            hosts=tuple(hosts[:top]),
            ranges=self._hottest(top),
            hours=tuple(self._hour_figures(hour) for hour in sorted(self._hours)),
            hours_are_exact=self._is_exact,
        )

    def _add_hosts(self, changes: Changes) -> None:
        names = (None, *changes.host_names)  # the code -1 is None
        writes = np.bincount(changes.hosts + 1, minlength=len(names))
        sums = np.zeros(len(names), np.uint64)
        np.add.at(sums, changes.hosts + 1, changes.lengths)
        for name, count, size_bytes in zip(names, writes.tolist(), sums.tolist(), strict=True):
            if count:
                is_known = name in self._hosts or len(self._hosts) < _MAX_HOSTS
                key = name if is_known else None
                self._hosts.setdefault(key, _Written()).add(count, size_bytes)

    def _add_hour(self, hour: int, changes: Changes) -> None:
        blocks = touched(changes.extents, self._volume.block_size)
        self._blocks |= blocks
        sums = self._hours.setdefault(hour, _Written())
        sums.add(len(changes), changes.extents.total_bytes(longest=self._volume.size_bytes))
        if hour in self._closed_hours and hour not in self._open_hours:
            self._is_exact = False
        self._open_hours.setdefault(hour, BlockSet())
        self._open_hours[hour] |= blocks
        while len(self._open_hours) > _OPEN_HOURS:
            oldest = min(self._open_hours)
            blocks_of_hour = len(self._open_hours.pop(oldest))
            self._closed_hours[oldest] = self._closed_hours.get(oldest, 0) + blocks_of_hour

    def _hour_figures(self, hour: int) -> HourSums:
        sums = self._hours[hour]
        blocks = self._closed_hours.get(hour, 0) + len(self._open_hours.get(hour, ()))
        return HourSums(
            at_us=hour * HOUR_US,
            writes=sums.writes,
            written_bytes=sums.written_bytes,
            dirty_bytes=self._volume.bytes_of(blocks),
        )

    def _hottest(self, top: int) -> tuple[RangeSums, ...]:
        """Return the ranges with the most bytes written to them."""
        order = np.argsort(self._range_bytes, kind="stable")[::-1][:top]
        size = self._grid.range_bytes
        return tuple(
            RangeSums(
                offset=number * size,
                length=min(size, self._volume.size_bytes - number * size),
                writes=int(self._range_writes[number]),
                written_bytes=int(self._range_bytes[number]),
            )
            for number in order.tolist()
            if self._range_writes[number]
        )
