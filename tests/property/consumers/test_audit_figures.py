"""The summary and the heat map of a history equal plain counts of its writes, byte by byte."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from notation import command, recorded, volume

from mirrorlog.codec.events import encode
from mirrorlog.consumers.audit.heat import HeatMap
from mirrorlog.consumers.audit.range_grid import RangeGrid
from mirrorlog.consumers.audit.summary import HOUR_US, HistorySummary
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.history.batches import HistoryBatch
from mirrorlog.history.command_rows import command_rows
from mirrorlog.ports.streams import Message

OF = volume(size_bytes=10 * 4096 + 700)
EXTENT = st.tuples(st.integers(0, OF.size_bytes - 1), st.integers(0, OF.size_bytes)).map(
    lambda pair: (pair[0], min(pair[1], OF.size_bytes - pair[0]))
)
SENT = st.tuples(
    st.lists(EXTENT, max_size=3),
    st.sampled_from(["h", "i", "import:msr:1"]),
    st.integers(0, 9 * HOUR_US),
)
HISTORY = st.lists(st.lists(SENT, max_size=4), min_size=1, max_size=4)
Write = tuple[int, int, str, int]
"""The offset and length of a write, its host, and when it was made."""


def read(history: list[list[tuple[list[tuple[int, int]], str, int]]]) -> list[HistoryBatch]:
    """Return one batch for each list of commands; those of an import have their own times."""
    batches, position, now_ms = [], 0, 0
    for sent in history:
        messages = []
        for extents, host, at_us in sent:
            event: TrackingCommand = command(" ".join(f"{o}+{n}" for o, n in extents), host=host)
            if host.startswith("import:") and extents:
                event = recorded(" ".join(f"{at_us}@{o}+{n}" for o, n in extents), host=host)
            now_ms += at_us // 3000
            value = encode(event)
            messages.append(Message("c", 0, position, b"v", value, now_ms * 1000, True))
            position += 1
        batches.append(command_rows(messages, OF, through=position - 1))
    return batches


def writes_of(batches: list[HistoryBatch]) -> list[Write]:
    return [
        (
            row["offset"],
            row["length"],
            row["host"],
            row["first_at_us"] if row["clock"] == "recording" else row["appended_at_us"],
        )
        for batch in batches
        for row in batch.to_dicts()
        if row["length"]
    ]


def units(writes: list[Write], size: int) -> set[int]:
    return {unit for o, n, *_ in writes for unit in range(o // size, (o + n - 1) // size + 1)}


@given(HISTORY)
def test_the_summary_equals_plain_counts(
    history: list[list[tuple[list[tuple[int, int]], str, int]]],
) -> None:
    batches = read(history)
    writes = writes_of(batches)
    summary = HistorySummary(OF)
    for batch in batches:
        summary.add(batch)
    figures = summary.figures(top=100)
    assert figures.writes == len(writes)
    assert figures.written_bytes == sum(n for _, n, *_ in writes)
    assert figures.distinct_unit_bytes == 512
    assert figures.distinct_bytes == min(len(units(writes, 512)) * 512, OF.size_bytes)
    assert figures.dirty_bytes == OF.bytes_of(len(units(writes, 4096)))
    by_host = Counter(host for *_, host, _ in writes)
    assert {host.host: host.writes for host in figures.hosts} == by_host
    of_hour: dict[int, list[Write]] = defaultdict(list)
    for write in writes:
        of_hour[write[3] // HOUR_US].append(write)
    assert figures.hours_are_exact
    assert [(hour.at_us // HOUR_US, hour.writes, hour.dirty_bytes) for hour in figures.hours] == [
        (hour, len(made), OF.bytes_of(len(units(made, 4096))))
        for hour, made in sorted(of_hour.items())
    ]
    assert figures.hourly_backup_bytes == sum(hour.dirty_bytes for hour in figures.hours)
    assert sum(part.written_bytes for part in figures.ranges) == figures.written_bytes


@given(st.lists(EXTENT.filter(lambda extent: extent[1] > 0), max_size=20), st.integers(1, 20))
def test_each_range_has_the_writes_that_touch_it(
    extents: list[tuple[int, int]], at_most: int
) -> None:
    grid = RangeGrid.of(OF, at_most=at_most)
    size = grid.range_bytes
    assert (grid.ranges - 1) * size < OF.size_bytes <= grid.ranges * size
    assert grid.ranges <= at_most
    offsets, lengths = np.array(extents, np.uint64).reshape(-1, 2).T
    begins = range(0, grid.ranges * size, size)
    assert grid.counts(offsets, lengths).tolist() == [
        sum(o < begin + size and o + n > begin for o, n in extents) for begin in begins
    ]
    assert grid.bytes_in(offsets, lengths).tolist() == [
        sum(max(min(o + n, begin + size) - max(o, begin), 0) for o, n in extents)
        for begin in begins
    ]


@given(HISTORY, st.integers(2, 12))
def test_the_heat_map_equals_plain_counts(
    history: list[list[tuple[list[tuple[int, int]], str, int]]], max_spans: int
) -> None:
    batches = read(history)
    heat = HeatMap(OF, max_ranges=4, max_spans=max_spans)
    for batch in batches:
        heat.add(batch)
    grid = heat.grid()
    expected: Counter[tuple[int, int]] = Counter()
    for offset, length, _, at_us in writes_of(batches):
        span = (at_us - grid.first_at_us) // (grid.span_s * 1_000_000)
        for part in range(
            offset // grid.range_bytes, (offset + length - 1) // grid.range_bytes + 1
        ):
            expected[part, span] += 1
    cells = np.argwhere(grid.counts).tolist()
    assert {(part, span): int(grid.counts[part, span]) for part, span in cells} == expected
    assert grid.counts.shape[1] <= max_spans
    narrow = grid.narrowed(1)
    assert narrow.counts.sum() == grid.counts.sum()
    assert narrow.counts.shape[1] <= 1
