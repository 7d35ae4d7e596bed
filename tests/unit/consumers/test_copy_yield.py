"""An adaptive rate yields to the primary's own load, on a model of a primary."""

from __future__ import annotations

from collections import deque

import pytest

from mirrorlog.consumers.resync.copy_pace import CopyPace
from mirrorlog.consumers.resync.copy_rate import parse_rates
from mirrorlog.consumers.resync.copy_yield import (
    FIRST_BYTES_S,
    LEAST_BYTES_S,
    PrimaryRead,
    YieldState,
    after_read,
)
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_devices import MemoryDevice

MIB = 1 << 20
CAPACITY_BYTES_S = 400 * MIB


class Primary:
    """A queue with one server (M/M/1): a read waits the longer, the more is asked of it.

    load: the part of its capacity that hosts use. service_s: of a read when nobody waits.
    """

    def __init__(self, read_bytes: int = MIB) -> None:
        self.load, self.now_s = 0.0, 0.0
        self.state = YieldState()
        self.read_bytes = read_bytes
        self.service_s = read_bytes / CAPACITY_BYTES_S

    def latency_s(self) -> float:
        used = min(0.98, self.load + self.state.rate_bytes_s / CAPACITY_BYTES_S)
        return self.service_s / (1 - used)

    def copy(self, seconds: float, *, part: float = 1.0) -> float:
        """Copy at the allowed rate, or at a part of it. Return the last rate in bytes/s."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += self.read_bytes / (self.state.rate_bytes_s * part)
            read = PrimaryRead(self.read_bytes, 1, self.latency_s(), self.now_s)
            self.state = after_read(self.state, read, now_s=self.now_s)
        return self.state.rate_bytes_s


def test_a_copy_takes_what_is_free_and_gives_it_back() -> None:
    primary = Primary()
    free = primary.copy(30)
    assert free > 0.5 * CAPACITY_BYTES_S
    primary.load = 0.5
    busy = primary.copy(10)
    assert busy < 0.6 * free
    assert busy + primary.load * CAPACITY_BYTES_S < 0.9 * CAPACITY_BYTES_S
    primary.load = 0.95
    assert primary.copy(10) == LEAST_BYTES_S
    primary.load = 0.0
    assert primary.copy(40) > 0.9 * free


class Line:
    """A line with a delay and a rate, on which reads follow each other; nothing else uses it."""

    RATE_BYTES_S, ROUND_TRIP_S = 117 * MIB, 0.02

    def __init__(self) -> None:
        self.state = YieldState()
        self.asked_s = self.free_s = 0.0
        self.under_way: deque[tuple[float, PrimaryRead]] = deque()  # with the time of the answer

    def copy(self, size_bytes: int, read_bytes: int = 2 * MIB) -> float:
        """Return the bytes per second at which so many bytes are read."""
        begin_s = self.asked_s
        for _ in range(size_bytes // read_bytes):
            self.asked_s += read_bytes / self.state.rate_bytes_s
            self._take_answers(self.asked_s)
            begins_s = max(self.free_s, self.asked_s + self.ROUND_TRIP_S / 2)
            self.free_s = begins_s + read_bytes / self.RATE_BYTES_S
            answered_s = self.free_s + self.ROUND_TRIP_S / 2
            read = PrimaryRead(read_bytes, 1, answered_s - self.asked_s, self.asked_s)
            self.under_way.append((answered_s, read))
        self.asked_s = self.under_way[-1][0]
        self._take_answers(self.asked_s)
        return size_bytes / (self.asked_s - begin_s)

    def _take_answers(self, until_s: float) -> None:
        while self.under_way and self.under_way[0][0] <= until_s:
            answered_s, read = self.under_way.popleft()
            self.state = after_read(self.state, read, now_s=answered_s)


def test_a_copy_that_begins_soon_takes_what_is_free() -> None:
    primary = Primary()
    assert primary.copy(3) > 0.5 * CAPACITY_BYTES_S


def test_a_copy_fills_a_line_that_nobody_else_uses() -> None:
    line = Line()
    assert line.copy(200 * MIB) > 0.45 * line.RATE_BYTES_S
    assert line.copy(2000 * MIB) > 0.9 * line.RATE_BYTES_S


def test_reads_that_are_slow_because_the_site_is_busy_are_no_load() -> None:
    state = YieldState()
    for number in range(400):
        latency_s = 0.2 if number % 5 < 3 else 0.02
        now_s = (number + 1) * 0.02
        state = after_read(state, PrimaryRead(MIB, 1, latency_s, now_s), now_s=now_s)
    assert state.rate_bytes_s >= FIRST_BYTES_S


def test_one_slow_read_is_no_load() -> None:
    state = YieldState()
    for number in range(400):
        latency_s = 2.0 if number % 10 == 3 else 0.001
        now_s = (number + 1) * 0.02
        state = after_read(state, PrimaryRead(MIB, 1, latency_s, now_s), now_s=now_s)
    assert state.rate_bytes_s >= FIRST_BYTES_S


@pytest.mark.parametrize("of_size", [True, False])
def test_reads_of_different_kinds_are_not_held_against_each_other(of_size: bool) -> None:
    state = YieldState()
    for number in range(2000):
        now_s = (number + 1) * 0.02
        slow = (8 * MIB, 1, 0.08) if of_size else (MIB, 256, 0.08)
        quick = (4096, 1, 0.0001) if of_size else (MIB, 1, 0.0001)
        read = PrimaryRead(*(slow if number // 100 % 2 else quick), now_s)
        state = after_read(state, read, now_s=now_s)
    assert state.rate_bytes_s >= FIRST_BYTES_S


def test_a_rate_that_is_not_used_does_not_grow() -> None:
    primary = Primary()
    assert primary.copy(60, part=0.1) == FIRST_BYTES_S


def test_storage_that_became_slower_for_good_is_the_quietest_after_a_while() -> None:
    primary = Primary(8 * MIB)
    primary.copy(30)
    primary.service_s *= 10
    assert primary.copy(30) < 0.2 * CAPACITY_BYTES_S
    assert primary.copy(700) > 0.2 * CAPACITY_BYTES_S


class SlowDevice(MemoryDevice):
    """A device whose calls for reading take a time by the clock."""

    def __init__(self, size_bytes: int, clock: ManualClock) -> None:
        super().__init__(size_bytes)
        self.clock, self.read_s, self.calls = clock, 0.001, 0

    def pread(self, *, offset: int, length: int) -> bytes:
        self._pass()
        return super().pread(offset=offset, length=length)

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        self._pass()
        for offset, length, place in ranges:
            memory[place : place + length] = super().pread(offset=offset, length=length)

    def _pass(self) -> None:
        self.clock.now_s += self.read_s
        self.calls += 1


@pytest.mark.parametrize("is_at_once", [True, False])
@pytest.mark.parametrize(("text", "is_slower"), [("auto", True), ("64MiB/s", False)])
def test_a_pace_measures_the_reads_of_the_primary(
    text: str, is_slower: bool, is_at_once: bool
) -> None:
    clock = ManualClock()
    device = SlowDevice(MIB, clock)

    def sleep(seconds: float) -> None:
        clock.now_s += seconds

    pace = CopyPace(parse_rates(text), clock, sleep)
    reader = pace.reads(device)
    ranges = RangeColumns.of((offset, MIB // 16) for offset in range(0, MIB, MIB // 16))
    memory = memoryview(bytearray(MIB))

    def copy(batches: int) -> int | None:
        for _ in range(batches):
            pace.wait(MIB, lambda: None)
            if is_at_once:
                reader.pread_ranges(ranges, memory)
            else:
                reader.pread(offset=0, length=MIB)
        return pace.rate_bytes_s()

    quiet = copy(150)
    device.read_s = 0.05
    busy = copy(50)
    assert quiet is not None and busy is not None
    assert (busy < quiet / 2) == is_slower
    assert device.calls == 200


def test_an_adaptive_rate_keeps_its_limit() -> None:
    clock = ManualClock()
    pace = CopyPace(parse_rates("auto:2MiB/s"), clock)
    assert pace.rate_bytes_s() == 2 * MIB
    assert CopyPace(parse_rates("auto"), clock).rate_bytes_s() == FIRST_BYTES_S
