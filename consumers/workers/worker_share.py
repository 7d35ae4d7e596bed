"""WorkerShare: the partitions that a worker of a site has locked, and those that it should have."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from mirrorlog.consumers.workers.partition_owners import partition_owners
from mirrorlog.consumers.workers.worker_locks import WorkerLocks
from mirrorlog.ports.clock import Clock

_LOOK_S: Final = 0.5
"""How often a worker looks which others live."""
_LOOK_FREE_S: Final = 5.0
"""How often it looks for partitions that nobody has locked."""


class WorkerShare:
    """PartitionShare of one worker, by its locks.

    Attributes that any thread may read: partition_count, as it was at the last look; None before
    the first. taken, given_back: how many partitions were locked and given back since the start.
    without_worker: the partitions that no worker had locked at the last two looks for that; None
    before these.
    """

    def __init__(
        self, locks: WorkerLocks, clock: Clock, partition_count: Callable[[], int]
    ) -> None:
        """Begin without a partition.

        locks: of the worker, with its slot. partition_count: returns how many partitions there are.
        """
        self._locks, self._clock, self._partition_count = locks, clock, partition_count
        self.slot: Final = locks.lock_slot()
        self._held: frozenset[int] = frozenset()
        self._wanted: frozenset[int] = frozenset()
        self._live: frozenset[int] = frozenset((self.slot,))
        self.partition_count: int | None = None
        self.taken = self.given_back = 0
        self.without_worker: frozenset[int] | None = None
        self._free: frozenset[int] | None = None
        self._free_at_s = float("-inf")
        self._looked_at_s = float("-inf")

    @property
    def held(self) -> frozenset[int]:
        """The partitions that are locked. Any thread may read it."""
        return self._held

    def is_held(self, partition: int) -> bool:
        """Return whether the worker has locked the partition. Any thread may call it."""
        return partition in self._held

    def worker_count(self) -> int:
        """Return how many workers lived at the last look, this one among them."""
        return len(self._live)

    def rank(self) -> int:
        """Return how many workers with lower slots lived at the last look."""
        return sum(slot < self.slot for slot in self._live)

    def surplus(self) -> frozenset[int]:
        """Return the partitions that are locked and that another worker is to have."""
        self._look()
        return self._held - self._wanted

    def give_back(self, partitions: Collection[int]) -> None:
        """Unlock partitions."""
        self._held -= frozenset(partitions)
        self.given_back += len(partitions)
        for partition in partitions:
            self._locks.unlock_partition(partition)

    def take(self) -> frozenset[int]:
        """Lock what is free of the share. Return the partitions that weren't locked before."""
        self._look()
        taken = frozenset(
            partition
            for partition in sorted(self._wanted - self._held)
            if self._locks.lock_partition(partition)
        )
        self._held |= taken
        self.taken += len(taken)
        return taken

    def _look(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_at_s < _LOOK_S:
            return
        self._looked_at_s = now_s
        self._live = self._locks.live_slots() | {self.slot}
        count = self.partition_count = self._partition_count()
        owners = partition_owners(count, self._live)
        self._wanted = frozenset(
            partition for partition, slot in enumerate(owners) if slot == self.slot
        )
        if now_s - self._free_at_s >= _LOOK_FREE_S:
            self._look_for_free(now_s, count)

    def _look_for_free(self, now_s: float, count: int) -> None:
        """Look which partitions nobody has locked. A handover takes less than the time between."""
        self._free_at_s = now_s
        before, self._free = self._free, self._locks.free_partitions(count)
        self.without_worker = None if before is None else before & self._free
