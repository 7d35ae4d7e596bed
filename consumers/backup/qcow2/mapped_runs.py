"""Which parts of a volume lie where in the files of a chain, as runs of bytes. Pure.

What no run covers is unallocated: the image below has it, or it is zeros if there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.backup.qcow2.unit_runs import Numbers, Runs, covering, distinct, merged

BEHIND_ANY_END: Final = 1 << 62


class RunKind(IntEnum):
    """What an image says of a run.

    DATA: its bytes lie in the file from `places` on. ZEROS: it reads as zeros, whatever lies below.
    COMPRESSED: a cluster or a part of it; `places` holds its descriptor.
    """

    DATA = 1
    ZEROS = 2
    COMPRESSED = 3


@dataclass(frozen=True, slots=True)
class MappedRuns:
    """Disjoint ascending runs [starts, ends) of bytes. Arrays of equal length.

    kinds: RunKind. places: offsets in the file, or descriptors; 0 for zeros. layers: the numbers
    of the files; 0 for zeros.
    """

    starts: Numbers
    ends: Numbers
    kinds: npt.NDArray[np.uint8]
    places: Numbers
    layers: Numbers

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of(cls, starts: Numbers, ends: Numbers, kind: RunKind, places: Numbers) -> MappedRuns:
        """Return runs of one kind in the file 0. They are ascending."""
        count = len(starts)
        kinds = np.full(count, kind, np.uint8)
        return cls(starts, ends, kinds, places, np.zeros(count, np.int64))

    def where(self, chosen: npt.NDArray[np.bool_] | Numbers) -> MappedRuns:
        """Return the runs for which `chosen` is true, or of these indexes."""
        return MappedRuns(
            self.starts[chosen],
            self.ends[chosen],
            self.kinds[chosen],
            self.places[chosen],
            self.layers[chosen],
        )

    def in_layer(self, layer: int) -> MappedRuns:
        """Return the runs as those of the file `layer`."""
        layers = np.where(self.kinds == RunKind.ZEROS, 0, layer)
        return MappedRuns(self.starts, self.ends, self.kinds, self.places, layers)

    def clipped(self, start: int, end: int) -> MappedRuns:
        """Return the parts of the runs inside [start, end)."""
        runs = self.where((self.starts < end) & (self.ends > start))
        starts = np.maximum(runs.starts, start)
        places = np.where(
            runs.kinds == RunKind.DATA, runs.places + starts - runs.starts, runs.places
        )
        return MappedRuns(starts, np.minimum(runs.ends, end), runs.kinds, places, runs.layers)

    def of_kind(self, *kinds: RunKind) -> Runs:
        """Return the bytes of the runs of these kinds."""
        runs = self.where(np.isin(self.kinds, kinds))
        return merged(Runs(runs.starts, runs.ends))

    def joined(self) -> MappedRuns:
        """Return the same with neighbours that continue each other as one run."""
        if len(self) < 2:
            return self
        is_data = self.kinds == RunKind.DATA
        continues = (
            (self.starts[1:] == self.ends[:-1])
            & (self.kinds[1:] == self.kinds[:-1])
            & (self.layers[1:] == self.layers[:-1])
            & (self.kinds[1:] != RunKind.COMPRESSED)
            & (self.places[1:] - self.places[:-1] == np.where(is_data, _lengths(self), 0)[:-1])
        )
        is_first = np.concatenate(([True], ~continues))
        runs = self.where(is_first)
        ends = self.ends[np.concatenate((~continues, [True]))]
        return MappedRuns(runs.starts, ends, runs.kinds, runs.places, runs.layers)


def concatenate(pieces: Sequence[MappedRuns]) -> MappedRuns:
    """Return all runs, ascending. The pieces don't overlap."""
    if not pieces:
        none = np.empty(0, np.int64)
        return MappedRuns(none, none, none.astype(np.uint8), none, none)
    runs = MappedRuns(
        np.concatenate([piece.starts for piece in pieces]),
        np.concatenate([piece.ends for piece in pieces]),
        np.concatenate([piece.kinds for piece in pieces]),
        np.concatenate([piece.places for piece in pieces]),
        np.concatenate([piece.layers for piece in pieces]),
    )
    return runs.where(np.argsort(runs.starts, kind="stable")).joined()


def overlay(upper: MappedRuns, lower: MappedRuns) -> MappedRuns:
    """Return what is seen through both: `upper` where it has a run, otherwise `lower`."""
    edges = distinct(upper.starts, upper.ends, lower.starts, lower.ends)
    firsts, ends = edges[:-1], edges[1:]
    by_upper = covering(upper.starts, upper.ends, firsts)
    by_lower = covering(lower.starts, lower.ends, firsts)
    from_upper = by_upper >= 0
    from_lower = ~from_upper & (by_lower >= 0)
    return concatenate(
        [
            _cut(upper, by_upper[from_upper], firsts[from_upper], ends[from_upper]),
            _cut(lower, by_lower[from_lower], firsts[from_lower], ends[from_lower]),
        ]
    )


def chain_runs(layers: Sequence[MappedRuns], sizes_bytes: Sequence[int]) -> MappedRuns:
    """Return what is seen through the images of a chain, the newest first.

    Behind the end of an image below the newest, everything is zeros, also where an older image is
    longer (specification, "Cluster mapping": a backing file that is smaller).
    """
    views = []
    for layer, (runs, size_bytes) in enumerate(zip(layers, sizes_bytes, strict=True)):
        view = runs.in_layer(layer).clipped(0, size_bytes)
        if layer:
            view = concatenate([view, _zeros(size_bytes, BEHIND_ANY_END)])
        views.append(view)
    while len(views) > 1:  # neighbours first: each run takes part in few overlays
        pairs = [overlay(*views[at : at + 2]) for at in range(0, len(views) - 1, 2)]
        views = pairs + views[2 * len(pairs) :]
    return views[0].clipped(0, sizes_bytes[0])


def _zeros(start: int, end: int) -> MappedRuns:
    one = np.zeros(1, np.int64)
    return MappedRuns.of(one + start, one + end, RunKind.ZEROS, one)


def _cut(runs: MappedRuns, indexes: Numbers, starts: Numbers, ends: Numbers) -> MappedRuns:
    """Return the parts [starts, ends) of the runs of these indexes."""
    chosen = runs.where(indexes)
    shift = np.where(chosen.kinds == RunKind.DATA, starts - chosen.starts, 0)
    return MappedRuns(starts, ends, chosen.kinds, chosen.places + shift, chosen.layers)


def _lengths(runs: MappedRuns) -> Numbers:
    return runs.ends - runs.starts
