"""Samples of what cycles wrote: with them a site finds a secondary that went back in time.

A cycle takes up to TAKEN samples of the ranges that it writes, each range with the same chance
(reservoir sampling, Li's algorithm L, which draws only for the ranges that are chosen). They are
saved with its position. Samples of earlier cycles stay beside them until the log names a block of
theirs as changed. When the site starts, it reads all samples of a secondary again: at most
MAX_SAMPLES * MAX_SAMPLE_BYTES, 4 MiB.

A sample that differs is explained if the log names a block of it as changed after the applied
position: a cycle that died may have written it, or a forked write. The batch that names a forked
write may come later, so with a fork the site waits until the log is settled after the read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum, auto
from random import Random
from typing import Final, NamedTuple

from mirrorlog.consumers.resync.cycle import is_settled
from mirrorlog.consumers.resync.cycle_steps import CycleInput
from mirrorlog.consumers.state.secondary_state import (
    MAX_SAMPLE_BYTES,
    MAX_SAMPLES,
    Sample,
    SecondaryState,
)
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice, Data
from mirrorlog.tracking_log.site_log import SiteLog

TAKEN: Final = 48
"""How many samples a cycle takes: it leaves room for samples of earlier cycles."""


class ChosenSample(NamedTuple):
    """A range of which a sample is to be taken. place: which of the taker's samples it becomes."""

    place: int
    offset: int
    length: int


class SampleTaker:
    """Takes samples of what one cycle writes. seed: draws them.

    Ranges are passed to choose() before they are written. take() is called in the same order, once
    they are.
    """

    def __init__(self, seed: str) -> None:
        self._random: Final = Random(seed)
        self._samples: Final[dict[int, Sample]] = {}
        self._seen = 0
        self._next = 0  # the first range that isn't drawn yet and is chosen
        self._weight = 1.0

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples taken so far."""
        return tuple(self._samples.values())

    def choose(self, *, offset: int, length: int) -> ChosenSample | None:
        """Return the part of the next range of which take() is to be called; None for no part.

        length: at least 1.
        """
        chosen = self.choose_of(1)
        return None if not chosen else self.part(chosen[0][1], offset=offset, length=length)

    def choose_of(self, count: int) -> list[tuple[int, int]]:
        """Return which of the next `count` ranges are chosen: (index, place of the sample).

        Call part() for each of them.
        """
        first, chosen = self._seen, []
        self._seen += count
        while self._next < self._seen:
            number = self._next
            place = number if number < TAKEN else self._random.randrange(TAKEN)
            chosen.append((number - first, place))
            self._next = number + 1 if number < TAKEN - 1 else number + self._gap()
        return chosen

    def part(self, place: int, *, offset: int, length: int) -> ChosenSample:
        """Return the part of a chosen range of which take() is to be called."""
        start = self._random.randrange(max(1, length - MAX_SAMPLE_BYTES + 1))
        return ChosenSample(place, offset + start, min(MAX_SAMPLE_BYTES, length - start))

    def _gap(self) -> int:
        """Draw after how many ranges the next one is chosen (algorithm L)."""
        self._weight *= math.exp(math.log(1 - self._random.random()) / TAKEN)
        return math.floor(math.log(1 - self._random.random()) / math.log1p(-self._weight)) + 1

    def take(self, chosen: ChosenSample, digest: str) -> None:
        """Take the sample. digest: sample_digest of what was written there."""
        self._samples[chosen.place] = Sample(chosen.offset, chosen.length, digest)


def differing_samples(device: BlockDevice, samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Return the samples that the device doesn't hold any more. Raise DeviceFailed."""
    return tuple(
        sample
        for sample in samples
        if sample_digest(device.pread(offset=sample.offset, length=sample.length)) != sample.digest
    )


def samples_without(
    samples: Iterable[Sample], changed: BlockSet, block_size: int
) -> tuple[Sample, ...]:
    """Return the samples that hold no block of `changed`."""
    return tuple(
        sample
        for sample in samples
        if not changed.range_cardinality(
            sample.offset // block_size,
            (sample.offset + sample.length - 1) // block_size + 1,
        )
    )


def joined_samples(new: Iterable[Sample], old: Iterable[Sample]) -> tuple[Sample, ...]:
    """Return the new samples, and as many of the old ones as a state has room for."""
    return tuple([*new, *old][:MAX_SAMPLES])


def moved_samples(
    volume: Volume, saved: SecondaryState | None, state: SecondaryState, log: SiteLog
) -> tuple[Sample, ...]:
    """Return the samples of `state` that hold when its position is saved after that of `saved`.

    What the log names as changed in between may have come by the fork.
    """
    if saved is None or saved.applied_position is None or state.applied_position is None:
        return state.samples
    changed = log.changed(after=saved.applied_position, through=state.applied_position)
    return samples_without(state.samples, changed, volume.block_size)


def samples_to_save(
    volume: Volume,
    saved: SecondaryState,
    state: SecondaryState,
    taken: Iterable[Sample],
    log: SiteLog,
) -> tuple[Sample, ...]:
    """Return the samples to save with `state`, which a journal brings after that of `saved`.

    They are those taken of what was staged, and those of earlier cycles that still hold.
    """
    older = moved_samples(volume, saved, replace(state, samples=saved.samples), log)
    return joined_samples(taken, older)


class SampleVerdict(Enum):
    """What differing samples prove."""

    NOTHING = auto()  # all are explained
    WAIT = auto()  # a forked write that isn't in the log yet may explain them
    WENT_BACK = auto()  # the secondary doesn't hold what was written to it


def judge_samples(
    unexplained: Iterable[Sample], *, is_forked: bool, settled: bool
) -> SampleVerdict:
    """Return what it means that samples differ.

    unexplained: those of which the log names no block as changed (samples_without).
    is_forked: hosts may write to the secondary. settled: the log holds all that they had written
    when the samples were read.
    """
    if not tuple(unexplained):
        return SampleVerdict.NOTHING
    return SampleVerdict.WAIT if is_forked and not settled else SampleVerdict.WENT_BACK


def verdict_of(
    differing: Iterable[Sample], known_position: int | None, cycle_input: CycleInput
) -> SampleVerdict:
    """Return what it means that samples differ, by the log after the known position."""
    log, through = cycle_input.log, cycle_input.watermark
    changed = BlockSet()
    if known_position is not None and through is not None:
        changed = log.changed(after=known_position, through=through)
    return judge_samples(
        samples_without(differing, changed, cycle_input.volume.block_size),
        is_forked=log.fork is not None,
        settled=through is not None and is_settled(cycle_input, through),
    )


def sample_digest(data: Data) -> str:
    """Return the digest that a sample keeps of its bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
