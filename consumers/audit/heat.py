"""Writes by range and time: a grid of counts that fits any history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.audit.changes import changes_of
from mirrorlog.consumers.audit.range_grid import RangeGrid
from mirrorlog.domain.volumes import Volume
from mirrorlog.history.batches import HistoryBatch

_US: Final = 1_000_000
_HOUR_S: Final = 3600
_DAY_S: Final = 24 * _HOUR_S
_SPANS_S: Final = (
    *(1, 5, 15, 60, 300, 900),
    *(_HOUR_S, 3 * _HOUR_S, 6 * _HOUR_S, 12 * _HOUR_S, _DAY_S, 7 * _DAY_S),
)
"""The lengths of a column's time. Each divides the next one, so columns can be joined."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HeatGrid:
    """How many writes touched each range in each span of time.

    counts: i64, ranges × spans; the first row is the range at offset 0.
    range_bytes: of a range; the last one may be shorter. span_s: of a column.
    first_at_us: where the first column begins, microseconds since 1970.
    """

    counts: npt.NDArray[np.int64]
    range_bytes: int
    span_s: int
    first_at_us: int

    def narrowed(self, at_most: int) -> HeatGrid:
        """Return the grid with at most so many columns: neighbours are added."""
        together = -(-self.counts.shape[1] // at_most)
        if together <= 1:
            return self
        starts = np.arange(0, self.counts.shape[1], together)
        counts = np.add.reduceat(self.counts, starts, axis=1)
        return HeatGrid(
            counts=counts,
            range_bytes=self.range_bytes,
            span_s=self.span_s * together,
            first_at_us=self.first_at_us,
        )


class HeatMap:
    """Counts the writes of one volume by range and time.

    max_ranges, max_spans: of the grid. Its columns become longer as the history does.
    """

    def __init__(self, volume: Volume, *, max_ranges: int, max_spans: int) -> None:
        self._grid = RangeGrid.of(volume, at_most=max_ranges)
        self._max_spans = max_spans
        self._lengths_s = _lengths_s()
        self._span_s = next(self._lengths_s)
        self._columns: dict[int, npt.NDArray[np.int64]] = {}

    def add(self, batch: HistoryBatch) -> None:
        """Count the rows of the next batch."""
        changes = changes_of(batch)
        if not len(changes):
            return
        self._fit(int(changes.at_us.min()), int(changes.at_us.max()))
        spans = changes.at_us // (self._span_s * _US)
        for span in sorted(set(spans.tolist())):
            of_span = changes.take(spans == span)
            counts = self._grid.counts(of_span.offsets, of_span.lengths)
            self._columns[span] = self._columns.get(span, 0) + counts

    def grid(self) -> HeatGrid:
        """Return the counts so far. Without a write there are no columns."""
        first = min(self._columns, default=0)
        spans = max(self._columns, default=-1) - first + 1
        counts = np.zeros((self._grid.ranges, spans), np.int64)
        for span, column in self._columns.items():
            counts[:, span - first] = column
        return HeatGrid(
            counts=counts,
            range_bytes=self._grid.range_bytes,
            span_s=self._span_s,
            first_at_us=first * self._span_s * _US,
        )

    def _fit(self, first_us: int, last_us: int) -> None:
        """Join columns until those of these times fit, too."""
        while True:
            span_us = self._span_s * _US
            spans = [*self._columns, first_us // span_us, last_us // span_us]
            if max(spans) - min(spans) < self._max_spans:
                return
            before_s, self._span_s = self._span_s, next(self._lengths_s)
            together = self._span_s // before_s
            joined: dict[int, npt.NDArray[np.int64]] = {}
            for span, column in self._columns.items():
                joined[span // together] = joined.get(span // together, 0) + column
            self._columns = joined


def _lengths_s() -> Iterator[int]:
    """Yield the lengths of columns in seconds, without end."""
    yield from _SPANS_S
    for power in count(1):
        yield _SPANS_S[-1] << power
