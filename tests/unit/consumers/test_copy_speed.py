"""A copy's speed is that of its last seconds, and is unknown until enough of it was seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notation import volume

from mirrorlog.consumers.resync.copy_speed import (
    MIN_SPAN_S,
    UNKNOWN_SPEED,
    WINDOW_S,
    CopyMeter,
    CopySpeed,
    copy_speed,
)
from mirrorlog.consumers.resync.restoration import bytes_to_copy
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.simulation.memory_devices import MemoryDevice

# samples as second:bytes | total | now | rate, eta
CASES = """
                    | 900  | 9  | None None
0:0                 | 900  | 2  | None None
0:0 2:100           | 900  | 2  | None None
0:0 4:400           | 900  | 4  | 100.0 5.0
0:0 4:400           | 900  | 8  | 50.0 10.0
0:0 4:400           | None | 4  | 100.0 None
0:0                 | 900  | 5  | 0.0 None
0:0 4:400           | 300  | 4  | 100.0 0.0
0:0 10:10 30:1010   | 2010 | 30 | 50.0 20.0
0:0 10:9 15:10 30:1510 | 3010 | 30 | 100.0 15.0
"""


@pytest.mark.parametrize("case", CASES.strip("\n").splitlines())
def test_the_speed_of_a_copy(case: str) -> None:
    samples, total, now_s, expected = (part.strip() for part in case.split("|"))
    pairs = [(float(at), int(copied)) for at, copied in (s.split(":") for s in samples.split())]
    rate, eta = (None if text == "None" else float(text) for text in expected.split())
    total_bytes = None if total == "None" else int(total)
    speed = copy_speed(pairs, total_bytes=total_bytes, now_s=float(now_s))
    assert speed == CopySpeed(rate, eta)


def test_a_copy_that_hangs_has_no_end() -> None:
    meter = CopyMeter(begin_s=0.0, total_bytes=1000)
    meter.note_copied(100, 1.0)
    meter.note_copied(100, 2.0)
    assert meter.speed(2.0 + WINDOW_S) == CopySpeed(0.0, None)


def test_a_young_copy_has_no_speed() -> None:
    meter = CopyMeter(begin_s=10.0, total_bytes=1000)
    meter.note_copied(100, 10.5)
    assert meter.speed(10.0 + MIN_SPAN_S / 2) == UNKNOWN_SPEED


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(0, 1 << 20)), max_size=200))
def test_a_meter_keeps_few_samples_and_counts_every_byte(runs: list[tuple[float, int]]) -> None:
    meter, now_s = CopyMeter(begin_s=0.0, total_bytes=None), 0.0
    for pause_s, size_bytes in runs:
        now_s += pause_s
        meter.note_copied(size_bytes, now_s)
    assert meter.copied_bytes == sum(size_bytes for _, size_bytes in runs)
    assert len(meter._samples) <= WINDOW_S / 0.125 + 4
    rate_bytes_s = meter.speed(now_s).rate_bytes_s
    if now_s < MIN_SPAN_S:
        assert rate_bytes_s is None
    else:
        assert rate_bytes_s is not None
        assert 0 <= rate_bytes_s <= meter.copied_bytes / MIN_SPAN_S


class ScatteredDevice(MemoryDevice):
    """A device of which every second block is allocated."""

    def allocated(self, start: int = 0) -> Iterator[tuple[int, int]]:
        for number in range(self.size_bytes // 8192):
            yield number * 8192, 4096


def test_how_much_is_to_be_copied_is_known_or_given_up() -> None:
    device, described = ScatteredDevice(1000 * 8192), volume("v", 1000 * 8192)
    blocks = BlockSet(range(3))
    assert bytes_to_copy(device, described, blocks, lambda: False) == 3 * 4096
    assert bytes_to_copy(device, described, None, lambda: True) == 1000 * 4096
    answers = iter([True] * 999)
    assert bytes_to_copy(device, described, None, lambda: next(answers, False)) is None
