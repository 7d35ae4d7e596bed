"""Only what a server says is zeros is left out of a read."""

from __future__ import annotations

import pytest

from mirrorlog.adapters.nbd_client.libnbd import STATE_ZERO
from mirrorlog.adapters.nbd_client.zero_extents import are_long, without_zeros
from mirrorlog.domain.range_columns import RangeColumns

LONG = 256 << 10
HOLE = STATE_ZERO


@pytest.mark.parametrize(
    ("extents", "left"),
    [
        ([], [(LONG, LONG)]),  # the server couldn't tell
        ([(4096, HOLE)], [(LONG + 4096, LONG - 4096)]),  # its answer ends early
        ([(LONG, HOLE)], []),
        ([(9 * LONG, HOLE)], []),  # its answer reaches further
        ([(LONG, 0)], [(LONG, LONG)]),
        ([(LONG, 1)], [(LONG, LONG)]),  # a hole that doesn't read as zeros
        ([(4096, 0), (LONG - 8192, HOLE | 1), (4096, 0)], [(LONG, 4096), (2 * LONG - 4096, 4096)]),
        ([(0, HOLE)], [(LONG, LONG)]),
    ],
)
def test_the_rest_is_read(extents: list[tuple[int, int]], left: list[tuple[int, int]]) -> None:
    ranges = RangeColumns.of([(0, 4096), (LONG, LONG)])
    long = are_long(ranges)
    assert long.tolist() == [False, True]
    memory = memoryview(bytearray(b"y" * ranges.size_bytes))
    to_read = without_zeros(ranges, long, [extents], memory)
    assert [(offset, length) for offset, length, _ in to_read] == [(0, 4096), *left]
    for offset, length, place in to_read:
        memory[place : place + length] = b"x" * length
        assert place == (0 if offset == 0 else 4096 + offset - LONG)
    read_bytes = sum(length for _, length, _ in to_read)
    assert (memory.tobytes().count(b"x"), memory.tobytes().count(b"\0")) == (
        read_bytes,
        ranges.size_bytes - read_bytes,
    )
