"""Makes one map without gaps of what file systems claim: ranges, which may overlap.

They overlap where files share blocks (hard links of attributes, reflinks), and in damaged file
systems. Of two claims in one tier, each keeps its range, and the part in common belongs to both.
Claims of a lower tier only get what the tiers above leave: `free` is such a claim.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

MAX_SHARERS: Final = 8
"""More files than this in one range aren't listed: that is a damaged or hostile file system."""


@dataclass
class Claims:
    """Ranges and their owners, in three columns that grow: bytes, bytes, numbers of owners."""

    _columns: list[tuple[Int64s, Int64s, Int64s]] = field(default_factory=list)
    _single: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, start: int, length: int, owner: int) -> None:
        """Add a range."""
        if length > 0:
            self._single.append((start, length, owner))

    def add_all(self, starts: Int64s, lengths: Int64s, owner: int) -> None:
        """Add many ranges of one owner, all longer than 0."""
        if len(starts):
            self._columns.append((starts, lengths, np.full(len(starts), owner, np.int64)))

    def columns(self) -> tuple[Int64s, Int64s, Int64s]:
        """Return starts, ends and owners, ordered by start."""
        single = np.array(self._single, np.int64).reshape(-1, 3)
        parts = [*self._columns, (single[:, 0], single[:, 1], single[:, 2])]
        starts, lengths, owners = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((owners, starts + lengths, starts))
        return starts[order], (starts + lengths)[order], owners[order]


@dataclass(frozen=True)
class Segments:
    """Ranges that don't overlap, ascending.

    owners: the number of the owner; or of a group of owners, where several have the range.
    """

    starts: Int64s
    ends: Int64s
    owners: Int64s


@dataclass
class OwnerGroups:
    """Numbers the sets of owners that have ranges in common.

    owner_count: the number of owners. The first group has this number, and the next one more.
    crowd: the owner of ranges that more than MAX_SHARERS claim.
    """

    owner_count: int
    crowd: int
    numbers: dict[tuple[int, ...], int] = field(default_factory=dict)

    def number_of(self, owners: Collection[int]) -> int:
        """Return the number of the owner, or of the group."""
        if len(owners) == 1:
            return next(iter(owners))
        if len(owners) > MAX_SHARERS:
            return self.crowd
        group = tuple(sorted(owners))
        return self.owner_count + self.numbers.setdefault(group, len(self.numbers))


def disjoint(claims: Claims, groups: OwnerGroups) -> Segments:
    """Return the claims of one tier without overlaps. Who has a range in common joins `groups`."""
    starts, ends, owners = claims.columns()
    reached = np.maximum.accumulate(np.concatenate(([np.iinfo(np.int64).min], ends)))[:-1]
    is_clash = starts < reached
    if not is_clash.any():
        return Segments(starts, ends, owners)
    # A cluster is a longest row of claims in which each begins before what is left of it ends.
    cluster = np.cumsum(~is_clash)
    _, firsts, counts = np.unique(cluster, return_index=True, return_counts=True)
    rows: list[tuple[int, int, int]] = []
    is_alone = np.repeat(counts == 1, counts)
    for first, count in zip(firsts[counts > 1], counts[counts > 1], strict=True):
        part = slice(int(first), int(first + count))
        rows += _pieces(starts[part], ends[part], owners[part], groups)
    split = np.array(rows, np.int64).reshape(-1, 3)
    all_starts = np.concatenate((starts[is_alone], split[:, 0]))
    order = np.argsort(all_starts, kind="stable")
    return Segments(
        all_starts[order],
        np.concatenate((ends[is_alone], split[:, 1]))[order],
        np.concatenate((owners[is_alone], split[:, 2]))[order],
    )


def _pieces(
    starts: Int64s, ends: Int64s, owners: Int64s, groups: OwnerGroups
) -> Iterator[tuple[int, int, int]]:
    """Yield the pieces (start, end, owner) of claims, cut where any of them begins or ends."""
    begins = [(int(start), 1, int(owner)) for start, owner in zip(starts, owners, strict=True)]
    finishes = [(int(end), -1, int(owner)) for end, owner in zip(ends, owners, strict=True)]
    active: dict[int, int] = {}
    before = begins[0][0]
    for at, step, owner in sorted(begins + finishes):
        if at > before and active:
            yield before, at, groups.number_of(active)
        before = at
        active[owner] = active.get(owner, 0) + step
        if not active[owner]:
            del active[owner]


def fill(edges: tuple[Int64s, Int64s], tiers: Sequence[Segments]) -> tuple[Int64s, Int64s, Int64s]:
    """Return starts, ends and owners of the ranges of all tiers; a later one gets what is left.

    edges: starts and ends within which everything lies; a range outside is cut off.
    """
    free_starts, free_ends = edges
    columns: list[tuple[Int64s, Int64s, Int64s]] = []
    for tier in tiers:
        taken = intersect(tier.starts, tier.ends, free_starts, free_ends)
        columns.append((taken[0], taken[1], tier.owners[taken[2]]))
        free_starts, free_ends = subtract(free_starts, free_ends, taken[0], taken[1])
    starts, ends, owners = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.argsort(starts, kind="stable")
    return starts[order], ends[order], owners[order]


def intersect(
    starts: Int64s, ends: Int64s, other_starts: Int64s, other_ends: Int64s
) -> tuple[Int64s, Int64s, Int64s]:
    """Return what two ascending lists of disjoint ranges have in common, cut at all edges.

    Returns starts, ends and the place in the first list from which each range is.
    """
    first = np.searchsorted(other_ends, starts, "right")
    last = np.searchsorted(other_starts, ends, "left")
    counts = np.maximum(last - first, 0)
    rows = np.repeat(np.arange(len(starts)), counts)
    if not len(rows):
        empty = np.empty(0, np.int64)
        return empty, empty, empty
    offsets = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    others = first[rows] + offsets
    return (
        np.maximum(starts[rows], other_starts[others]),
        np.minimum(ends[rows], other_ends[others]),
        rows,
    )


def subtract(
    starts: Int64s, ends: Int64s, taken_starts: Int64s, taken_ends: Int64s
) -> tuple[Int64s, Int64s]:
    """Return what ascending disjoint ranges leave of other such ranges, inside which they lie."""
    low = np.concatenate((starts, taken_ends))
    high = np.concatenate((taken_starts, ends))
    low.sort()
    high.sort()
    is_left = high > low
    return low[is_left], high[is_left]
