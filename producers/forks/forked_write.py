"""Forked writes with one fate, and what became of them at each secondary."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mirrorlog.domain.commands import ForkOutcome
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.producers.batches.batch import InFlightTuple, Outcomes
from mirrorlog.producers.batches.hot_regions import HotRegion
from mirrorlog.producers.forks.fork_plans import ForkMode

MAX_OPEN_WRITES: Final = 16_384
"""Limit of the writes of one secondary with an unknown outcome: one command must hold them all."""


@dataclass(slots=True, eq=False)
class ForkedWrites:
    """Writes that have ended on the primary. Its methods need the tracker's lock.

    There is one, unless the writes were lock-free: those that are collected together have one fate.
    A secondary that misses one of them then counts as missing all.

    writes: in the order in which they ended. regions: those that they lie in, each once for each
    time that it is counted in `HotRegion.in_flight`.
    The sets hold names of sites. open: the outcome isn't known. unreached: those of `open` that
    the writes haven't reached. hung: the call may still take effect. has: the secondary has the
    writes, durably. reached: the number of secondaries that the writes have reached.
    """

    writes: Sequence[InFlightTuple]
    regions: Sequence[HotRegion]
    open: set[str] = field(default_factory=set)
    unreached: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)
    has: set[str] = field(default_factory=set)
    reached: int = 0

    def note_queued(self, site: str) -> None:
        """Note that the writes wait in the queue of this secondary."""
        self.open.add(site)
        self.unreached.add(site)

    def note_reached(self, site: str) -> None:
        """Note that the secondary has taken the writes. They aren't durable there yet."""
        self.unreached.discard(site)
        self.reached += 1

    def note_flushed(self, site: str) -> None:
        """Note that the secondary has the writes, durably."""
        self.open.discard(site)
        self.has.add(site)

    def note_hung(self, site: str) -> None:
        """Note that the secondary left the fork while the call that writes there is running."""
        self.hung.add(site)

    def note_returned(self, site: str) -> None:
        """Note that a call noted as hung has returned."""
        self.hung.discard(site)

    def note_missed(self, site: str) -> None:
        """Note that the secondary misses the writes. A hung call may still take effect there."""
        self.open.discard(site)
        self.unreached.discard(site)

    @property
    def is_known(self) -> bool:
        """Return whether every outcome is known."""
        return not self.open and not self.hung

    def satisfies(self, mode: ForkMode) -> bool:
        """Return whether the writes may be acknowledged to the writer.

        A secondary that is out of the fork makes no writer wait.
        """
        return not self.unreached or self.reached >= mode.waits_for

    def outcomes(self) -> Outcomes:
        """Return the outcomes known now, by site. A site that isn't in it has missed the writes."""
        return {
            **dict.fromkeys(self.has, ForkOutcome.HAS),
            **dict.fromkeys(self.open, ForkOutcome.OPEN),
        }


def is_queue_full(
    mode: ForkMode, *, queued_bytes: int, open_writes: int, size_bytes: int, limit_bytes: int
) -> bool:
    """Return True if a secondary must leave the fork because it has no room for more writes.

    queued_bytes: the data that waits for it. open_writes: its writes with an unknown outcome.
    size_bytes: the data of the next writes. limit_bytes: the limit of `queued_bytes`; if nothing
    waits, any size is taken.
    """
    if open_writes >= MAX_OPEN_WRITES:
        return True
    return not mode.blocks_writer and queued_bytes > 0 and queued_bytes + size_bytes > limit_bytes


def held_back_writes(held_back: Iterable[tuple[int, int]], at_us: int) -> list[InFlightTuple]:
    """Return held-back ranges, (offset, length), as writes in flight (MissedWrites.held_back)."""
    return [(ExtentKind.WRITE, offset, length, at_us, ()) for offset, length in held_back]


def outcomes_in_flight(
    writes: Iterable[InFlightTuple],
    forked_writes: Mapping[int, ForkedWrites],
    sites_in: Collection[str],
) -> list[Outcomes]:
    """Return the outcomes of writes that are in flight. Those with one fate share one object.

    forked_writes: by the identity of each write. A write that isn't there is on its way to the
    primary: its outcome is open for all secondaries in the fork, `sites_in`.
    """
    on_primary: Outcomes = dict.fromkeys(sites_in, ForkOutcome.OPEN)
    fates = [forked_writes.get(id(write)) for write in writes]
    by_fate = {forked: forked.outcomes() for forked in set(fates) if forked is not None}
    return [on_primary if forked is None else by_fate[forked] for forked in fates]
