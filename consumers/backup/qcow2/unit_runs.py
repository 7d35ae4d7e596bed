"""Which units of an image are data or zeros, as runs and as the masks of clusters. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.backup.qcow2.format import UNIT_BYTES
from mirrorlog.domain.bitmaps import BlockSet

Numbers: TypeAlias = npt.NDArray[np.int64]
Masks: TypeAlias = npt.NDArray[np.uint32]
"""One bit for each unit of a cluster; bit 0 is the first unit."""
CLUSTER_UNITS: Final = 32
"""The units of a cluster that has subclusters."""
_OCTET_BITS: Final = np.array([octet.bit_count() for octet in range(256)], np.int64)


@dataclass(frozen=True, slots=True)
class Runs:
    """Disjoint ascending runs [first, end) of units or of clusters. Arrays of equal length."""

    firsts: Numbers
    ends: Numbers

    def __len__(self) -> int:
        return len(self.firsts)

    @property
    def total(self) -> int:
        """The units or clusters of all runs."""
        return int((self.ends - self.firsts).sum())

    def between(self, first: int, end: int) -> Runs:
        """Return the parts of the runs inside [first, end)."""
        part = slice(
            int(np.searchsorted(self.ends, first, "right")),
            int(np.searchsorted(self.firsts, end, "left")),
        )
        return Runs(np.maximum(self.firsts[part], first), np.minimum(self.ends[part], end))

    def numbers(self) -> Numbers:
        """Return every unit or cluster of the runs, ascending."""
        counts = self.ends - self.firsts
        starts = np.cumsum(counts) - counts
        return np.repeat(self.firsts - starts, counts) + np.arange(int(counts.sum()))


def runs_of(blocks: BlockSet) -> Runs:
    """Return the runs of blocks."""
    pieces = list(blocks.run_arrays())
    if not pieces:
        return Runs(np.empty(0, np.int64), np.empty(0, np.int64))
    return Runs(
        np.concatenate([firsts for firsts, _ in pieces]).astype(np.int64),
        np.concatenate([ends for _, ends in pieces]).astype(np.int64),
    )


def units_of(
    data: BlockSet, zeros: BlockSet, *, block_size: int, size_bytes: int
) -> tuple[Runs, Runs]:
    """Return the units that are data, and those that are zeros.

    A block in both sets is data. Data is rounded outwards to units and zeros inwards (invariant 4):
    a unit of which a part is zeros is data, whose bytes the source has. Nothing lies behind the
    unit that holds the volume's last byte.
    """
    zeros = zeros - data
    units = -(-size_bytes // UNIT_BYTES)
    data_runs = runs_of(data)
    zero_runs = runs_of(zeros)
    if block_size < UNIT_BYTES:
        per_unit = UNIT_BYTES // block_size
        blocks = -(-size_bytes // block_size)
        reaches_end = zero_runs.ends >= blocks
        zero_ends = np.where(reaches_end, units, zero_runs.ends // per_unit)
        zero_firsts = -(-zero_runs.firsts // per_unit)
        whole = zero_ends > zero_firsts
        whole_zeros = Runs(zero_firsts[whole], zero_ends[whole])
        touched = merged(
            Runs(
                np.concatenate((data_runs.firsts, zero_runs.firsts)) // per_unit,
                -(-np.concatenate((data_runs.ends, zero_runs.ends)) // per_unit),
            )
        )
        data_units = merged(Runs(data_runs.firsts // per_unit, -(-data_runs.ends // per_unit)))
        zero_units = without(whole_zeros, data_units)
        return without(touched, zero_units).between(0, units), zero_units.between(0, units)
    scale = block_size // UNIT_BYTES
    return (
        Runs(data_runs.firsts * scale, data_runs.ends * scale).between(0, units),
        Runs(zero_runs.firsts * scale, zero_runs.ends * scale).between(0, units),
    )


def merged(runs: Runs) -> Runs:
    """Return the union of runs that may overlap, be empty, and be in any order."""
    order = np.argsort(runs.firsts, kind="stable")
    firsts, ends = runs.firsts[order], np.maximum.accumulate(runs.ends[order])
    if not len(firsts):
        return Runs(firsts, ends)
    starts_run = np.concatenate(([True], firsts[1:] > ends[:-1]))
    ends_run = np.concatenate((starts_run[1:], [True]))
    return Runs(firsts[starts_run], ends[ends_run])


def without(runs: Runs, removed: Runs) -> Runs:
    """Return what is in `runs` and not in `removed`. Both are disjoint and ascending."""
    edges = distinct(runs.firsts, runs.ends, removed.firsts, removed.ends)
    firsts, ends = edges[:-1], edges[1:]
    kept = (covering(runs.firsts, runs.ends, firsts) >= 0) & (
        covering(removed.firsts, removed.ends, firsts) < 0
    )
    return merged(Runs(firsts[kept], ends[kept]))


def distinct(*numbers: Numbers) -> Numbers:
    """Return each number once, ascending. np.unique hashes them, which takes far longer."""
    ordered = np.sort(np.concatenate(numbers))
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(ordered)]]


def covering(firsts: Numbers, ends: Numbers, numbers: Numbers) -> Numbers:
    """Return for each number the index of the run [first, end) in which it lies, or -1.

    The runs are disjoint and ascending.
    """
    if not len(firsts):
        return np.full(len(numbers), -1, np.int64)
    at = np.searchsorted(firsts, numbers, "right") - 1
    return np.where((at >= 0) & (numbers < ends[np.maximum(at, 0)]), at, -1)


@dataclass(frozen=True, slots=True)
class ClusterMasks:
    """Runs of units as whole clusters and as parts of clusters.

    whole: runs of clusters. parts: the clusters of which some units are in the set, ascending.
    masks: which.
    """

    whole: Runs
    parts: Numbers
    masks: Masks


def clusters_of(units: Runs) -> ClusterMasks:
    """Return the clusters of CLUSTER_UNITS units that hold the units."""
    first_clusters = units.firsts // CLUSTER_UNITS
    last_clusters = (units.ends - 1) // CLUSTER_UNITS
    whole = Runs(-(-units.firsts // CLUSTER_UNITS), units.ends // CLUSTER_UNITS)
    is_whole = whole.ends > whole.firsts
    is_inside = first_clusters == last_clusters
    has_head = (units.firsts % CLUSTER_UNITS != 0) | (is_inside & ~is_whole)
    has_tail = (units.ends % CLUSTER_UNITS != 0) & ~is_inside
    head_ends = np.minimum(units.ends, (first_clusters + 1) * CLUSTER_UNITS)
    clusters = np.concatenate((first_clusters[has_head], last_clusters[has_tail]))
    masks = np.concatenate(
        (
            _bits(units.firsts[has_head] % CLUSTER_UNITS, (head_ends - units.firsts)[has_head]),
            _bits(np.zeros(int(has_tail.sum()), np.int64), units.ends[has_tail] % CLUSTER_UNITS),
        )
    )
    parts, united = unite_masks(clusters, masks)
    return ClusterMasks(Runs(whole.firsts[is_whole], whole.ends[is_whole]), parts, united)


def unite_masks(clusters: Numbers, masks: Masks) -> tuple[Numbers, Masks]:
    """Return each cluster once, ascending, with the union of its masks."""
    if not len(clusters):
        return clusters, masks
    order = np.argsort(clusters, kind="stable")
    clusters, masks = clusters[order], masks[order]
    starts = np.flatnonzero(np.concatenate(([True], clusters[1:] != clusters[:-1])))
    return clusters[starts], np.bitwise_or.reduceat(masks, starts).astype(np.uint32)


def _bits(firsts: Numbers, counts: Numbers) -> Masks:
    """Return masks with `counts` bits (0 to 32) from bit `firsts` on."""
    one = np.uint64(1)
    return (((one << counts.astype(np.uint64)) - one) << firsts.astype(np.uint64)).astype(np.uint32)


def popcounts(masks: Masks) -> npt.NDArray[np.int64]:
    """Return the number of units in each mask."""
    octets = np.ascontiguousarray(masks.astype("<u4")).view(np.uint8).reshape(-1, 4)
    counts: Numbers = _OCTET_BITS[octets].sum(axis=1)
    return counts


def mask_runs(masks: Masks) -> tuple[Numbers, Numbers, Numbers]:
    """Return the runs [first, end) of units in masks: index of the mask, first, end. Ascending."""
    octets = np.ascontiguousarray(masks.astype("<u4")).view(np.uint8).reshape(-1, 4)
    bits = np.unpackbits(octets, axis=1, bitorder="little")
    edges = np.diff(np.pad(bits, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    indexes, firsts = np.nonzero(edges == 1)
    return indexes, firsts, np.nonzero(edges == -1)[1]
