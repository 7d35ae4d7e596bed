"""Samples of what cycles wrote: bounded, drawn fairly, and explained by the log or not."""

from __future__ import annotations

from collections import Counter

import pytest

from mirrorlog.consumers.resync.samples import (
    TAKEN,
    SampleTaker,
    SampleVerdict,
    differing_samples,
    joined_samples,
    judge_samples,
    sample_digest,
    samples_without,
)
from mirrorlog.consumers.state.secondary_state import MAX_SAMPLE_BYTES, MAX_SAMPLES, Sample
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.ports.devices import Data
from mirrorlog.simulation.memory_devices import MemoryDevice

BLOCK = 4096


def samples_at(*blocks: int) -> tuple[Sample, ...]:
    return tuple(Sample(block * BLOCK, BLOCK, "ab" * 16) for block in blocks)


def take(taker: SampleTaker, offset: int, data: Data) -> None:
    chosen = taker.choose(offset=offset, length=len(data))
    if chosen is not None:
        start = chosen.offset - offset
        taker.take(chosen, sample_digest(data[start : start + chosen.length]))


def test_what_was_written_is_found_again_and_older_contents_are_not() -> None:
    device, taker = MemoryDevice(8 << 20), SampleTaker("seed")
    device.pwrite(0, bytes(range(256)) * 16)
    before = device.pread(offset=0, length=8 << 20)
    device.pwrite(0, b"new" * 1000)
    take(taker, 0, memoryview(b"new" * 1000))
    device.pwrite(1 << 20, b"x" * (3 << 20))
    take(taker, 1 << 20, b"x" * (3 << 20))
    take(taker, 5 << 20, bytes(3 << 20))
    assert len(taker.samples) == 3
    assert all(sample.length <= MAX_SAMPLE_BYTES for sample in taker.samples)
    assert differing_samples(device, taker.samples) == ()
    device.pwrite(0, before)
    assert differing_samples(device, taker.samples) == taker.samples[:2]
    device.pwrite(5 << 20, b"y" * (3 << 20))
    assert differing_samples(device, taker.samples) == taker.samples


def test_each_range_of_a_long_cycle_has_about_the_same_chance() -> None:
    counts: Counter[int] = Counter()
    for seed in range(200):
        taker = SampleTaker(str(seed))
        for block in range(4 * TAKEN):
            take(taker, block * BLOCK, b"a")
        assert len(taker.samples) == TAKEN
        counts.update(sample.offset // BLOCK for sample in taker.samples)
    assert len(counts) == 4 * TAKEN
    assert min(counts.values()) > 20 and max(counts.values()) < 90  # 50 expected


def test_old_samples_stay_while_there_is_room_and_nothing_changed_them() -> None:
    old, new = samples_at(*range(MAX_SAMPLES)), samples_at(*range(100, 100 + TAKEN))
    assert joined_samples(new, old) == new + old[: MAX_SAMPLES - TAKEN]
    assert samples_without(old, BlockSet([3, 5]), BLOCK) == old[:3] + old[4:5] + old[6:]
    assert samples_without([Sample(BLOCK - 1, 2, "ab" * 16)], BlockSet([1]), BLOCK) == ()
    assert samples_without([Sample(0, BLOCK, "ab" * 16)], BlockSet([1]), BLOCK) == old[:1]


@pytest.mark.parametrize(
    ("unexplained", "is_forked", "settled", "verdict"),
    [
        (0, False, False, SampleVerdict.NOTHING),
        (0, True, True, SampleVerdict.NOTHING),
        (1, False, False, SampleVerdict.WENT_BACK),
        (1, False, True, SampleVerdict.WENT_BACK),
        (1, True, False, SampleVerdict.WAIT),
        (1, True, True, SampleVerdict.WENT_BACK),
    ],
)
def test_what_differing_samples_mean(
    unexplained: int, is_forked: bool, settled: bool, verdict: SampleVerdict
) -> None:
    samples = samples_at(*range(unexplained))
    assert judge_samples(samples, is_forked=is_forked, settled=settled) is verdict
