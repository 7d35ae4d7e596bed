"""Writes that another process has forked, until their outcomes are known (fork_links.py).

They have ended on the primary, and count as in flight. A group of them was collected at once. It
keeps its regions in the activity log until it is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final, TypeAlias

import numpy as np

from mirrorlog.domain.commands import ForkOutcome
from mirrorlog.producers.batches.batch import InFlightTuple, Outcomes
from mirrorlog.producers.batches.hot_regions import HotRegion
from mirrorlog.producers.forks.fork_spans import (
    OUTCOMES,
    ForkSpans,
    WriteFate,
    WriteFates,
    WriteNumbers,
    is_missed,
)

_FATE_BITS: Final = 2


@dataclass(frozen=True, slots=True)
class KnownWrites:
    """Writes whose outcomes are known, in the order in which they were collected.

    regions: those that they lie in, or more. is_last: the group is empty now, so that its regions
    needn't be kept for it any more.
    """

    writes: Sequence[InFlightTuple]
    outcomes: Sequence[Outcomes]
    regions: Collection[HotRegion]
    is_last: bool


@dataclass(slots=True, eq=False)
class _LinkedGroup:
    writes: list[InFlightTuple]
    numbers: WriteNumbers
    regions: Collection[HotRegion]


OnKnown: TypeAlias = Callable[[KnownWrites], None]


class LinkedWrites:
    """The writes of one volume with unknown outcomes. Every method needs the tracker's lock."""

    def __init__(self, spans: Mapping[str, ForkSpans], on_known: OnKnown) -> None:
        """Start without writes.

        spans: by site, those of each secondary; the caller changes them. on_known: takes writes
        whose outcomes are known.
        """
        self._spans: Final = spans
        self._on_known: Final = on_known
        self._groups: list[_LinkedGroup] = []

    def add(
        self, writes: list[InFlightTuple], numbers: WriteNumbers, regions: Collection[HotRegion]
    ) -> dict[str, WriteFates]:
        """Add a group of writes. Return their fates by site; resolve() must follow."""
        self._groups.append(_LinkedGroup(writes, numbers, regions))
        return {site: spans.fates(numbers) for site, spans in self._spans.items()}

    def resolve(self) -> None:
        """Pass on the writes whose outcomes have become known."""
        groups, self._groups = self._groups, []
        for group in groups:
            if rest := self._resolve(group):
                self._groups.append(rest)
        if not self._groups:
            for spans in self._spans.values():
                spans.forget()

    def missed_at(self, site: str, *, since: int) -> InFlightTuple | None:
        """Return a write that this secondary misses, of those with numbers from `since` on.

        None if there is none.
        """
        for group in reversed(self._groups):
            fates = self._spans[site].fates(group.numbers)
            indexes = np.flatnonzero(is_missed(fates) & (group.numbers >= since)).tolist()
            if indexes:
                return group.writes[indexes[-1]]
        return None

    def has_open(self, below: int) -> bool:
        """Return whether the outcome of a write below this number is open at any secondary."""
        return any(
            bool(np.any((spans.fates(group.numbers) == WriteFate.OPEN) & (group.numbers < below)))
            for group in self._groups
            for spans in self._spans.values()
        )

    def outcomes(self) -> dict[int, Outcomes]:
        """Return the outcomes known now of all writes, by the identity of the write."""
        return {
            id(write): outcomes
            for group in self._groups
            for write, outcomes in zip(
                group.writes, self._outcomes(self._fates(group)), strict=True
            )
        }

    def _fates(self, group: _LinkedGroup) -> list[WriteFates]:
        return [spans.fates(group.numbers) for spans in self._spans.values()]

    def _resolve(self, group: _LinkedGroup) -> _LinkedGroup | None:
        """Pass on the writes of the group that are known, and return a group of the others."""
        fates = self._fates(group)
        is_known = np.ones(len(group.writes), np.bool_)
        for of_site in fates:
            is_known &= (of_site == WriteFate.MISSED) | (of_site == WriteFate.HAS)
        if is_known.all():
            self._on_known(
                KnownWrites(group.writes, list(self._outcomes(fates)), group.regions, is_last=True)
            )
            return None
        if not is_known.any():
            return group
        known = list(compress(group.writes, is_known))
        outcomes = list(self._outcomes([of_site[is_known] for of_site in fates]))
        self._on_known(KnownWrites(known, outcomes, group.regions, is_last=False))
        rest = list(compress(group.writes, ~is_known))
        return _LinkedGroup(rest, group.numbers[~is_known], group.regions)

    def _outcomes(self, fates: Sequence[WriteFates]) -> Iterator[Outcomes]:
        """Yield the outcomes of each write. Writes with the same ones share one object."""
        codes = np.zeros(len(fates[0]), np.uint64)
        for index, of_site in enumerate(fates):
            codes |= of_site.astype(np.uint64) << np.uint64(index * _FATE_BITS)
        by_code = {code: self._decoded(code) for code in np.unique(codes).tolist()}
        return map(by_code.__getitem__, codes.tolist())

    def _decoded(self, code: int) -> Outcomes:
        outcomes = {
            site: OUTCOMES[code >> index * _FATE_BITS & (1 << _FATE_BITS) - 1]
            for index, site in enumerate(self._spans)
        }
        missed = ForkOutcome.MISSED
        return {site: outcome for site, outcome in outcomes.items() if outcome is not missed}
